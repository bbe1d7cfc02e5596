"""What the collector looks at of a request, read from its headers once."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, NamedTuple

from serving.collector.sites import KEY_HEADER


class Asked(NamedTuple):
    """A request without its body. Headers that are missing are empty."""

    method: str
    path: str
    query: bytes
    origin: bytes
    host: bytes
    key: bytes
    agent: bytes
    form: bytes
    etag: bytes

    @classmethod
    def of(cls, scope: MutableMapping[str, Any]) -> Asked:
        """From an ASGI scope."""
        found = dict(scope["headers"])
        names = (b"origin", b"host", KEY_HEADER, b"user-agent", b"content-type", b"if-none-match")
        return cls(
            scope["method"], scope["path"], scope["query_string"], *[bytes(found.get(name, b"")) for name in names]
        )

    @property
    def is_from_elsewhere(self) -> bool:
        """Whether a page of another origin asks."""
        return bool(self.origin) and self.origin.partition(b"://")[2] != self.host
