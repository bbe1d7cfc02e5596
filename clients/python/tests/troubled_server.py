"""A real HTTP server that does what a test says: answers, ends connections, takes its time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Seen(dict[str, Any]):
    """A request: method, path, headers by names in lower case, body as it came, at_s."""

    def json(self) -> Any:
        return json.loads(self["body"])


Deed = Callable[["Handler"], None]


@dataclass
class Troubled:
    """deeds: of each request in turn; the last one of all that come after."""

    address: str
    deeds: list[Deed] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def will(self, *deeds: Deed) -> None:
        self.deeds[:] = deeds

    def take(self, seen: Seen) -> Deed:
        with self.lock:
            self.seen.append(seen)
            return self.deeds.pop(0) if len(self.deeds) > 1 else self.deeds[0]

    def posted(self) -> list[list[str]]:
        """Event ids of each post."""
        return [[event["event_id"] for event in seen.json()["events"]] for seen in self.seen]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    world: Troubled

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(method=self.command, path=self.path, headers=headers, body=body, at_s=time.monotonic())
        self.world.take(seen)(self)

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815  the names that http.server looks for

    def log_message(self, *_: object) -> None:
        pass


def says(status: int, body: object = None, **headers: str) -> Deed:
    """An answer; body: JSON, or bytes as they are."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    def deed(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in {**headers, "content_length": str(len(content))}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return deed


def judges(*statuses: str, **more: object) -> Deed:
    """An answer about events: a verdict each, the last one of all that are left."""

    def deed(handler: Handler) -> None:
        events = handler.world.seen[-1].json()["events"]
        each = [*statuses, *[statuses[-1]] * len(events)][: len(events)]
        why = {"rejected": {"field": "kind", "value": "wink", "reason": "unknown"}, "failed": {"reason": "not now"}}
        verdicts = [{"status": status, **why.get(status, {})} for status in each]
        status = 202 if "accepted" in each else 503 if "failed" in each else 400
        says(status, {"verdicts": verdicts, **more})(handler)

    return deed


def ends(handler: Handler) -> None:
    """Without a word."""
    handler.close_connection = True


def breaks_off(handler: Handler) -> None:
    """In the middle of an answer."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
    handler.close_connection = True


def after(s: float, deed: Deed) -> Deed:
    """The deed, late; who asked may have gone."""

    def late(handler: Handler) -> None:
        time.sleep(s)
        try:
            deed(handler)
        except OSError:
            handler.close_connection = True

    return late


def drips(handler: Handler) -> None:
    """An answer that goes on for ten seconds."""
    try:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        for _ in range(100):
            handler.wfile.write(b" ")
            time.sleep(0.1)
    except OSError:
        pass
    handler.close_connection = True


@contextmanager
def troubled(deeds: Sequence[Deed] = (judges("accepted"),)) -> Iterator[Troubled]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfThisTest", (Handler,), {}))
    world = Troubled(f"http://127.0.0.1:{server.server_address[1]}", list(deeds))
    server.RequestHandlerClass.world = world  # type: ignore[attr-defined]
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield world
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
