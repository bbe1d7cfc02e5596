"""The archive: every record in exactly one file, whenever and however often the process dies."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.archive import ArchiveConsumer
from store.archive import Archive, ArchiveRow, StaleWriter, read_archive
from store.connection import StoreUnavailable
from stream.events import Event
from stream.loop import Progress
from stream.topics import EVENTS
from tests.small_disk import disk
from tests.troubled_log import Crash, TroubledLog, consume

DAY_MS = 86_400_000
MIDNIGHT = 20_000 * DAY_MS  # 2024-10-04


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class DyingArchive(Archive):
    """Dies around its next writes: before, between the file and the commit, or not at all."""

    def __init__(self, folder: Path, log_identity: int, deaths: list[str]) -> None:
        super().__init__(folder, log_identity)
        self.deaths = deaths

    def write(self, rows: Sequence[ArchiveRow], first_offset: int, next_offset: int) -> Path:
        death = self.deaths.pop(0) if self.deaths else "none"
        if death == "before":
            raise Crash
        path = super().write(rows, first_offset, next_offset)
        if death == "after":
            raise Crash
        return path


def viewed(n: int, *, at: int = MIDNIGHT) -> Event:
    return Event(f"user-{n % 5}", f"item-{n}", "view", at)


def offsets(folder: Path) -> list[tuple[int, int]]:
    rows = read_archive(folder).select(["partition", "offset"]).to_pylist()
    return sorted((row["partition"], row["offset"]) for row in rows)


def stored(log: TroubledLog) -> list[tuple[int, int]]:
    return [(number, offset) for number, end in log.end_offsets(EVENTS).items() for offset in range(end)]


def archived(log: TroubledLog, archive: Archive, *, flush_events: int = 4, max_records: int = 3) -> ArchiveConsumer:
    """One life of the process: until everything is read, then drained."""
    handler = ArchiveConsumer(archive, Clock(), flush_events=flush_events)
    consume(log, handler, max_records=max_records)
    return handler


@given(
    days=st.lists(st.integers(0, 2), min_size=1, max_size=40),
    deaths=st.lists(st.sampled_from(["before", "after", "at the commit", "none"]), max_size=8),
    unreadable=st.sets(st.integers(0, 39), max_size=5),
    flush_events=st.integers(1, 9),
)
@settings(max_examples=60)
def test_each_record_is_in_exactly_one_file_however_often_the_process_dies(
    tmp_path_factory: pytest.TempPathFactory,
    days: list[int],
    deaths: list[str],
    unreadable: set[int],
    flush_events: int,
) -> None:
    folder, log = tmp_path_factory.mktemp("archive"), TroubledLog(partitions=2)
    archive = DyingArchive(folder, log.identity(EVENTS), deaths)
    log.troubles.crash_before_commit = deaths.count("at the commit")
    for n, day in enumerate(days):
        log.send(b"\xc1" if n in unreadable else viewed(n), at=MIDNIGHT + day * DAY_MS)
    for _ in range(40):
        try:
            archived(log, archive, flush_events=flush_events)
        except Crash:
            continue
        break
    bad = {(0, r.offset) for r in log.read(EVENTS, 0, 0, 99) if r.value == b"\xc1"}
    bad |= {(1, r.offset) for r in log.read(EVENTS, 1, 0, 99) if r.value == b"\xc1"}
    assert offsets(folder) == [place for place in stored(log) if place not in bad]
    for path in folder.rglob("*"):
        assert path.is_dir() or path.suffix == ".parquet", "nothing unfinished is left"


def test_a_restart_goes_on_where_the_files_end_not_where_the_group_committed(log: TroubledLog, tmp_path: Path) -> None:
    archive = Archive(tmp_path, log.identity(EVENTS))
    log.send(*map(viewed, range(20)))
    log.troubles.failed_commits = 10**6
    first = archived(log, archive)
    assert (first.archived, log.committed(EVENTS, "g")) == (20, {})
    second = archived(log, archive)
    assert (second.archived, second.files) == (0, 0)
    assert offsets(tmp_path) == stored(log)


def test_a_file_holds_one_day_and_a_new_day_begins_a_new_file(tmp_path: Path) -> None:
    log = TroubledLog()
    for n, at in enumerate([MIDNIGHT - 2, MIDNIGHT - 1, MIDNIGHT, MIDNIGHT + 1, MIDNIGHT + DAY_MS]):
        log.send(viewed(n), at=at)
    handler = archived(log, Archive(tmp_path, log.identity(EVENTS)), flush_events=1000, max_records=1000)
    assert (handler.files, handler.archived) == (3, 5)
    days = {path.parent.name: pq.read_table(path)["offset"].to_pylist() for path in tmp_path.rglob("*.parquet")}
    assert days == {"day=2024-10-03": [0, 1], "day=2024-10-04": [2, 3], "day=2024-10-05": [4]}


def test_a_file_is_written_when_its_first_row_waited_long_enough_and_only_then_committed(tmp_path: Path) -> None:
    log, clock = TroubledLog(), Clock()
    handler = ArchiveConsumer(Archive(tmp_path, log.identity(EVENTS)), clock, flush_every_s=60)
    log.send(viewed(0))
    stop, waited = threading.Event(), []

    def story(_: Progress) -> bool:
        waited.append((handler.files, log.committed(EVENTS, "g")))
        clock.now_s += 25
        return handler.files == 1

    consume(log, handler, until=story, stop=stop)
    assert waited == [(0, {}), (0, {}), (0, {}), (1, {0: 1})]


def test_an_unreadable_stretch_is_committed_though_no_file_has_it(tmp_path: Path) -> None:
    log = TroubledLog()
    log.send(b"\xc1", b"\xc1")
    handler = archived(log, Archive(tmp_path, log.identity(EVENTS)))
    assert (handler.files, log.committed(EVENTS, "g")) == (0, {0: 2})


def test_of_two_writers_of_one_stretch_the_second_must_stop(tmp_path: Path) -> None:
    row = ArchiveRow(0, 5, MIDNIGHT, "ana", "hat", "view", MIDNIGHT, None, None, None)
    one, other = Archive(tmp_path, 1), Archive(tmp_path, 1)
    path = one.write([row], 5, 6)
    before = path.read_bytes()
    with pytest.raises(StaleWriter, match=path.name):
        other.write([row, row._replace(offset=6)], 5, 7)
    assert path.read_bytes() == before
    assert one.next_offset(0) == other.next_offset(0) == 6
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_logs_and_partitions_do_not_see_each_other_s_files(tmp_path: Path) -> None:
    row = ArchiveRow(3, 5, MIDNIGHT, "ana", "hat", "view", MIDNIGHT, None, None, None)
    Archive(tmp_path, 1).write([row], 5, 6)
    Archive(tmp_path, 2).write([row], 5, 9)
    assert (Archive(tmp_path, 1).next_offset(3), Archive(tmp_path, 2).next_offset(3)) == (6, 9)
    assert (Archive(tmp_path, 1).next_offset(0), Archive(tmp_path, 3).next_offset(3)) == (None, None)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KB that is really full when it is full."""
    with disk(tmp_path / "disk", kilobytes=64) as folder:
        yield folder


def test_a_full_disk_is_waited_for_and_every_record_is_there_once_in_the_end(
    small_disk: Path, log: TroubledLog
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 60_000)
    log.send(*map(viewed, range(40)))
    handler = ArchiveConsumer(Archive(small_disk / "archive", log.identity(EVENTS)), Clock(), flush_events=10)
    threading.Timer(0.25, ballast.unlink).start()
    progress = consume(log, handler)
    assert progress.waits > 0
    assert offsets(small_disk / "archive") == stored(log)
    assert not list(small_disk.rglob(".*"))


def test_a_full_disk_when_stopping_commits_nothing_and_says_so(small_disk: Path, log: TroubledLog) -> None:
    (small_disk / "ballast").write_bytes(b"x" * 60_000)
    log.send(*map(viewed, range(5)))
    handler = ArchiveConsumer(Archive(small_disk / "archive", log.identity(EVENTS)), Clock())
    with pytest.raises(StoreUnavailable, match="No space left"):
        consume(log, handler)
    assert log.committed(EVENTS, "g") == {}


def test_all_of_an_event_is_kept(tmp_path: Path) -> None:
    log = TroubledLog()
    log.send(Event("ana", "hat", "sale", MIDNIGHT, "order-7", 9.5, {"page": "höme"}), at=MIDNIGHT + 7)
    log.send(Event("bob", "belt", "view", 5), at=MIDNIGHT + 8)
    archived(log, Archive(tmp_path, log.identity(EVENTS)))
    full, bare = read_archive(tmp_path).sort_by("offset").to_pylist()
    assert json.loads(full.pop("context")) == {"page": "höme"}
    assert full == {
        "partition": 0, "offset": 0, "appended_ms": MIDNIGHT + 7, "user_id": "ana", "item_id": "hat", "kind": "sale",
        "time_ms": MIDNIGHT, "event_id": "order-7", "value": 9.5,
    }  # fmt: skip
    assert (bare["event_id"], bare["value"], bare["context"]) == (None, None, None)


def test_reading_can_begin_at_a_day_and_sees_no_unfinished_file(tmp_path: Path) -> None:
    log = TroubledLog()
    for n in range(4):
        log.send(viewed(n), at=MIDNIGHT + n * DAY_MS)
    archived(log, Archive(tmp_path, log.identity(EVENTS)))
    (tmp_path / "day=2024-10-05" / ".half.parquet").write_bytes(b"PAR1")
    (tmp_path / "day=2024-10-05" / ".x.parquet.77").write_bytes(b"")
    for since, expected in [(None, 4), ("2024-10-04", 4), ("2024-10-05", 3), ("2024-10-07", 1), ("2025-01-01", 0)]:
        assert read_archive(tmp_path, since_day=since).num_rows == expected
    assert read_archive(tmp_path / "nowhere").num_rows == 0
