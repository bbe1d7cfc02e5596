"""Which pages of other origins may talk to this server from a browser (CORS)."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from serving.collector.asked import Asked
from serving.refusals import Refused

Headers = list[tuple[bytes, bytes]]
_ORIGIN = re.compile(r"https?://[\w.-]+(:\d{1,5})?")
ANY = "*"
KEPT_S = b"7200"  # as long as Chromium keeps the answer to a preflight


@dataclass(frozen=True)
class Origins:
    """allowed: scheme://host[:port] of pages, or * for all."""

    allowed: Collection[bytes] = frozenset()

    @classmethod
    def of(cls, text: str) -> Origins:
        """From a list with commas. Raises ValueError naming the part."""
        parts = [part.strip().rstrip("/").lower() for part in text.split(",") if part.strip()]
        for part in parts:
            if part != ANY and not _ORIGIN.fullmatch(part):
                raise ValueError(f"{part!r} is no origin, as https://www.example.org is, or *")
        return cls(frozenset(part.encode() for part in parts))

    def check(self, asked: Asked) -> None:
        """Raises Refused (403) for a page that may not."""
        if not self._allows(asked):
            raise Refused("origin", asked.origin.decode("latin-1"), "not in LEDSTREAM_CORS_ORIGINS", status=403)

    def headers(self, asked: Asked) -> Headers:
        """What an answer says to a browser; to pages that may not, nothing."""
        if not asked.origin:
            return []
        vary = (b"vary", b"origin")
        if not self._allows(asked):
            return [vary]
        seen = (b"access-control-expose-headers", b"retry-after")
        return [vary, (b"access-control-allow-origin", asked.origin), seen]

    def preflight(self, asked: Asked) -> Headers:
        """What the answer to OPTIONS says beside `headers`. Raises Refused (403)."""
        self.check(asked)
        return [
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", b"content-type, x-ledstream-key"),
            (b"access-control-max-age", KEPT_S),
        ]

    def _allows(self, asked: Asked) -> bool:
        return not asked.is_from_elsewhere or bool({ANY.encode(), asked.origin.lower()} & set(self.allowed))
