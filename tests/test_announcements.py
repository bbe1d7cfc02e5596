"""Which release is current, as every process learns it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import msgpack
import pytest

from stream.announcements import (
    Announcement,
    Canary,
    NoSuchStep,
    announce,
    announce_canary,
    current_version,
    follow,
    promote,
    read_announcement,
    roll_back,
    withdraw,
)
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
    thread = threading.Thread(target=follow, args=(log, lambda last: versions.append(last.version), stop))
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

    def hear(last: Announcement) -> None:
        versions.append(last.version)
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
    "garbage",
    [
        *(b"", b"\xc1", b"\x01", msgpack.packb([]), msgpack.packb((2, "x")), msgpack.packb((1, 7, 7))),
        *(msgpack.packb((1, "x", 6, more)) for more in ("what", {"before": [7]}, {"canary": ["y", 0.5]})),
        *(msgpack.packb((1, "x", 6, {"canary": [version, share, 6, 7]})) for version, share in ((7, 0.5), ("y", 0))),
    ],
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


def test_an_older_program_said_less_and_a_newer_one_may_say_more(log: SometimesAway) -> None:
    log.append(RELEASES, [Entry(b"current", msgpack.packb((1, "one", 5)), 5)])
    assert read_announcement(log) == Announcement("one", 5)
    said = {"before": ["one"], "canary": ["three", 0.25, 6, 9, "how"], "mood": "good"}
    log.append(RELEASES, [Entry(b"current", msgpack.packb((1, "two", 6, said, "who", "why")), 6)])
    assert read_announcement(log) == Announcement("two", 6, Canary("three", 0.25, 6, 9), ("one",))


def test_a_canary_stands_beside_the_current_release_until_it_is_withdrawn(log: SometimesAway) -> None:
    announce(log, "one", 5)
    canary = announce_canary(log, "two", 0.05, 1000, 600)
    assert canary == Canary("two", 0.05, 1000, 601_000)
    assert read_announcement(log) == Announcement("one", 1000, canary)
    assert withdraw(log, 1001) == "two"
    assert read_announcement(log) == Announcement("one", 1001)


def test_a_promoted_canary_is_current_and_the_way_back_is_known(log: SometimesAway) -> None:
    announce(log, "one", 5)
    canary = announce_canary(log, "two", 0.05, 1000, 600)
    assert promote(log, 1001, only=canary) == "two"
    assert read_announcement(log) == Announcement("two", 1001, None, ("one",))


@pytest.mark.parametrize("step", [promote, withdraw])
def test_who_decides_on_a_canary_decides_on_no_other(log: SometimesAway, step: Callable[..., str]) -> None:
    announce(log, "one", 5)
    with pytest.raises(NoSuchStep, match="no canary is on trial"):
        step(log, 6)
    first = announce_canary(log, "two", 0.05, 1000, 600)
    second = announce_canary(log, "two", 0.05, 2000, 600)
    with pytest.raises(NoSuchStep, match="canary two no longer is on trial"):
        step(log, 2001, only=first)
    assert step(log, 2001, only=second) == "two"


def test_a_canary_needs_another_release_beside_it(log: SometimesAway) -> None:
    with pytest.raises(NoSuchStep, match="no release but one is current"):
        announce_canary(log, "one", 0.05, 5, 600)
    announce(log, "one", 5)
    with pytest.raises(NoSuchStep, match="no release but one is current"):
        announce_canary(log, "one", 0.05, 5, 600)
    for share in (0.0, -0.1, 1.01, float("nan")):
        with pytest.raises(ValueError, match="share = "):
            announce_canary(log, "two", share, 5, 600)


def test_a_rollback_goes_one_release_back_and_again_one_further(log: SometimesAway) -> None:
    for version in ("one", "two", "three", "two"):
        announce(log, version, 5)
    assert read_announcement(log) == Announcement("two", 5, None, ("three", "one"))
    assert [roll_back(log, 6), roll_back(log, 7)] == ["three", "one"]
    assert current_version(log) == "one"
    with pytest.raises(NoSuchStep, match="no release is known to have been current before"):
        roll_back(log, 8)


def test_a_rollback_during_a_trial_withdraws_the_canary(log: SometimesAway) -> None:
    announce(log, "one", 5)
    announce(log, "two", 6)
    announce_canary(log, "three", 0.05, 1000, 600)
    assert roll_back(log, 1001) == "two"
    assert read_announcement(log) == Announcement("two", 1001, None, ("one",))


def test_releases_that_somebody_serves_or_would_go_back_to_are_in_use(log: SometimesAway) -> None:
    for version in ("one", "two", "three"):
        announce(log, version, 5)
    announce_canary(log, "four", 0.05, 1000, 600)
    last = read_announcement(log)
    assert last is not None
    assert last.in_use == {"two", "three", "four"}


def test_the_share_of_users_is_kept_and_each_canary_has_others() -> None:
    users = [f"user-{number}" for number in range(20_000)]
    one, other = Canary("one", 0.05, 0, 1), Canary("other", 0.05, 0, 1)
    tried = {user for user in users if one.is_tried_on(user)}
    assert 900 < len(tried) < 1100
    assert tried == {user for user in users if one._replace(since_ms=5).is_tried_on(user)}
    assert tried < {user for user in users if one._replace(share=0.5).is_tried_on(user)}
    assert len(tried & {user for user in users if other.is_tried_on(user)}) < 100
    assert all(one._replace(share=1.0).is_tried_on(user) for user in users)


def test_an_announcement_that_was_not_acknowledged_is_an_error() -> None:
    class Refusing(SometimesAway):
        def append(self, topic: str, entries: Sequence[Entry]) -> list[Position | LogUnavailable]:  # noqa: ARG002
            return [LogUnavailable("no acknowledgement")]

    with pytest.raises(LogUnavailable):
        announce(Refusing(), "one", 5)
