"""Which release is current: the last announcement on the releases topic, followed by every process by itself."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import msgpack

from stream.events import DecodeError
from stream.log import Entry, Log, LogUnavailable, Record, UnknownTopic
from stream.topics import RELEASES

logger = logging.getLogger(__name__)
FORMAT = 1
POLL_EVERY_S = 0.2


def announce(log: Log, version: str, now_ms: int) -> None:
    """Make version the current release for every process. Raises LogUnavailable; announcing again is harmless."""
    entry = Entry(b"current", msgpack.packb((FORMAT, version, now_ms)), now_ms)
    (outcome,) = log.append(RELEASES, [entry])
    if isinstance(outcome, Exception):
        raise outcome


def current_version(log: Log) -> str | None:
    """The version announced last, None before the first. Raises DecodeError where the last record is none."""
    end = log.end_offsets(RELEASES)[0]
    records = log.read(RELEASES, 0, max(end - 1, 0), 1) if end > log.start_offsets(RELEASES)[0] else []
    return _version(records[-1]) if records else None


def follow(log: Log, on_version: Callable[[str], None], stop: threading.Event) -> None:
    """Call on_version with the current version, then with each one announced, until `stop`. Only the latest of a
    run of announcements is passed on. While the log is away, and where one cannot be read, the last one stands.
    """
    seen, is_away = -1, False
    while not stop.is_set():
        try:
            end = log.end_offsets(RELEASES)[0]
            if end - 1 != seen:
                version = current_version(log)
                seen = end - 1
                if version is not None:
                    on_version(version)
            is_away = False
        except (LogUnavailable, UnknownTopic) as error:  # a topic that is away comes back, as a log does
            if not is_away:
                logger.warning("announcements wait: %s", error)
            is_away = True
        except DecodeError as error:
            seen = end - 1
            logger.error("announcement ignored: %s", error)  # noqa: TRY400
        stop.wait(POLL_EVERY_S)


def _version(record: Record) -> str:
    try:
        known, version, *_ = msgpack.unpackb(record.value)
    except (TypeError, ValueError, msgpack.UnpackException):
        known, version = None, None
    if known != FORMAT or not isinstance(version, str):
        raise DecodeError(f"{RELEASES}/0@{record.offset} is no announcement: {record.value[:40]!r}")
    return version
