"""The page's files, as they lie in this folder, with headers that let it use nothing from elsewhere.

Pictures are the exception: a shop's catalogue names them, wherever they are. No referrer goes with a request for one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse

from serving.refusals import Refused

PAGE = "/console"
READING = ["GET", "HEAD"]
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' https: http:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",  # asked for again each time, and answered 304
}


class Files:
    """All of them in memory, read once."""

    def __init__(self, folder: Path = Path(__file__).parent) -> None:
        paths = [path for path in sorted(folder.iterdir()) if path.suffix in TYPES]
        self._files = {path.name: (path.read_bytes(), TYPES[path.suffix]) for path in paths}

    def answer(self, name: str, known: str | None) -> Response:
        """The file, or that it is the one that is known by its tag. Raises Refused (404)."""
        if name not in self._files:
            raise Refused("path", f"{PAGE}/{name}", "Not Found", status=404)
        content, form = self._files[name]
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        if known == tag:
            return Response(status_code=304, headers={**HEADERS, "etag": tag})
        return Response(content, media_type=form, headers={**HEADERS, "etag": tag})


def add_files(app: FastAPI, files: Files) -> None:
    """The page, what it is made of, and the way to it."""

    @app.api_route("/", methods=READING, include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse(PAGE)

    @app.api_route(PAGE, methods=READING, include_in_schema=False)
    async def page(request: Request) -> Response:
        return files.answer("index.html", request.headers.get("if-none-match"))

    @app.api_route(f"{PAGE}/{{name}}", methods=READING, include_in_schema=False)
    async def file(name: str, request: Request) -> Response:
        return files.answer(name, request.headers.get("if-none-match"))
