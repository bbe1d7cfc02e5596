"""Which release is current, and which is on trial beside it: the last announcement on the releases topic.

Every process follows it by itself. One record says all, so that older ones may go: the current release, the canary if
there is one, and the way back. On the wire: msgpack of (1, version, time_ms, {"canary": [version, share, since_ms,
until_ms], "before": [version, …]}); the map and all in it may be missing, and more may follow.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack

from stream.events import DecodeError
from stream.log import Entry, Log, LogUnavailable, Record, UnknownTopic
from stream.topics import RELEASES

logger = logging.getLogger(__name__)
FORMAT = 1
POLL_EVERY_S = 0.2
WAYS_BACK = 5


class NoSuchStep(ValueError):
    """There is nothing to roll back to, no canary to end, or no release for a canary to stand beside."""


class Canary(NamedTuple):
    """A release on trial with a share (0..1] of the users, from since_ms to until_ms or until somebody decides."""

    version: str
    share: float
    since_ms: int
    until_ms: int

    @property
    def trial(self) -> str:
        """A name that no other trial has, of the same release either."""
        return f"{self.version}:{self.since_ms}"

    def draw(self, user_id: str) -> float:
        """The user's number in [0, 1), the same throughout the trial and another in another release's."""
        digest = hashlib.blake2b(f"{self.version}/{user_id}".encode(), digest_size=6).digest()
        return int.from_bytes(digest, "big") / (1 << 48)

    def is_tried_on(self, user_id: str) -> bool:
        """Whether the user is among the share that gets the canary."""
        return self.draw(user_id) < self.share


class Announcement(NamedTuple):
    """Said at at_ms: version is current. before: what was current before it, newest first, none of it twice."""

    version: str
    at_ms: int
    canary: Canary | None = None
    before: tuple[str, ...] = ()

    @property
    def in_use(self) -> frozenset[str]:
        """Releases that somebody serves, or would go back to: none of them may be deleted."""
        return frozenset({self.version, *self.before[:1], *([self.canary.version] if self.canary else [])})


def announce(log: Log, version: str, now_ms: int) -> None:
    """Make version the current release for every process; a trial ends. Raises LogUnavailable; twice is harmless."""
    try:
        last = read_announcement(log)
    except DecodeError as error:  # whoever announces puts it right
        logger.warning("the last announcement is replaced: %s", error)
        last = None
    was = () if last is None else (last.version, *last.before)
    before = tuple(dict.fromkeys(other for other in was if other != version))
    _append(log, Announcement(version, now_ms, None, before[:WAYS_BACK]))


def announce_canary(log: Log, version: str, share: float, now_ms: int, for_s: float) -> Canary:
    """Try version on a share of the users, beside the current release. A trial under way ends.

    Raises LogUnavailable, NoSuchStep where no other release is current; ValueError for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share = {share}: above 0 and at most 1 expected")
    last = read_announcement(log)
    if last is None or last.version == version:
        raise NoSuchStep(f"no release but {version} is current: announce it, there is nothing to compare it with")
    canary = Canary(version, float(share), now_ms, now_ms + int(1000 * for_s))
    _append(log, last._replace(at_ms=now_ms, canary=canary))
    return canary


def promote(log: Log, now_ms: int, *, only: Canary | None = None) -> str:
    """Make the canary the current release; returns its version. only: not if another is on trial by now.

    Raises LogUnavailable, NoSuchStep.
    """
    canary = _on_trial(log, only)[1]
    announce(log, canary.version, now_ms)
    return canary.version


def withdraw(log: Log, now_ms: int, *, only: Canary | None = None) -> str:
    """End the trial and leave the current release to everybody; returns the canary's version. As `promote`."""
    last, canary = _on_trial(log, only)
    _append(log, last._replace(at_ms=now_ms, canary=None))
    return canary.version


def roll_back(log: Log, now_ms: int) -> str:
    """Withdraw the canary, or where none is on trial make current what was current before; returns what is current.

    Again, it goes one further back: what it left is no way back. Raises LogUnavailable, NoSuchStep.
    """
    last = read_announcement(log)
    if last is not None and last.canary is not None:
        _append(log, last._replace(at_ms=now_ms, canary=None))
        return last.version
    if last is None or not last.before:
        raise NoSuchStep("no release is known to have been current before this one: activate one by its version")
    _append(log, Announcement(last.before[0], now_ms, None, last.before[1:]))
    return last.before[0]


def read_announcement(log: Log) -> Announcement | None:
    """The last announcement, None before the first. Raises DecodeError where the last record is none."""
    end = log.end_offsets(RELEASES)[0]
    records = log.read(RELEASES, 0, max(end - 1, 0), 1) if end > log.start_offsets(RELEASES)[0] else []
    return _decoded(records[-1]) if records else None


def current_version(log: Log) -> str | None:
    """The version announced last as current, None before the first. Raises DecodeError."""
    last = read_announcement(log)
    return None if last is None else last.version


def follow(log: Log, on_announcement: Callable[[Announcement], None], stop: threading.Event) -> None:
    """Call on_announcement with the last announcement, then with each new one, until `stop`. Only the latest of a
    run of announcements is passed on. While the log is away, and where one cannot be read, the last one stands.
    """
    seen, is_away, told = -1, False, None
    while not stop.is_set():
        try:
            end = log.end_offsets(RELEASES)[0]
            if end - 1 != seen:
                last = read_announcement(log)
                seen = end - 1
                if last is not None and last != told:
                    on_announcement(last)
                    told = last
            is_away = False
        except (LogUnavailable, UnknownTopic) as error:  # a topic that is away comes back, as a log does
            if not is_away:
                logger.warning("announcements wait: %s", error)
            seen, is_away = -1, True  # a topic made again may be as long as the one before
        except DecodeError as error:
            seen = end - 1
            logger.error("announcement ignored: %s", error)  # noqa: TRY400
        stop.wait(POLL_EVERY_S)


def _on_trial(log: Log, only: Canary | None) -> tuple[Announcement, Canary]:
    last = read_announcement(log)
    if last is None or last.canary is None or (only is not None and last.canary != only):
        what = "no canary" if only is None else f"canary {only.version} no longer"
        raise NoSuchStep(f"{what} is on trial")
    return last, last.canary


def _append(log: Log, announcement: Announcement) -> None:
    version, at_ms, canary, before = announcement
    more = {"before": before} | ({"canary": canary} if canary is not None else {})
    entry = Entry(b"current", msgpack.packb((FORMAT, version, at_ms, more)), at_ms)
    (outcome,) = log.append(RELEASES, [entry])
    if isinstance(outcome, Exception):
        raise outcome


def _decoded(record: Record) -> Announcement:
    try:
        known, version, at_ms, *rest = msgpack.unpackb(record.value)
        more = rest[0] if rest else {}
        canary = more.get("canary")
        last = Announcement(version, at_ms, canary and _canary(*canary[:4]), tuple(more.get("before", ())))
    except (TypeError, ValueError, AttributeError, msgpack.UnpackException):
        known, last = None, Announcement("", 0)
    if known != FORMAT or not isinstance(last.version, str) or not all(isinstance(one, str) for one in last.before):
        raise DecodeError(f"{RELEASES}/0@{record.offset} is no announcement: {record.value[:40]!r}")
    return last


def _canary(version: Any, share: Any, since_ms: Any, until_ms: Any) -> Canary:
    """Raises ValueError, TypeError."""
    if not isinstance(version, str) or not 0 < share <= 1:
        raise ValueError(f"canary {version!r} with share {share!r}")
    return Canary(version, float(share), int(since_ms), int(until_ms))
