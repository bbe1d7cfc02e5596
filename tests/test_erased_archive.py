"""Files of the archive without erased users: rewritten under their own names, beside readers and writers."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from store.archive import Archive, ArchiveRow, StaleWriter, archived_logs, read_archive
from store.erased_archive import ArchiveCompaction, Compacted, erased_in, left_behind
from store.erasure_key import ErasureKey
from store.tombstones import Tombstone, Tombstones

KEY = ErasureKey(b"secret")
LOG, DAY_MS = 7, 1_795_219_200_000


def row(user: str, offset: int, kind: str = "view") -> ArchiveRow:
    return ArchiveRow(1, offset, DAY_MS + offset, user, "hat", kind, DAY_MS + offset, None, None, None)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Three files of one partition: of ana and bob, of ana alone, of bob alone."""
    archive = Archive(tmp_path, LOG)
    archive.write([row("ana", 0), row("bob", 1)], 0, 2)
    archive.write([row("bob", 2)], 2, 3)
    archive.write([row("ana", 3)], 3, 5)
    return archive


def erased(folder: Path, *users: str) -> Tombstones:
    tombstones = Tombstones([folder], KEY)
    tombstones.add(Tombstone(KEY.name(user), DAY_MS + 1000) for user in users)
    return tombstones


def users_of(folder: Path) -> list[str]:
    return sorted(map(str, read_archive(folder)["user_id"].to_pylist()))


def test_only_files_that_hold_the_user_are_written_anew_and_the_partition_ends_where_it_did(
    archive: Archive, tmp_path: Path
) -> None:
    compaction = ArchiveCompaction(tmp_path, erased(tmp_path, "ana"), erase="erase")
    assert compaction.run() == Compacted(files=3, rewritten=2, events=2)
    assert (users_of(tmp_path), archive.next_offset(1), archive.first_offset(1)) == (["bob", "bob"], 5, 0)
    assert [one.offset for rows in archive.read(1, 10) for one in rows] == [1, 2]
    with pytest.raises(StaleWriter):
        archive.write([row("eve", 3)], 3, 4)
    assert compaction.run() == Compacted(), "nothing is new, nobody was erased since"


def test_who_reads_a_file_meanwhile_reads_the_old_one_to_its_end(archive: Archive, tmp_path: Path) -> None:
    (first,) = (path for path in tmp_path.glob("day=*/*.parquet") if path.stem.endswith("00"))
    with pq.ParquetFile(first, memory_map=True) as opened:
        ArchiveCompaction(tmp_path, erased(tmp_path, "ana", "bob"), erase="erase").run()
        assert opened.read()["user_id"].to_pylist() == ["ana", "bob"]
    assert users_of(tmp_path) == []
    assert (archived_logs(tmp_path), archive.count(), list(archive.read(1, 10))) == ([LOG], 0, [])


def test_a_copy_that_was_put_back_is_looked_at_again(archive: Archive, tmp_path: Path) -> None:
    files = {path: path.read_bytes() for path in tmp_path.glob("day=*/*.parquet")}
    tombstones = erased(tmp_path, "ana")
    compaction = ArchiveCompaction(tmp_path, tombstones, erase="erase")
    compaction.run()
    path, data = next(iter(files.items()))
    path.write_bytes(data)
    assert compaction.run().files == 1
    assert sum(sum(erased_in(path, tombstones, erase="erase").values()) for path in files) == 0
    assert archive.next_offset(1) == 5


def test_an_erasure_in_a_file_becomes_a_tombstone_and_leaves_with_its_user(archive: Archive, tmp_path: Path) -> None:
    archive.write([row("bob", 5, "erase"), row("bob", 6)], 5, 7)
    tombstones = Tombstones([tmp_path], KEY)
    assert ArchiveCompaction(tmp_path, tombstones, erase="erase").run() == Compacted(files=4, rewritten=3, events=3)
    assert tombstones.until_ms("bob") == DAY_MS + 5
    assert users_of(tmp_path) == ["ana", "ana", "bob"], "what bob did later counts"


def test_what_a_process_that_died_left_half_written_goes(archive: Archive, tmp_path: Path) -> None:
    assert archive.count() == 4
    (folder,) = tmp_path.glob("day=*")
    for name, age_s in ((".one.parquet.11", 2 * 3600), (".two.parquet.12", 0)):
        (folder / name).write_bytes(b"PAR1")
        moment = (folder / name).stat().st_mtime - age_s
        os.utime(folder / name, (moment, moment))
    assert [path.name for path in left_behind(tmp_path)] == [".one.parquet.11"]
    ArchiveCompaction(tmp_path, erased(tmp_path, "ana"), erase="erase").run()
    assert sorted(path.name for path in folder.glob(".*")) == [".two.parquet.12"], "somebody may be writing it"
