"""A real browser for tests, and a shop's pages on an origin of their own."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# One without a window names itself a bot; and of a page that is being left, only a flag reaches the requests.
PHONE = "Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 Chrome/130.0 Mobile Safari/537.36"
FLAGS = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@cache
def chromium() -> str | None:
    """Where Chromium is: LEDSTREAM_TEST_CHROMIUM, or one on the PATH or in a usual place; None where there is none."""
    places = [os.environ.get("LEDSTREAM_TEST_CHROMIUM"), *map(shutil.which, NAMES)]
    places += ["/usr/bin/chromium", "/snap/bin/chromium", "/opt/google/chrome/chrome"]
    return next((place for place in places if place and Path(place).exists()), None)


@contextmanager
def browsing(executable: str) -> Iterator[Any]:
    """A browser of Playwright's. Its profile is a fresh one, and goes with it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = [*FLAGS, "--headless=new", "--no-sandbox", "--no-first-run", f"--user-agent={PHONE}"]
        browser = playwright.chromium.launch(executable_path=executable, args=arguments, chromium_sandbox=False)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def shop(pages: dict[str, str]) -> Iterator[str]:
    """The address of a server with these pages of HTML, by path. They may be changed meanwhile."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.get(self.path.partition("?")[0])
            self.send_response(200 if page is not None else 404)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write((page or "").encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
