"""Users who were erased, everywhere they had been, and whatever is replayed, restored or sent again afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledstream import parts
from ledstream.cli import main
from ledstream.rebuild_command import Rebuild
from ledstream.settings import PREFIX, Settings, read_settings
from ledstream.train_command import train_once
from store.archive import read_archive
from store.connection import Client
from stream.erased_records import erased_in
from stream.events import Event, decode_event, encode_event, erasure
from stream.log import Entry, Log
from stream.spool import Addressed
from stream.topics import BAD_ROWS, DEAD_LETTERS, EVENTS, IMPRESSIONS
from tests.erasure_world import ErasureWorld
from training.interactions import Selection, collect
from training.progress import silent

VISITOR = "anon-" + "7" * 32


@pytest.fixture
def settings(redis_address: str, namespace: str, tmp_path: Path) -> Settings:
    where = {"log": redis_address, "store": redis_address, "namespace": namespace, "data_dir": tmp_path / "data"}
    return read_settings({}, where | {"dim": 4, "partitions": 3, "spool_mb": 4})


@pytest.fixture
def world(settings: Settings, redis_client: Client) -> Iterator[ErasureWorld]:
    log = parts.open_log(settings)
    yield ErasureWorld(settings, log, redis_client)
    log.close()


def now_ms() -> int:
    return int(time.time() * 1000)


def viewed(user: str, *items: str, at: int) -> list[Event]:
    return [Event(user, item, "view", at + n, f"{user}-{item}-{at}") for n, item in enumerate(items)]


def names_in_archive(settings: Settings) -> set[str]:
    return set(map(str, read_archive(settings.archive_dir)["user_id"].to_pylist()))


def learnt(settings: Settings, log: Log) -> set[str]:
    """Items of a release trained now."""
    release = parts.releases(settings).load(train_once(settings, log, now_ms()))
    return {release.item_id(row) for row in range(release.items)}


def shop_is_visited(world: ErasureWorld, users: list[str], past: int) -> None:
    """The first five hundred look at what nobody else does. The last event of each is read by no consumer yet."""
    items = [(f"hat-{n % 5}", f"secret-{n % 10}" if n < 500 else f"hat-{n % 7}") for n in range(len(users))]
    visits = zip(users, items, strict=True)
    world.send(*(event for user, theirs in visits for event in viewed(user, *theirs, at=past)))
    world.leave_traces(users[:20], past)
    world.fold()
    world.archive()
    world.send(*(event for user in users for event in viewed(user, "belt", at=past + 5000)))


def replayed(world: ErasureWorld) -> None:
    """The log is read again from its oldest record, by a store that knows nothing."""
    world.forget_everything()
    world.fold()


def test_a_thousand_users_erased_the_log_replayed_a_backup_restored_retrained_and_none_is_found(
    world: ErasureWorld, settings: Settings
) -> None:
    gone, stay = [f"gone-{n}" for n in range(1000)], [f"stay-{n}" for n in range(200)]
    past = now_ms() - 60_000
    shop_is_visited(world, [*gone, *stay], past)
    assert "secret-1" in learnt(settings, world.log)
    restore = world.backup()

    receipts = world.erase(*gone)

    assert len({one["receipt"]["user"] for one in receipts}) == 1000
    assert world.known(gone) == []
    world.fold()
    world.archive()
    assert (world.known(gone), world.known(stay)) == ([], stay)
    assert "secret-1" not in learnt(settings, world.log), "before any file was rewritten"
    assert world.wrong() >= {"archive", "log"}
    replayed(world)
    assert (world.known(gone), world.known(stay)) == ([], stay)
    world.clear()
    assert world.wrong() == set()
    assert names_in_archive(settings) == set(stay)
    replayed(world)
    assert (world.known(gone), world.known(stay)) == ([], stay)
    Rebuild(settings, world.log, world.states, silent).from_archive()
    world.fold()
    assert (world.known(gone), world.known(stay)) == ([], stay)

    restore()
    assert len(world.known(gone)) == 1000, "the store is as old as its copy"
    assert "secret-1" not in learnt(settings, world.log)
    assert world.wrong() == {"store", "archive"}
    world.clear()
    world.fold()
    assert (world.wrong(), world.known(gone), world.known(stay)) == (set(), [], stay)
    assert "secret-1" not in learnt(settings, world.log)
    assert names_in_archive(settings) == set(stay)


def test_what_an_erased_user_does_later_is_a_new_life(world: ErasureWorld, settings: Settings) -> None:
    world.send(*viewed("ana", "hat", "belt", at=now_ms() - 1000))
    world.fold()
    world.archive()
    world.erase("ana")
    world.send(*viewed("ana", "shoe", at=now_ms() + 1000))
    world.fold()
    world.archive()
    world.clear()
    assert (world.timeline("ana"), world.wrong()) == (1, set())
    rows = read_archive(settings.archive_dir).to_pylist()
    assert [(row["user_id"], row["item_id"]) for row in rows] == [("ana", "shoe")]
    world.forget_everything()
    world.fold()
    assert world.timeline("ana") == 1


def test_the_past_sent_again_as_new_does_not_bring_anybody_back(world: ErasureWorld, settings: Settings) -> None:
    """A browser that was offline, bad rows and dead letters replayed: they happened before, whenever they come."""
    past = now_ms() - 5000
    world.send(*viewed("ana", "hat", at=past))
    world.erase("ana")
    late = viewed("ana", "belt", at=past + 1)
    world.log.append(EVENTS, [entry._replace(time_ms=now_ms() + 500) for entry in map(_entry, late)])
    world.fold()
    world.archive()
    assert (world.timeline("ana"), names_in_archive(settings)) == (0, set())


def test_consumers_that_were_behind_or_ahead_end_with_the_same(world: ErasureWorld) -> None:
    world.send(*viewed("behind", "hat", at=now_ms() - 2000), *viewed("ahead", "hat", at=now_ms() - 2000))
    world.fold()
    world.send(*viewed("behind", "belt", at=now_ms() - 1000))
    world.erase("behind", "ahead")
    assert world.known(["behind", "ahead"]) == []
    world.fold()
    assert world.known(["behind", "ahead"]) == []
    world.clear()
    assert [kept.user_id for kept in world.users.scan()] == [], (
        "the marks that held off the past are not needed any more"
    )


def test_a_second_receipt_does_not_say_that_something_was_removed_again(world: ErasureWorld) -> None:
    world.send(*viewed("ana", "hat", at=now_ms() - 1000))
    world.fold()
    told = [world.erase("ana")[0]["receipt"]["stores"]["record"] for _ in range(2)]
    assert [one.partition(",")[0] for one in told] == ["removed", "empty when looked at: nothing was there"]


def test_a_visitor_who_became_the_user_is_erased_with_the_user(world: ErasureWorld) -> None:
    past = now_ms() - 3000
    world.send(*viewed(VISITOR, "hat", at=past), *viewed("eve", "belt", at=past))
    world.fold()
    world.users.link(VISITOR, "eve", past)
    (receipt,) = world.erase("eve")
    assert len(receipt["receipt"]["visitors"]) == 1
    assert world.known([VISITOR, "eve"]) == []
    assert world.users.visitors("eve") == []
    world.archive()
    world.clear()
    assert names_in_archive(world.settings) == set()


def test_what_waits_on_the_disk_for_the_log_is_taken_out(world: ErasureWorld) -> None:
    assert world.spool is not None
    kept = [Addressed(EVENTS, _entry(one)) for user in ("ana", "bob") for one in viewed(user, "hat", at=now_ms() - 9)]
    world.spool.put(kept)
    world.erase("ana")
    assert {one.entry.key for one in world.spool.entries()} == {b"ana", b"bob"}
    (ana,) = [one for one in world.spool.entries() if one.entry.key == b"ana"]
    assert decode_event(ana.entry.value).kind == "erase", "everything goes behind what waits, the erasure too"
    assert world.wrong() == set()


def test_an_erasure_that_only_the_log_knew_is_one_like_others(world: ErasureWorld, settings: Settings) -> None:
    """As a server on another machine wrote it."""
    past = now_ms() - 3000
    world.send(*viewed("ana", "hat", at=past), *viewed("bob", "hat", at=past))
    world.archive()
    world.send(erasure("ana", past + 10))
    world.fold()
    world.archive()
    world.clear()
    assert names_in_archive(settings) == {"bob"}
    assert len(parts.tombstones(settings)) == 1


def test_listings_leave_out_whom_an_erasure_took(
    world: ErasureWorld, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in settings.as_environ().items():
        monkeypatch.setenv(name, value)
    world.leave_traces(["ana", "bob"], now_ms() - 3000)
    world.fold()
    world.erase("ana")
    capsys.readouterr()
    for command in ("badrows", "deadletters"):
        assert main([command, "list"]) == 0
        told = capsys.readouterr().out
        assert ("bob" in told, "ana" in told) == (True, False), told


def test_a_visitor_who_signs_in_leaves_no_tombstone_and_what_was_done_counts_once_as_the_users(
    world: ErasureWorld, settings: Settings
) -> None:
    past = now_ms() - 3000
    world.send(*viewed(VISITOR, "hat", "belt", at=past), *viewed("bob", "hat", at=past))
    world.archive()
    world.send(*viewed("eve", "hat", "belt", at=past), erasure(VISITOR, now_ms(), is_merge=True))
    world.fold()
    world.archive()
    world.clear()
    assert len(parts.tombstones(settings)) == 0
    assert world.known([VISITOR, "eve", "bob"]) == ["eve", "bob"]
    learning = collect(read_archive(settings.archive_dir), Selection({"view": 1.0}))
    assert (sorted(learning.user_ids), learning.matrix.nnz) == (["bob", "eve"], 3)


def test_records_of_other_topics_go_on_a_single_box(world: ErasureWorld, settings: Settings) -> None:
    world.leave_traces(["ana", "bob"], now_ms() - 3000)
    world.fold()
    world.erase("ana")
    for topic in (IMPRESSIONS, BAD_ROWS, DEAD_LETTERS):
        assert len(list(erased_in(world.log, topic, parts.tombstones(settings)))) == 1, topic
    world.fold()
    world.archive()
    done = world.clear()
    assert [done[f"{topic} records"] for topic in (IMPRESSIONS, BAD_ROWS, DEAD_LETTERS, EVENTS)] == [1, 1, 1, 1]
    assert world.found() == []


def test_receipts_are_checked_and_restore_what_a_lost_disk_forgot(
    world: ErasureWorld, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in settings.as_environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(f"{PREFIX}ERASURE_KEY", "a secret of this test")
    world.settings = read_settings({f"{PREFIX}ERASURE_KEY": "a secret of this test"}, _given(settings))
    world.send(*viewed("ana", "hat", at=now_ms() - 3000))
    world.archive()
    (receipt,) = world.erase("ana")
    file = settings.data_dir / "receipt.json"
    file.write_text(json.dumps({"user": "ana", "status": "accepted", "receipt": receipt}))
    assert "ana" not in json.dumps(receipt)
    assert main(["erasures", "check", str(file), "--user", "ana"]) == 0
    assert main(["erasures", "check", str(file), "--user", "bob"]) == 1
    for folder in (parts.erasures_dir(settings), settings.archive_dir):
        (folder / "tombstones.jsonl").unlink()
    assert main(["erasures", "verify"]) == 0, "nobody knows of any erasure"
    assert main(["erasures", "restore", str(file)]) == 0
    capsys.readouterr()
    assert main(["erasures", "verify", "--json"]) == 1
    (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "archive" in line]
    assert (line["user"], line["events"]) == (receipt["receipt"]["user"], 1)
    assert main(["erasures", "compact"]) == 0
    assert main(["erasures", "verify"]) == 0
    assert main(["erasures", "list", "--user", "ana"]) == 0
    assert receipt["receipt"]["user"] in capsys.readouterr().out
    receipt["receipt"]["erased_ms"] += 1
    file.write_text(json.dumps(receipt))
    assert main(["erasures", "check", str(file)]) == 1
    assert "altered" in capsys.readouterr().out


def _given(settings: Settings) -> dict[str, object]:
    return {name: getattr(settings, name) for name in ("log", "store", "namespace", "data_dir", "dim", "partitions")}


def _entry(event: Event) -> Entry:
    return Entry(event.user_id.encode(), encode_event(event), event.time_ms)


@pytest.mark.kafka
def test_on_kafka_replays_bring_nobody_back_and_verify_says_how_long_the_log_remembers(
    kafka_bootstrap: str, settings: Settings, redis_client: Client
) -> None:
    users = [f"gone-{n}" for n in range(50)]
    kafka = settings.model_copy(update={"log": f"kafka://{kafka_bootstrap}"})
    log = parts.open_log(kafka)
    try:
        world = ErasureWorld(kafka, log, redis_client)
        world.send(*(event for user in [*users, "stays"] for event in viewed(user, "hat", "belt", at=now_ms() - 9000)))
        world.leave_traces(users[:3], now_ms() - 9000)
        world.fold()
        world.archive()
        world.erase(*users)
        assert world.known([*users, "stays"]) == ["stays"]
        world.clear()
        replayed(world)
        assert (world.known([*users, "stays"]), world.wrong()) == (["stays"], set())
        assert names_in_archive(kafka) == {"stays"}
        kept = [one for one in world.found() if one.where.startswith("events/")]
        assert sum(one.events for one in kept) == 50 * 2 + 3
        assert all("retention" in one.until for one in kept)
    finally:
        log.close()
