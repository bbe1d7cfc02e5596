"""What happened: one event, at the border (JSON, checked by pydantic) and on the wire (msgpack).

Wire, version 1: a msgpack array

    [1, user_id, item_id, kind, time_ms, event_id, value, context]

How it may grow: new fields go last and have a default; readers ignore what they do not know at the end and fill
in what is missing there. Anything else (a changed meaning, a removed field) is a new version number, and a reader
that does not know it refuses the record (`DecodeError`), so that the record is kept as a dead letter.

An erasure travels as an event of kind `erase` and an empty item_id: what comes before it in the log is forgotten. That
of a visitor who became a user says so in its context (`store/merged.py`).
A strike travels as one of kind `strike` and an empty item_id: one event is forgotten (`stream/strikes.py`).
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, NamedTuple

import msgpack
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from store.merged import MERGED
from stream.strikes import STRIKE, Strike

WIRE_VERSION = 1
ERASE = "erase"
MAX_ID_BYTES = 128
MAX_KIND_BYTES = 32
MAX_CONTEXT_ENTRIES = 16
MAX_CONTEXT_BYTES = 1024
MAX_WIRE_BYTES = 4096
MAX_TIME_MS = 1 << 62  # differences of times stay far from the ends of an int64
EVENTS_PER_POST = 1000
SHOWN_WHOLE = 10
KNOWN_ITEMS = 1 << 19
_KNOWN: dict[str, int] = {}


class Event(NamedTuple):
    """One interaction. time_ms: Unix milliseconds. value: money or a quantity, in the sender's own unit."""

    user_id: str
    item_id: str
    kind: str
    time_ms: int
    event_id: str | None = None
    value: float | None = None
    context: Mapping[str, str] | None = None


class DecodeError(ValueError):
    """A record that is no event of a version this program knows. The loop keeps it as a dead letter."""


class InvalidEvent(ValueError):
    """An event refused at the border: which field, what was there, why."""

    def __init__(self, field: str, value: object, reason: str) -> None:
        self.field, self.value, self.reason = field, _shortened(value), reason
        super().__init__(f"{field} = {self.value}: {reason}")


Id = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_BYTES)]


class EventBody(BaseModel):
    """One event as posted. Without time_ms it happened now; with event_id, sending it twice counts once."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    user_id: Id
    item_id: Id
    kind: Annotated[str, StringConstraints(min_length=1, max_length=MAX_KIND_BYTES)]
    time_ms: Annotated[int, Field(ge=0, lt=MAX_TIME_MS)] | None = None
    event_id: Id | None = None
    value: Annotated[float, Field(allow_inf_nan=False)] | None = None
    context: Annotated[dict[str, str], Field(max_length=MAX_CONTEXT_ENTRIES)] | None = None


@dataclass(frozen=True)
class Border:
    """What may come in. kinds: names known here. Skew: how far an event's clock may be off, in seconds."""

    kinds: Collection[str]
    max_ahead_s: float = 300.0
    max_age_s: float = 7 * 86400.0

    def codes(self) -> dict[int, str]:
        """Names of the kinds by their codes."""
        return {kind_code(kind): kind for kind in self.kinds}

    def accept(self, raw: object, now_ms: int) -> Event:
        """The event in one decoded JSON value; raises InvalidEvent naming the first offending field and its value."""
        _check_sizes(raw)
        try:
            body = EventBody.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "event"
            raise InvalidEvent(where, first["input"], first["msg"]) from None
        _check_id("user_id", body.user_id)
        _check_id("item_id", body.item_id)
        _check_text("event_id", body.event_id)
        if body.kind not in self.kinds:
            raise InvalidEvent("kind", body.kind, f"known kinds are {', '.join(sorted(self.kinds))}")
        time_ms = now_ms if body.time_ms is None else body.time_ms
        if time_ms > now_ms + self.max_ahead_s * 1000:
            ahead_s = (time_ms - now_ms) / 1000
            raise InvalidEvent(
                "time_ms", time_ms, f"{ahead_s:.0f} s in the future, at most {self.max_ahead_s:g} allowed"
            )
        if time_ms < now_ms - self.max_age_s * 1000:
            age_s = (now_ms - time_ms) / 1000
            raise InvalidEvent("time_ms", time_ms, f"{age_s:.0f} s old, at most {self.max_age_s:g} allowed")
        _check_context(body.context)
        return Event(body.user_id, body.item_id, body.kind, time_ms, body.event_id, body.value, body.context)


def _check_sizes(raw: object) -> None:
    """What pydantic would look at to the end, and make an error of each: a second for a body of megabytes."""
    if not isinstance(raw, dict):
        return
    if len(raw) > len(EventBody.model_fields):
        name = next(name for name in raw if name not in EventBody.model_fields)
        raise InvalidEvent(name, raw[name], "unknown field")
    context = raw.get("context")
    if isinstance(context, dict) and len(context) > MAX_CONTEXT_ENTRIES:
        raise InvalidEvent("context", context, f"at most {MAX_CONTEXT_ENTRIES} entries")


def check_user_id(user_id: str) -> str:
    """The id itself if an event could carry it; InvalidEvent otherwise. For ids that come by other ways."""
    if not user_id:
        raise InvalidEvent("user_id", user_id, "must not be empty")
    _check_id("user_id", user_id)
    return user_id


def erasure(user_id: str, time_ms: int, *, is_merge: bool = False) -> Event:
    """The event that makes every consumer forget the user's events before it.

    is_merge: of a visitor who became a user; no tombstone is made of it.
    """
    return Event(user_id, "", ERASE, time_ms, context=MERGED if is_merge else None)


def striking(user_id: str, strike: Strike, time_ms: int) -> Event:
    """The event that makes every consumer forget one event of the user's."""
    return Event(user_id, "", STRIKE, time_ms, context=strike.context())


def is_strike(item_id: str, kind: str) -> bool:
    """Whether an event with these is a strike."""
    return kind == STRIKE and not item_id


def encode_event(event: Event) -> bytes:
    """Wire bytes, at most MAX_WIRE_BYTES for anything `Border.accept` lets in."""
    return bytes(msgpack.packb((WIRE_VERSION, *event)))


def decode_event(data: bytes) -> Event:
    """The event in wire bytes. Raises DecodeError for anything but a version-1 event within its limits."""
    if len(data) > MAX_WIRE_BYTES:
        raise DecodeError(f"{len(data)} bytes, at most {MAX_WIRE_BYTES} allowed")
    try:
        fields = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as error:
        raise DecodeError(f"not msgpack: {error}") from None
    if not isinstance(fields, list) or not fields:
        raise DecodeError(f"not an event array: {_shortened(fields)}")
    if type(fields[0]) is not int or fields[0] != WIRE_VERSION:
        raise DecodeError(f"wire version {_shortened(fields[0])}, this program knows {WIRE_VERSION}")
    if len(fields) < 5:
        raise DecodeError(f"{len(fields)} fields, at least 5 needed")
    event = Event(*fields[1:8])
    _check_decoded(event)
    return event._replace(value=float(event.value)) if isinstance(event.value, int) else event


def item_key(item_id: str) -> int:
    """56-bit key of an item id: what timelines hold, whatever release comes and goes (BLAKE2b, 7 bytes, big-endian).

    Known keys are remembered, a catalogue's fit: a plain dict finds them several times faster than a cache that keeps
    their order.
    """
    key = _KNOWN.get(item_id)
    if key is None:
        if len(_KNOWN) >= KNOWN_ITEMS:
            _KNOWN.clear()
        key = int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=7).digest(), "big")
        _KNOWN[item_id] = key
    return key


def item_keys(item_ids: Sequence[str]) -> npt.NDArray[np.uint64]:
    """`item_key` of each, (len(item_ids),)."""
    keys = list(map(_KNOWN.get, item_ids))
    if None in keys:
        keys = [item_key(item_id) if key is None else key for item_id, key in zip(item_ids, keys, strict=True)]
    return np.array(keys, np.uint64)


def event_key(event_id: str | None) -> int:
    """32-bit key of an event id, 0 for none. With item and kind beside it, enough to tell a repeated send."""
    return 0 if event_id is None else zlib.crc32(event_id.encode()) or 1


def event_keys(event_ids: Sequence[str | None]) -> npt.NDArray[np.uint32]:
    """`event_key` of each, (len(event_ids),)."""
    if None in event_ids:
        return np.fromiter(map(event_key, event_ids), np.uint32, len(event_ids))
    keys = np.fromiter(map(zlib.crc32, map(str.encode, event_ids)), np.uint32, len(event_ids))  # type: ignore[arg-type]
    return np.maximum(keys, np.uint32(1))


@lru_cache(maxsize=1024)
def kind_code(kind: str) -> int:
    """8-bit code of a kind, the same wherever and in whatever order kinds are configured.

    Settings refuse two kinds of one code, so a code in a stored timeline has one meaning.
    """
    return hashlib.blake2b(kind.encode(), digest_size=1).digest()[0]


def _check_decoded(event: Event) -> None:
    checks: tuple[tuple[str, bool], ...] = (
        ("user_id", _is_id(event.user_id)),
        ("item_id", _is_id(event.item_id) or (event.kind in (ERASE, STRIKE) and event.item_id == "")),
        ("kind", isinstance(event.kind, str) and 0 < len(event.kind) <= MAX_KIND_BYTES),
        ("time_ms", type(event.time_ms) is int and 0 <= event.time_ms < MAX_TIME_MS),
        ("event_id", event.event_id is None or _is_id(event.event_id)),
        ("value", event.value is None or (type(event.value) in (int, float) and math.isfinite(event.value))),
        ("context", event.context is None or is_context(event.context)),
    )
    for field, good in checks:
        if not good:
            raise DecodeError(f"{field} = {_shortened(getattr(event, field))}")
    if is_strike(event.item_id, event.kind):
        try:
            Strike.of(event.context)
        except ValueError as error:
            raise DecodeError(f"context: {error}") from None


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_BYTES


def is_context(value: object) -> bool:
    """Texts by name: consumers write it as JSON without another look. Its size is bounded by MAX_WIRE_BYTES."""
    return isinstance(value, dict) and all(isinstance(part, str) for pair in value.items() for part in pair)


def _check_id(field: str, value: str) -> None:
    _check_text(field, value)
    if value in (".", ".."):
        raise InvalidEvent(field, value, "a path cannot name it: clients and proxies take . and .. out of paths")


def _check_text(field: str, value: str | None) -> None:
    if value is None:
        return
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidEvent(field, value.encode("ascii", "backslashreplace").decode(), "not valid Unicode") from None
    if size > MAX_ID_BYTES:
        raise InvalidEvent(field, value, f"{size} bytes of UTF-8, at most {MAX_ID_BYTES} allowed")
    if not value.isprintable():
        raise InvalidEvent(field, value, "holds control characters")


def _check_context(context: Mapping[str, str] | None) -> None:
    if context is None:
        return
    try:
        size = sum(len(name.encode()) + len(value.encode()) for name, value in context.items())
    except UnicodeEncodeError:
        raise InvalidEvent("context", ascii(context), "not valid Unicode") from None
    if size > MAX_CONTEXT_BYTES:
        raise InvalidEvent("context", context, f"{size} bytes, at most {MAX_CONTEXT_BYTES} allowed")


def _shortened(value: Any, limit: int = 80) -> str:
    if isinstance(value, (list, dict)) and len(value) > SHOWN_WHOLE:  # may be megabytes, or nested very deep
        return f"{type(value).__name__} of {len(value)}"
    try:
        text = value if isinstance(value, str) else repr(value)
    except RecursionError:
        text = f"{type(value).__name__} nested too deep to show"
    except ValueError:  # Python prints no integers of more than 4300 digits
        text = f"{type(value).__name__} too long to show"
    text = text[: limit + 1]
    text = ascii(text)[1:-1] if not text.isprintable() else text
    return text if len(text) <= limit else text[:limit] + "…"
