"""Dead letters: every record nobody could read is shown once, and replayed once, on every backend."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator, Mapping, Sequence

import pytest

from ledstream.cli import main
from store.connection import connect
from stream.dead_letters import KEPT_BYTES, DeadLetter, Place, bury, read_letters, read_replays, replay
from stream.decoding import Decoder, EventColumns
from stream.events import Event, encode_event
from stream.kafka_log import KafkaLog
from stream.log import Entry, Log, LogUnavailable, Position, UnknownTopic
from stream.loop import Loop, Progress
from stream.memory_log import MemoryLog
from stream.redis_log import RedisLog
from stream.topics import DEAD_LETTERS, EVENTS, topics
from tests.troubled_log import TroubledLog

BACKENDS = ["memory", "valkey", "redis", pytest.param("kafka", marks=pytest.mark.kafka)]
NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000


@pytest.fixture(params=BACKENDS)
def log(request: pytest.FixtureRequest, namespace: str) -> Iterator[Log]:
    made: Log
    if request.param == "memory":
        made = MemoryLog()
    elif request.param == "kafka":
        made = KafkaLog([request.getfixturevalue("kafka_bootstrap")], namespace)
    else:
        server = "redis_address" if request.param == "valkey" else "original_redis_address"
        made = RedisLog(connect(request.getfixturevalue(server)), namespace)
    for topic, partitions in topics(2).items():
        made.create_topic(topic, partitions)
    yield made
    made.close()


@pytest.fixture(params=["valkey", pytest.param("kafka", marks=pytest.mark.kafka)])
def command_line(request: pytest.FixtureRequest, namespace: str, redis_address: str) -> Iterator[tuple[Log, list[str]]]:
    """A log, and the flags that lead the command line there."""
    made: Log
    if request.param == "kafka":
        bootstrap = request.getfixturevalue("kafka_bootstrap")
        made, address = KafkaLog([bootstrap], namespace), f"kafka://{bootstrap}"
    else:
        made, address = RedisLog(connect(redis_address), namespace), redis_address
    for topic, partitions in topics(2).items():
        made.create_topic(topic, partitions)
    yield made, ["--log", address, "--store", redis_address, "--namespace", namespace]
    made.close()


class Names:
    """A handler that keeps the items of what it was given."""

    def __init__(self) -> None:
        self.items: list[str] = []

    def assigned(self, partition: int) -> int | None:  # noqa: ARG002
        return None

    def revoked(self, partition: int) -> None:
        pass

    def handle(self, batches: Sequence[EventColumns]) -> Mapping[int, int]:
        self.items += [item for batch in batches for item in batch.items]
        return {batch.partition: batch.next_offset for batch in batches}

    def drain(self) -> Mapping[int, int]:
        return {}


def consume(log: Log, group: str, now_ms: int) -> list[str]:
    """Items of the events a group reads, until nothing is left, by a program whose clock says now_ms."""
    stop, names = threading.Event(), Names()

    def tick(progress: Progress) -> None:
        if progress.lag and not sum(progress.lag.values()):
            stop.set()

    Loop(log, EVENTS, group, names, decoder=Decoder(lambda: now_ms), poll_timeout_s=0.2, on_tick=tick).run(stop)
    return names.items


def letter(offset: int, *, value: bytes = b"\xc1", cause: str = "not msgpack", at_ms: int = NOW_MS) -> DeadLetter:
    return DeadLetter(EVENTS, 0, offset, cause, b"ana", value, at_ms)


def test_a_record_buried_by_two_groups_is_one_letter_and_once_replayed_each_group_reads_it_once(log: Log) -> None:
    early = Event("ana", "hat", "view", NOW_MS + DAY_MS)
    log.append(EVENTS, [Entry(b"ana", encode_event(early), NOW_MS)])
    for group in ("timelines", "archive"):
        assert consume(log, group, NOW_MS) == [], "a day ahead of this program's clock"
    (found,) = read_letters(log)
    assert sum(log.end_offsets(DEAD_LETTERS).values()) == 2
    assert (found.key, found.value, found.time_ms) == (b"ana", encode_event(early), NOW_MS)

    (went,) = replay(log, [found], NOW_MS + DAY_MS)
    assert isinstance(went, Position)
    (record,) = log.read(EVENTS, went.partition, went.offset, 1)
    assert (record.key, record.value, record.time_ms) == (b"ana", encode_event(early), NOW_MS + DAY_MS)
    for group in ("timelines", "archive"):
        assert consume(log, group, NOW_MS + DAY_MS) == ["hat"]
    assert read_replays(log) == {found.place: went}
    assert list(read_letters(log)) == [found]


def test_letters_are_read_in_the_order_of_their_burial_past_notes_and_what_is_none_of_ours(log: Log) -> None:
    letters = [letter(n, value=b"v" * n) for n in range(1, 251)]
    bury(log, letters[:200])
    log.append(DEAD_LETTERS, [Entry(b"x", junk, 0) for junk in (b"", b"\xc1", b"\x01", b"\x91\x01", b"\x96\x05")])
    replay(log, letters[:3], NOW_MS)
    bury(log, letters[150:])
    assert list(read_letters(log)) == letters
    assert set(read_replays(log)) == {Place(EVENTS, 0, n) for n in (1, 2, 3)}


def test_of_a_replay_that_was_cut_short_the_beginning_is_known() -> None:
    log = BreakingLog()
    bury(log, [letter(1), letter(2)])
    log.breaks_at = EVENTS
    outcomes = replay(log, list(read_letters(log)), NOW_MS)
    assert all(isinstance(outcome, LogUnavailable) for outcome in outcomes)
    assert read_replays(log) == {Place(EVENTS, 0, 1): None, Place(EVENTS, 0, 2): None}
    log.breaks_at = DEAD_LETTERS
    with pytest.raises(LogUnavailable):
        replay(log, [letter(3)], NOW_MS)
    assert log.end_offsets(EVENTS) == {0: 0}, "what cannot be noted is not sent"


def test_a_letter_that_was_cut_or_has_no_topic_is_not_replayed_and_nothing_is_noted() -> None:
    log = TroubledLog()
    bury(log, [letter(1), letter(2, value=b"v" * (KEPT_BYTES + 1)), letter(3, value=b"v" * (KEPT_BYTES - 1))])
    whole, cut, nearly = read_letters(log)
    assert [whole.is_cut, cut.is_cut, nearly.is_cut] == [False, True, False]
    with pytest.raises(ValueError, match="events/0@2: cut at 65536 bytes"):
        replay(log, [whole, cut], NOW_MS)
    with pytest.raises(UnknownTopic):
        replay(log, [whole, DeadLetter("gone", 0, 1, "", b"", b"", 0)], NOW_MS)
    assert (log.end_offsets(EVENTS), read_replays(log)) == ({0: 0}, {})


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (encode_event(Event("zoé", "hat", "view", 5)), "[1, 'zoé', 'hat', 'view', 5, None, None, None]"),
        (b"\x81\x01\xa1a", "{1: 'a'}"),
        (b"\x05", r"\x05"),
        (b'{"user_id": "ana"}', '{"user_id": "ana"}'),
        (b"\xc1 no event\n\x1b[31m", r"\xc1 no event\n\x1b[31m"),
        (b"\x81\x90\x01", r"\x81\x90\x01"),
        (b"", ""),
    ],
)
def test_a_value_is_shown_so_that_a_person_can_read_it(value: bytes, shown: str) -> None:
    assert letter(1, value=value).shown_value == shown


def test_listing_shows_the_newest_first_and_only_what_is_asked_for(
    command_line: tuple[Log, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    log, where = command_line
    assert main(["deadletters", "list", *where]) == 0
    assert capsys.readouterr().out == "no dead letters\n"
    bury(log, [letter(n, at_ms=NOW_MS + n * DAY_MS) for n in range(1, 6)])
    bury(log, [letter(7, cause="wire version 2", value=b"\x92\x02\xa3[x]", at_ms=NOW_MS + 9 * DAY_MS)])

    def listed(*words: str) -> list[str]:
        assert main(["deadletters", "list", "--json", *words, *where]) == 0
        return [json.loads(line)["at"] for line in capsys.readouterr().out.splitlines()]

    assert listed("--limit", "2") == ["events/0@7", "events/0@5"]
    assert listed("--limit", "2", "--oldest") == ["events/0@1", "events/0@2"]
    assert listed("--cause", "version") == ["events/0@7"]
    assert listed("--since", "2023-11-16", "--until", "2023-11-18T12:00") == ["events/0@3", "events/0@2"]
    assert listed("--topic", "releases") == []
    assert listed("--at", "events/0@1", "events/0@7") == ["events/0@7", "events/0@1"]
    main(["deadletters", "list", "--json", "--cause", "version", *where])
    (line,) = capsys.readouterr().out.splitlines()
    shown = json.loads(line)
    assert base64.b64decode(shown.pop("bytes")) == b"\x92\x02\xa3[x]"
    assert shown == {
        "at": "events/0@7", "when": "2023-11-23T22:13:20Z", "cause": "wire version 2", "key": "ana",
        "value": "[2, '[x]']", "cut": False, "replayed": None,
    }  # fmt: skip
    main(["deadletters", *where])
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["at", "when", "replayed", "to", "cause", "key", "value"]
    assert table[1].split(maxsplit=2)[:2] == ["events/0@7", "2023-11-23T22:13:20Z"]
    assert table[1].rstrip().endswith("wire version 2  ana  [2, '[x]']")


def test_replaying_says_for_each_letter_what_happened_and_sends_none_twice(
    command_line: tuple[Log, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    log, where = command_line
    bury(log, [letter(1), letter(2, cause="wire version 2"), letter(3, value=b"v" * (KEPT_BYTES + 1))])

    def replayed(*words: str) -> tuple[int, list[str]]:
        code = main(["deadletters", "replay", *words, *where])
        return code, capsys.readouterr().out.splitlines()

    def events() -> int:
        return sum(log.end_offsets(EVENTS).values())

    cut = "events/0@3: refused: cut at 65,536 bytes when it was buried, the rest is not known"
    assert replayed("--dry-run") == (1, [
        "events/0@1: would be replayed (1 bytes, not msgpack)",
        "events/0@2: would be replayed (1 bytes, wire version 2)",
        cut,
    ])  # fmt: skip
    assert (events(), read_replays(log)) == (0, {})
    code, said = replayed("--cause", "version")
    place = said[0].removeprefix("events/0@2: replayed to ")
    assert (code, events()) == (0, 1)
    assert place in ("events/0@0", "events/1@0")
    assert replayed("--at", "events/0@2", "events/0@9") == (1, [
        f"events/0@2: left alone: replayed to {place} before; --again sends it again",
        "events/0@9: no such letter",
    ])  # fmt: skip
    code, said = replayed()
    assert code == 1, "one could not be replayed"
    assert [line.split(": ")[0] for line in said] == ["events/0@2", "events/0@3", "events/0@1"]
    assert said[1:2] == [cut]
    assert events() == 2
    assert replayed("--again", "--at", "events/0@1")[0] == 0
    assert events() == 3


def test_a_replay_of_unknown_end_is_left_alone_until_told(
    redis_address: str, namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log = RedisLog(connect(redis_address), namespace)
    for topic, partitions in topics(1).items():
        log.create_topic(topic, partitions)
    bury(log, [letter(1)])
    (record,) = log.read(DEAD_LETTERS, 0, 0, 1)
    log.append(DEAD_LETTERS, [Entry(record.key, bytes([0x96, 2, 0xA6]) + b"events" + bytes([0, 1, 0xC0, 0xC0]), 0)])
    where = ["--log", redis_address, "--store", redis_address, "--namespace", namespace]
    assert main(["deadletters", "replay", *where]) == 0
    assert "did not say how it ended" in capsys.readouterr().out
    assert main(["deadletters", "replay", "--again", *where]) == 0
    assert capsys.readouterr().out == "events/0@1: replayed to events/0@0\n"
    log.close()


@pytest.mark.parametrize("words", [["--at", "events/3"], ["--since", "yesterday"], ["--limit", "0"]])
def test_what_means_nothing_is_refused_by_its_name(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["deadletters", "list", *words])
    assert f"{words[1]} is not" in capsys.readouterr().err


class BreakingLog(TroubledLog):
    """A log that takes no more entries of one topic."""

    breaks_at = ""

    def append(self, topic: str, entries: Sequence[Entry]) -> list[Position | LogUnavailable]:
        if topic == self.breaks_at:
            return [LogUnavailable("no acknowledgement")] * len(entries)
        return super().append(topic, entries)
