"""A strike: one event of one user's timeline is to be as if it had never been sent.

It travels in the log as a record of its user, kind `strike`, without an item, and tells by its context which event is
meant: what a timeline holds of it. The event's key (`stream.events.event_key`) tells it for good. Where it is no longer
kept, or there never was one, the time does, as the timeline had it when the strike was made, good to `within_ms`: of
events of one item and kind the nearest is meant.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from hashlib import blake2b
from typing import NamedTuple

STRIKE = "strike"
_BOUNDS = {"item": 1 << 56, "kind": 1 << 8, "time_ms": 1 << 62, "within_ms": 1 << 62, "event": 1 << 32}
_MARKED = struct.Struct("<QBqI")


class Strike(NamedTuple):
    """Which event. item, kind: its keys. time_ms: good to within_ms. event: its event key, 0 where not known."""

    item: int
    kind: int
    time_ms: int
    within_ms: int
    event: int

    @classmethod
    def of(cls, context: object) -> Strike:
        """The strike in a record's context. Raises ValueError naming the field."""
        told = context if isinstance(context, Mapping) else {}
        return cls(*(_number(name, told.get(name)) for name in cls._fields))

    def context(self) -> dict[str, str]:
        """What `of` reads: whole numbers in decimal."""
        return {name: str(value) for name, value in self._asdict().items()}

    @property
    def mark(self) -> int:
        """What a record remembers it by, 63 bits: repeated sends of the event have it, and repeated strikes."""
        return mark_of(self.item, self.kind, self.event, self.time_ms)


def mark_of(item: int, kind: int, event: int, time_ms: int = 0) -> int:
    """The mark of an event: by its event key if it has one, otherwise by its time as kept."""
    told = _MARKED.pack(item, kind, 0 if event else time_ms, event)
    return int.from_bytes(blake2b(told, digest_size=8).digest(), "little") >> 1


def _number(name: str, text: object) -> int:
    if not (isinstance(text, str) and len(text) <= 20 and text.removeprefix("-").isdecimal() and text.isascii()):
        raise ValueError(f"{name} = {text!r}: a whole number expected")
    value, bound = int(text), _BOUNDS[name]
    if not (-bound if name == "time_ms" else 0) <= value < bound:
        raise ValueError(f"{name} = {value}: out of range")
    return value
