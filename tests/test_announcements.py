"""Which release is current, as every process learns it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import msgpack
import pytest

from stream.announcements import announce, current_version, follow
from stream.events import DecodeError
from stream.log import Entry, LogUnavailable, Position, UnknownTopic
from stream.memory_log import MemoryLog
from stream.topics import RELEASES


class SometimesAway(MemoryLog):
    """A log that does not answer while `away`; its topic of releases can be lost."""

    away = False
    gone = False

    def __init__(self) -> None:
        super().__init__()
        self.create_topic(RELEASES, 1)

    def end_offsets(self, topic: str) -> dict[int, int]:
        if self.away:
            raise LogUnavailable("away")
        if self.gone:
            raise UnknownTopic(topic)
        return super().end_offsets(topic)

    def lose(self, records: int) -> None:
        with self._changed:
            del self._topic(RELEASES).partitions[0][-records:]


@pytest.fixture
def log() -> SometimesAway:
    return SometimesAway()


@pytest.fixture
def heard(log: SometimesAway) -> Iterator[list[str]]:
    """What a process that follows the log is told."""
    versions: list[str] = []
    stop = threading.Event()
    thread = threading.Thread(target=follow, args=(log, versions.append, stop))
    thread.start()
    yield versions
    stop.set()
    thread.join(timeout=5)
    assert not thread.is_alive()


def eventually(versions: list[str], expected: list[str]) -> None:
    deadline = time.monotonic() + 5
    while versions != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.25)  # long enough for one more look, which must change nothing
    assert versions == expected


def test_before_the_first_announcement_there_is_none(log: SometimesAway, heard: list[str]) -> None:
    assert current_version(log) is None
    eventually(heard, [])


def test_the_last_announcement_stands_and_is_told_once(log: SometimesAway) -> None:
    for version in ("one", "two", "three", "two"):
        announce(log, version, 5)
    assert current_version(log) == "two"
    versions: list[str] = []
    stop = threading.Event()

    def hear(version: str) -> None:
        versions.append(version)
        stop.set()

    follow(log, hear, stop)
    assert versions == ["two"]


def test_each_new_announcement_is_followed_a_rollback_too(log: SometimesAway, heard: list[str]) -> None:
    for expected in (["one"], ["one", "two"], ["one", "two", "one"]):
        announce(log, expected[-1], 5)
        eventually(heard, expected)


def test_while_the_log_is_away_the_last_one_stands(log: SometimesAway, heard: list[str]) -> None:
    announce(log, "one", 5)
    eventually(heard, ["one"])
    log.away = True
    log.append(RELEASES, [Entry(b"current", msgpack.packb((1, "two", 6)), 6)])
    eventually(heard, ["one"])
    log.away = False
    eventually(heard, ["one", "two"])


def test_while_the_topic_is_gone_the_last_one_stands_and_the_next_is_followed(
    log: SometimesAway, heard: list[str]
) -> None:
    announce(log, "one", 5)
    eventually(heard, ["one"])
    log.gone = True
    time.sleep(0.5)  # long enough to have looked
    log.gone = False
    announce(log, "two", 6)
    eventually(heard, ["one", "two"])


@pytest.mark.parametrize("lost", [1, 2])
def test_an_announcement_the_log_has_lost_no_longer_stands(log: SometimesAway, heard: list[str], lost: int) -> None:
    for version in ("one", "two", "three"):
        announce(log, version, 5)
    eventually(heard, ["three"])
    log.lose(lost)
    eventually(heard, ["three", ["two", "one"][lost - 1]])


@pytest.mark.parametrize(
    "garbage", [b"", b"\xc1", b"\x01", msgpack.packb([]), msgpack.packb((2, "x")), msgpack.packb((1, 7, 7))]
)
def test_an_announcement_nobody_can_read_is_passed_over_and_the_next_is_followed(
    log: SometimesAway, heard: list[str], garbage: bytes
) -> None:
    announce(log, "one", 5)
    eventually(heard, ["one"])
    log.append(RELEASES, [Entry(b"current", garbage, 6)])
    eventually(heard, ["one"])
    with pytest.raises(DecodeError, match="releases/0@1"):
        current_version(log)
    announce(log, "two", 7)
    eventually(heard, ["one", "two"])


def test_a_newer_program_may_say_more(log: SometimesAway) -> None:
    log.append(RELEASES, [Entry(b"current", msgpack.packb((1, "one", 5, "who", "why")), 5)])
    assert current_version(log) == "one"


def test_an_announcement_that_was_not_acknowledged_is_an_error() -> None:
    class Refusing(SometimesAway):
        def append(self, topic: str, entries: Sequence[Entry]) -> list[Position | LogUnavailable]:  # noqa: ARG002
            return [LogUnavailable("no acknowledgement")]

    with pytest.raises(LogUnavailable):
        announce(Refusing(), "one", 5)
