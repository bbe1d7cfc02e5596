"""What users do."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field

from ledstream_client.errors import Refused


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def new_id() -> str:
    return secrets.token_hex(12)


@dataclass(frozen=True)
class Event:
    """A user did something with an item, now unless time_ms says otherwise (Unix milliseconds).

    It has its id from the beginning: sent twice, by this client or by you, it counts once if the second time comes
    before fifteen more events of the user. value: money or a quantity. context: up to 16 short texts. Raises Refused
    for what no post can hold; the rest is for the server to judge.
    """

    user_id: str
    item_id: str
    kind: str
    _: KW_ONLY
    value: float | None = None
    context: Mapping[str, str] | None = None
    time_ms: int = field(default_factory=now_ms)
    event_id: str = field(default_factory=new_id)

    def __post_init__(self) -> None:
        for name in ("user_id", "item_id", "kind", "event_id"):
            check_text(name, getattr(self, name))
        for pair in (self.context or {}).items():
            for part in pair:
                check_text("context", part)
        check_number("value", self.value)

    def to_json(self) -> bytes:
        """As it is posted."""
        more = {"value": self.value, "context": dict(self.context) if self.context else None}
        shown = {
            "user_id": self.user_id,
            "item_id": self.item_id,
            "kind": self.kind,
            "time_ms": self.time_ms,
            "event_id": self.event_id,
        }
        return shortest(shown | {name: value for name, value in more.items() if value is not None})


def check_text(name: str, text: object) -> None:
    """Raises Refused for what would spoil a whole post: JSON of half a surrogate pair is none to a server."""
    if not isinstance(text, str):
        raise Refused(name, repr(text), "must be a text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refused(name, ascii(text), "not valid Unicode") from None


def check_number(name: str, number: float | None) -> None:
    """Raises Refused: JSON knows no infinity."""
    if number is not None and not math.isfinite(number):
        raise Refused(name, repr(number), "must be a finite number")


def shortest(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
