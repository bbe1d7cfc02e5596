"""What can be asked of the recommender, and how a question is read from a query string or a JSON body."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

import numpy as np

from led.encoder import NEVER_MS
from serving.refusals import Refused
from serving.schemas import (
    DEFAULT_K,
    MAX_EXCLUDED,
    MAX_EXPLAINED,
    MAX_K,
    MAX_TIMELINE,
    BatchBody,
    TimelineBody,
    TimelineEvent,
    check_names,
    checked,
)
from store.user_record import NO_RELEASE, TIMELINE, Applied, UserRecord, encode_record
from stream.events import MAX_ID_BYTES, Border, InvalidEvent, check_user_id, item_key, kind_code

# As most are: nothing to decode or refuse.
PLAIN = re.compile(rb"user=(?!\.{1,2}(?:&|$))([\w.~-]{1,%d})(?:&k=(\d{1,3}))?" % MAX_ID_BYTES)
FLAGS = {"true": True, "1": True, "false": False, "0": False}


class Question(NamedTuple):
    """One request. record: what to use as if it were stored; None: the stored one of `user`.

    exclude: item ids that must not be in the answer. seen: items of the timeline may be in it. details: with what is
    known of each item. explain: with the reasons for each score.
    """

    user: str | None
    record: bytes | None = None
    k: int = DEFAULT_K
    exclude: Sequence[str] = ()
    seen: bool = False
    details: bool = False
    explain: bool = False


def from_query(query: bytes, *, explains: bool = False) -> Question:
    """The question in `user=&k=&exclude=&seen=&details=&explain=`. Raises Refused naming the first bad parameter.

    explains: whether who asks may see reasons, which tell what the user did.
    """
    if (plain := PLAIN.fullmatch(query)) and 1 <= (k := int(plain[2] or DEFAULT_K)) <= MAX_K:
        return Question(plain[1].decode(), None, k)
    values = read_query(query, ("user", "k", "exclude", "seen", "details", "explain"))
    if not values["user"]:
        raise Refused("user", None, "is required")
    (user,) = values["user"]
    try:
        check_user_id(user)
    except InvalidEvent as error:
        raise Refused("user", user, error.reason) from None
    exclude = tuple(item for value in values["exclude"] for item in value.split(",") if item)
    flags = {name: read_flag(values, name) for name in ("seen", "details", "explain")}
    if flags["explain"] and not explains:
        raise Refused(
            "explain", "true", "tells what a user did: ask /v1/recommendations, with the admin key", status=403
        )
    k = check_explained(read_k(values), explain=flags["explain"])
    return Question(user, None, k, check_excluded(exclude), **flags)


def from_users(body: Any) -> list[Question]:
    """The questions of a decoded `BatchBody`, in order. Raises Refused."""
    asked = checked(BatchBody, body)
    exclude = check_excluded(asked.exclude)
    for place, user in enumerate(asked.users):
        try:
            check_user_id(user)
        except InvalidEvent as error:
            raise Refused(f"users.{place}", user, error.reason) from None
    return [Question(user, None, asked.k, exclude, asked.seen, asked.details) for user in asked.users]


def read_query(query: bytes, known: Sequence[str]) -> dict[str, list[str]]:
    """Values of each known parameter, in order; all but `exclude` may be given once. Raises Refused."""
    values: dict[str, list[str]] = {name: [] for name in known}
    for part in query.split(b"&") if query else ():
        raw_name, _, raw_value = part.partition(b"=")
        name, value = _decoded("query", raw_name), _decoded(raw_name.decode("ascii", "replace"), raw_value)
        if name not in values:
            raise Refused(name, value, f"unknown parameter, known are {', '.join(known)}")
        if values[name] and name != "exclude":
            raise Refused(name, value, "given more than once")
        values[name].append(value)
    return values


def read_k(values: Mapping[str, Sequence[str]]) -> int:
    """k of a query. Raises Refused."""
    (text,) = values["k"] or [str(DEFAULT_K)]
    if not (text.isascii() and text.isdecimal() and len(text) <= 3 and 1 <= int(text) <= MAX_K):
        raise Refused("k", text, f"must be a whole number from 1 to {MAX_K}")
    return int(text)


def read_flag(values: Mapping[str, Sequence[str]], name: str) -> bool:
    """A parameter that is true or false, which it is where it is absent. Raises Refused."""
    (text,) = values[name] or ["false"]
    if text not in FLAGS:
        raise Refused(name, text, "must be true or false")
    return FLAGS[text]


def check_explained(k: int, *, explain: bool) -> int:
    """k itself. Raises Refused for more items than reasons are given for."""
    if explain and k > MAX_EXPLAINED:
        raise Refused("k", k, f"at most {MAX_EXPLAINED} items with explain")
    return k


def check_excluded(exclude: Sequence[str]) -> Sequence[str]:
    """The ids themselves. Raises Refused for too many, or one that no item can have."""
    if len(exclude) > MAX_EXCLUDED:
        raise Refused("exclude", len(exclude), f"at most {MAX_EXCLUDED} items")
    for item in exclude:
        if len(item) > MAX_ID_BYTES:
            raise Refused("exclude", item, f"an item id has at most {MAX_ID_BYTES} bytes")
        _key("exclude", item)
    return exclude


def from_timeline(body: Any, border: Border, now_ms: int) -> Question:
    """The question in a decoded `TimelineBody`; an event without time_ms happened now. Raises Refused."""
    _check_events(body)
    asked = checked(TimelineBody, body)
    entries = []
    for place, event in enumerate(asked.timeline):
        if event.kind not in border.kinds:
            raise Refused(f"timeline.{place}.kind", event.kind, f"known kinds are {', '.join(sorted(border.kinds))}")
        time_ms = now_ms if event.time_ms is None else event.time_ms
        if time_ms > now_ms + border.max_ahead_s * 1000:
            raise Refused(f"timeline.{place}.time_ms", time_ms, f"over {border.max_ahead_s:g} s in the future")
        entries.append((_key(f"timeline.{place}.item_id", event.item_id), time_ms, 0, kind_code(event.kind)))
    k = check_explained(asked.k, explain=asked.explain)
    exclude = check_excluded(asked.exclude)
    return Question(None, record_of(entries), k, exclude, details=asked.details, explain=asked.explain)


def _check_events(body: Any) -> None:
    timeline = body.get("timeline") if isinstance(body, dict) else None
    if isinstance(timeline, list):
        for place, event in enumerate(timeline[:MAX_TIMELINE]):
            check_names(TimelineEvent, event, f"timeline.{place}.")


def record_of(entries: Sequence[tuple[int, int, int, int]]) -> bytes:
    """A record that was never stored, of (item key, time in ms, event key, kind code) each; any release encodes it."""
    timeline = np.array(entries, TIMELINE)
    nothing = np.empty(0, np.float32)
    return encode_record(UserRecord(Applied(0, 0), timeline, len(timeline), NO_RELEASE, nothing, 0.0, NEVER_MS))


def _key(field: str, item: str) -> int:
    try:
        return item_key(item)
    except UnicodeEncodeError:
        raise Refused(field, ascii(item), "not valid Unicode") from None


def _decoded(field: str, raw: bytes) -> str:
    try:
        if b"%" in raw or b"+" in raw:
            return unquote_plus(raw.decode("ascii"), errors="strict")
        return raw.decode()
    except UnicodeDecodeError:
        raise Refused(field, ascii(raw), "not valid UTF-8") from None
