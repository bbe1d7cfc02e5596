"""A shop's backend on the standard library alone; its pages do not wait for tracking.

python wsgi_shop.py http://localhost:8080 8000
"""

from __future__ import annotations

import html
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import make_server

from ledstream_client import Client, Event, LedstreamError, Sender

Start = Callable[[str, list[tuple[str, str]]], object]


class Shop:
    """/ITEM shows an item to the user of ?user=, and what goes with it."""

    def __init__(self, client: Client, sender: Sender) -> None:
        self._client, self._sender = client.within(0.3), sender

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        item, user = environ["PATH_INFO"].strip("/") or "hat-01", environ["QUERY_STRING"].partition("user=")[2] or "ana"
        self._sender.track(Event(user, item, "view"))
        try:
            shown = [found.item_id for found in self._client.recommend(user, k=4).items]
        except LedstreamError:
            shown = []  # a page without recommendations is better than none
        links = "".join(f'<li><a href="/{html.escape(one)}">{html.escape(one)}</a>' for one in shown)
        start("200 OK", [("content-type", "text/html; charset=utf-8")])
        return [f"<!doctype html><h1>{html.escape(item)}</h1><ul>{links}</ul>".encode()]


def main(address: str, port: str) -> None:
    with (
        Client(address, write_key=os.environ.get("SHOP_WRITE_KEY", "")) as client,
        Sender(client) as sender,
        make_server("127.0.0.1", int(port), Shop(client, sender)) as server,
    ):
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
