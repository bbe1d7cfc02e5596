"""The one loop: what is handled before what is committed, and what happens when things go away."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

import pytest

from store.connection import StoreUnavailable
from stream.dead_letters import KEPT_BYTES, DeadLetter, bury, exhume
from stream.decoding import Decoder, EventColumns
from stream.events import Event
from stream.log import LogUnavailable, Reader, partition_of
from stream.loop import Elsewhere, Loop, Progress
from stream.topics import DEAD_LETTERS, EVENTS
from tests.eventually import until
from tests.troubled_log import Crash, TroubledLog, consume


class Recorder:
    """A handler that remembers what it was told, in the journal of the log; its store is away for `away` calls."""

    def __init__(self, log: TroubledLog, *, away: int = 0, starts: Mapping[int, int] | None = None) -> None:
        self.journal, self.away, self.starts = log.troubles.journal, away, dict(starts or {})
        self.handled: list[tuple[int, int, str]] = []
        self.held: dict[int, int] = {}

    def assigned(self, partition: int) -> int | None:
        self.journal.append(f"assigned {partition}")
        return self.starts.get(partition)

    def revoked(self, partition: int) -> None:
        self.journal.append(f"revoked {partition}")

    def handle(self, batches: Sequence[EventColumns]) -> Mapping[int, int]:
        if self.away and batches:
            self.away -= 1
            raise StoreUnavailable("the store is away")
        for batch in batches:
            self.journal.append(f"handle {batch.partition} up to {batch.next_offset}")
            self.handled += [(batch.partition, offset, event.item_id) for offset, _, event in batch.rows()]
        return {batch.partition: batch.next_offset for batch in batches}

    def drain(self) -> Mapping[int, int]:
        self.journal.append("drain")
        return self.held


@pytest.fixture
def log() -> TroubledLog:
    return TroubledLog()


def views(how_many: int, *, first: int = 0) -> list[Event]:
    return [Event("ana", f"item-{n}", "view", 1000 + n) for n in range(first, first + how_many)]


def letters(log: TroubledLog) -> list[DeadLetter]:
    return [exhume(record) for record in log.read(DEAD_LETTERS, 0, 0, 1000)]


def test_nothing_is_committed_before_it_is_handled_and_everything_is_at_the_end(log: TroubledLog) -> None:
    log.send(*views(5))
    progress = consume(log, Recorder(log), max_records=2)
    assert log.troubles.journal == [
        "assigned 0",
        *("handle 0 up to 2", "commit {0: 2}"),
        *("handle 0 up to 4", "commit {0: 4}"),
        *("handle 0 up to 5", "commit {0: 5}"),
        *("drain", "close"),
    ]
    assert (progress.consumed, progress.batches, progress.dead_letters) == (5, 3, 0)


def test_one_unreadable_record_among_many_costs_one_and_is_kept_with_its_coordinates(log: TroubledLog) -> None:
    log.send(*views(3), b"\xc1 no event", *views(2, first=3), at=77)
    recorder = Recorder(log)
    progress = consume(log, recorder)
    assert [offset for _, offset, _ in recorder.handled] == [0, 1, 2, 4, 5]
    (letter,) = letters(log)
    assert (letter.topic, letter.partition, letter.offset) == (EVENTS, 0, 3)
    assert (letter.key, letter.value, letter.time_ms) == (b"nobody", b"\xc1 no event", 77)
    assert "not msgpack" in letter.cause
    assert (progress.dead_letters, log.committed(EVENTS, "g")) == (1, {0: 6})


def test_a_batch_of_nothing_readable_is_passed_over(log: TroubledLog) -> None:
    log.send(b"", b"\x00", b"{}")
    progress = consume(log, Recorder(log))
    assert (progress.dead_letters, log.committed(EVENTS, "g")) == (3, {0: 3})
    assert [letter.offset for letter in letters(log)] == [0, 1, 2]


def test_nothing_past_an_unreadable_record_is_committed_before_it_is_buried(log: TroubledLog) -> None:
    log.send(b"\xc1", *views(1))
    log.troubles.failed_appends = 2
    progress = consume(log, Recorder(log))
    assert progress.waits == 2
    assert [letter.offset for letter in letters(log)] == [0]
    assert log.troubles.journal[1:3] == ["handle 0 up to 2", "commit {0: 2}"]


def test_a_huge_unreadable_record_is_cut_so_that_its_letter_fits_where_it_came_from(log: TroubledLog) -> None:
    bury(log, [DeadLetter(EVENTS, 0, 9, "too long", b"k" * 10**6, b"v" * 10**6, 5)])
    assert len(log.read(DEAD_LETTERS, 0, 0, 1)[0].value) < 2 * KEPT_BYTES + 100
    assert letters(log)[0].value == b"v" * KEPT_BYTES


def test_a_store_that_is_away_is_waited_for_with_the_same_batch_in_hand(log: TroubledLog) -> None:
    log.send(*views(4))
    recorder = Recorder(log, away=2)
    progress = consume(log, recorder, max_records=2)
    assert (progress.waits, progress.waiting_for) == (2, None)
    assert [offset for _, offset, _ in recorder.handled] == [0, 1, 2, 3]
    assert log.committed(EVENTS, "g") == {0: 4}


class Wanderer(Recorder):
    """Wants to have partition 0 from its beginning again, once, and has handled nothing of what it was given then."""

    def handle(self, batches: Sequence[EventColumns]) -> Mapping[int, int]:
        if any(batch.partition == 0 and batch.next_offset == 4 for batch in batches) and not self.held:
            self.held = {0: 4}
            raise Elsewhere({0: 0}, "from the beginning")
        return super().handle(batches)


def test_a_handler_that_wants_another_place_gets_it_and_misses_nothing_of_the_other_partitions() -> None:
    log = TroubledLog(partitions=2)
    users = ["ana", "kim"]
    assert [partition_of(user.encode(), 2) for user in users] == [0, 1]
    log.send(*[Event(user, f"item-{n}", "view", n) for n in range(4) for user in users])
    wanderer = Wanderer(log)
    progress = consume(log, wanderer, max_records=3)
    assert progress.rewinds == 1
    assert [offset for partition, offset, _ in wanderer.handled if partition == 0] == [0, 1, 2, 0, 1, 2, 3]
    assert [offset for partition, offset, _ in wanderer.handled if partition == 1] == [0, 1, 2, 3]
    assert log.committed(EVENTS, "g") == {0: 4, 1: 4}


def test_stopping_while_the_store_is_away_commits_nothing_and_says_why(log: TroubledLog) -> None:
    log.send(*views(4))
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    with pytest.raises(StoreUnavailable):
        consume(log, Recorder(log, away=10**6), stop=stop)
    assert log.committed(EVENTS, "g") == {}
    assert log.troubles.journal == ["assigned 0", "close"], "left the group, so that others take over at once"
    recorder = Recorder(log)
    consume(log, recorder)
    assert len(recorder.handled) == 4


def test_a_log_that_is_away_is_waited_for(log: TroubledLog) -> None:
    log.send(*views(2))
    log.troubles.failed_polls = 2
    recorder = Recorder(log)
    assert consume(log, recorder, until=lambda p: p.consumed == 2).waits == 2
    assert len(recorder.handled) == 2


def test_stopping_while_the_log_is_away_ends_at_once(log: TroubledLog) -> None:
    log.troubles.failed_polls = 10**6
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    consume(log, Recorder(log), stop=stop)
    assert log.troubles.journal == ["drain", "close"]


def test_a_failed_commit_is_covered_by_the_next(log: TroubledLog) -> None:
    log.send(*views(4))
    log.troubles.failed_commits = 1
    progress = consume(log, Recorder(log), max_records=2)
    assert (progress.commit_failures, log.committed(EVENTS, "g")) == (1, {0: 4})


def test_a_crash_before_the_commit_reads_the_batch_again_and_no_other(log: TroubledLog) -> None:
    log.send(*views(4))
    consume(log, Recorder(log), max_records=3, until=lambda progress: progress.consumed == 3)
    log.troubles.crash_before_commit = 1
    first, second = Recorder(log), Recorder(log)
    with pytest.raises(Crash):
        consume(log, first)
    consume(log, second)
    assert first.handled == second.handled == [(0, 3, "item-3")]


def test_any_other_error_ends_the_process_with_nothing_of_it_committed(log: TroubledLog) -> None:
    class Broken(Recorder):
        def handle(self, batches: Sequence[EventColumns]) -> Mapping[int, int]:
            if any(offset == 3 for batch in batches for offset, _, _ in batch.rows()):
                raise ZeroDivisionError
            return super().handle(batches)

    log.send(*views(4))
    with pytest.raises(ZeroDivisionError):
        consume(log, Broken(log), max_records=3)
    assert log.committed(EVENTS, "g") == {0: 3}
    assert log.troubles.journal[-1] == "close"


@pytest.mark.parametrize(("start", "expected"), [(0, [0, 1, 2, 3]), (1, [1, 2, 3]), (2, [2, 3]), (4, [])])
def test_a_handler_may_read_from_elsewhere_than_what_was_committed(
    log: TroubledLog, start: int, expected: list[int]
) -> None:
    log.send(*views(4))
    consume(log, Recorder(log), max_records=2, until=lambda progress: progress.consumed == 2)
    recorder = Recorder(log, starts={0: start})
    consume(log, recorder, until=lambda progress: progress.rebalances == 1 and sum(progress.lag.values()) == 0)
    assert [offset for _, offset, _ in recorder.handled] == expected


def test_what_is_drained_on_stopping_is_committed(log: TroubledLog) -> None:
    log.send(*views(2))
    recorder = Recorder(log)
    recorder.held = {0: 2, 7: 9}
    consume(log, recorder)
    assert log.committed(EVENTS, "g") == {0: 2}


def test_partitions_of_a_member_that_leaves_are_taken_up() -> None:
    log = TroubledLog(partitions=2)
    for n in range(20):
        log.send(Event(f"user-{n}", f"item-{n}", "view", n))
    recorder, other = Recorder(log), log.reader(EVENTS, "g")

    def story(progress: Progress) -> bool:
        other.close()
        return progress.consumed == 20

    assert consume(log, recorder, max_records=3, until=story).rebalances == 2
    assert recorder.journal[0] == "assigned 1"
    assert [line for line in recorder.journal if line.startswith(("assigned", "revoked"))] == [
        "assigned 1",
        "assigned 0",
    ]
    assert log.committed(EVENTS, "g") == log.end_offsets(EVENTS)


def test_a_partition_that_went_away_is_revoked_and_its_offsets_are_left_to_its_new_reader() -> None:
    log = TroubledLog(partitions=2)
    for n in range(40):
        log.send(Event(f"user-{n}", f"item-{n}", "view", n))
    recorder = Recorder(log)
    others: list[Reader] = []

    def story(_: object) -> bool:
        if not others:
            others.append(log.reader(EVENTS, "g"))
        return "revoked 1" in recorder.journal

    consume(log, recorder, max_records=2, until=story)
    place = recorder.journal.index("revoked 1")
    assert recorder.journal[:2] == ["assigned 0", "assigned 1"]
    assert not any("1:" in line or line.startswith("handle 1") for line in recorder.journal[place:])


def test_a_partition_lost_while_waiting_for_the_store_is_handed_to_nobody_here() -> None:
    """What was read of it belongs to its new reader, who begins where the archive ends, not where this one was."""
    log = TroubledLog(partitions=2)
    for n in range(10):
        log.send(Event(f"user-{n}", f"item-{n}", "view", n))

    class LosesOne(Recorder):
        others: tuple[Reader, ...] = ()

        def assigned(self, partition: int) -> int | None:
            if not self.others:
                self.others = (log.reader(EVENTS, "g"),)
                raise StoreUnavailable("the disk of the archive is away")
            return super().assigned(partition)

    log.troubles.shares_on_keep_alive = True
    recorder = LosesOne(log)
    consume(log, recorder)
    assert {partition for partition, _, _ in recorder.handled} == {0}
    assert "assigned 1" not in recorder.journal


def test_a_reader_that_lost_its_place_in_an_outage_misses_nothing_before_what_was_committed(log: TroubledLog) -> None:
    """The store was restored from an older copy, and nothing was read again yet."""
    log.send(*views(6))
    before = log.reader(EVENTS, "g")
    assert before.poll(max_records=10, timeout_s=0.0)
    before.commit({0: 6})
    before.close()
    recorder = Recorder(log, starts={0: 2})

    def outage(progress: Progress) -> bool:
        if not log.troubles.forgets_its_place:
            log.troubles.failed_polls, log.troubles.forgets_its_place = 1, True
            log.send(*views(1, first=6))
            return False
        return sum(progress.lag.values()) == 0 and progress.waits == 1

    consume(log, recorder, until=outage)
    assert [offset for _, offset, _ in recorder.handled] == list(range(2, 7))
    assert recorder.journal.count("assigned 0") == 2
    assert log.committed(EVENTS, "g") == {0: 7}


def test_a_partition_that_comes_back_while_the_store_is_away_is_new_here_and_no_other_is_handled() -> None:
    """Of two partitions this member has the second, is given the first instead, and has the second again."""
    log = TroubledLog(partitions=2)
    for n in range(10):
        log.send(Event(f"user-{n}", f"item-{n}", "view", n))

    class Swapped(Recorder):
        def assigned(self, partition: int) -> int | None:
            if partition == 0:
                log.swap_members()
                raise StoreUnavailable("the store is away")
            return super().assigned(partition)

        def handle(self, batches: Sequence[EventColumns]) -> Mapping[int, int]:
            if batches and "revoked 1" not in self.journal:
                log.swap_members()
            return super().handle(batches)

    log.troubles.shares_on_keep_alive = True
    log.reader(EVENTS, "g")
    recorder = Swapped(log)
    progress = consume(log, recorder, max_records=1)
    assert [line for line in recorder.journal if "ed" in line] == ["assigned 1", "revoked 1", "assigned 1"]
    assert {partition for partition, _, _ in recorder.handled} == {1}
    assert progress.rebalances == 2


def test_bury_says_when_a_letter_was_not_acknowledged(log: TroubledLog) -> None:
    log.troubles.failed_appends = 1
    with pytest.raises(LogUnavailable):
        bury(log, [DeadLetter(EVENTS, 0, 9, "cause", b"", b"", 5)])


def test_a_loop_that_rests_after_a_little_is_given_what_gathered_meanwhile_at_once(log: TroubledLog) -> None:
    stop = threading.Event()
    loop = Loop(log, EVENTS, "g", Recorder(log), decoder=Decoder(), poll_timeout_s=0.01, rest_s=0.3)
    running = threading.Thread(target=loop.run, args=(stop,))
    running.start()
    for number in range(20):
        log.send(Event("ana", f"item-{number}", "view", number))
        time.sleep(0.005)
    until(lambda: loop.progress.consumed == 20)
    begun = time.monotonic()
    stop.set()
    running.join()
    assert loop.progress.batches < 6
    assert time.monotonic() - begun < 0.3, "who stops it does not wait for the rest of its rest"
