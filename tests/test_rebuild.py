"""All user records made anew, beside consumers that run, and by a process that may die in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from consumers.archive import ArchiveConsumer
from consumers.timelines import TimelineConsumer
from ledstream import parts
from ledstream.cli import main
from ledstream.rebuild_command import HOLD_S, Rebuild
from ledstream.settings import PREFIX, Settings, SettingsError, read_settings
from store.archive import Archive
from store.connection import Client, StoreUnavailable, connect
from store.embedded import EmbeddedStore
from store.user_record import UserRecord
from store.user_state import UserStates
from stream.events import Event, encode_event, erasure
from stream.log import Entry, Log
from stream.topics import EVENTS
from tests.eventually import until
from tests.store_proxy import Command, StoreProxy
from tests.troubled_log import TroubledLog, consume
from training.progress import silent

DAY_MS = 86_400_000
USERS = [f"user-{n}" for n in range(40)]


def views(how_many: int, *, first: int = 0, at: int | None = None) -> list[Event]:
    now_ms = int(time.time() * 1000) if at is None else at
    return [Event(USERS[n % len(USERS)], f"item-{n % 7}", "view", now_ms + n) for n in range(first, first + how_many)]


def send(log: Log, events: Sequence[Event]) -> None:
    log.append(EVENTS, [Entry(event.user_id.encode(), encode_event(event), event.time_ms) for event in events])


def archived(settings: Settings, log: TroubledLog) -> None:
    consume(log, ArchiveConsumer(parts.archive(settings, log), time.monotonic), group="archive")


def contents(states: UserStates, users: Sequence[str] = USERS) -> list[object]:
    """All that the log decides of each user: where its vector was rounded on the way is not among it."""
    found: list[object] = []
    for record in states.read(users):
        assert record is None or isinstance(record, UserRecord)
        found.append(record and (record.position, record.applied, record.timeline.tobytes(), record.earlier))
    return found


def wreck(client: Client, namespace: str) -> None:
    """Some records are gone, others nonsense, others a copy of somebody else's."""
    keys = sorted(client.scan_iter(f"{namespace}:u:*"))
    client.delete(*keys[::3])
    for key in keys[1::3]:
        client.set(key, b"nonsense")
    for key, other in zip(keys[2::3], keys[5::3], strict=False):
        client.copy(key, other, replace=True)


@pytest.fixture
def log() -> TroubledLog:
    return TroubledLog(partitions=3)


@pytest.fixture
def settings(tmp_path: Path, namespace: str) -> Settings:
    return read_settings({}, {"data_dir": tmp_path, "namespace": namespace, "timeline_events": 5})


@pytest.fixture
def states(settings: Settings, redis_client: Client) -> UserStates:
    return parts.user_states(settings, redis_client)


def rebuild(settings: Settings, log: Log, states: UserStates) -> Rebuild:
    return Rebuild(settings, log, states, silent)


def consumer(log: TroubledLog, states: UserStates) -> TimelineConsumer:
    return TimelineConsumer(states, lambda: None, log.identity(EVENTS), max_events=5)


def test_wrecked_records_are_what_they_were_after_a_rebuild_from_either(
    settings: Settings, log: TroubledLog, states: UserStates, redis_client: Client
) -> None:
    send(log, [*views(300), erasure(USERS[3], int(time.time() * 1000))])
    consume(log, consumer(log, states))
    archived(settings, log)
    send(log, views(50, first=300))  # not archived yet
    consume(log, consumer(log, states))
    whole = contents(states)
    wreck(redis_client, settings.namespace)
    assert rebuild(settings, log, states).from_archive().startswith("40 users from 300 events in ")
    consume(log, consumer(log, states))
    assert contents(states) == whole
    wreck(redis_client, settings.namespace)
    assert "consumers read 351 records of the log again" in rebuild(settings, log, states).from_log()
    assert contents(states) == [None] * len(USERS)
    consume(log, consumer(log, states))
    assert contents(states) == whole


def test_a_consumer_that_runs_waits_for_the_rebuild_and_goes_on_behind_the_archive(
    settings: Settings, log: TroubledLog, states: UserStates, redis_client: Client
) -> None:
    send(log, views(200))
    stop, handler = threading.Event(), consumer(log, parts.user_states(settings, redis_client))

    def run() -> None:
        consume(log, handler, until=lambda _: False, stop=stop)

    process = threading.Thread(target=run)
    process.start()
    archived(settings, log)
    until(lambda: None not in contents(states), 15)
    whole = contents(states)
    wreck(redis_client, settings.namespace)
    rebuild(settings, log, states).from_archive()
    send(log, views(1, first=200))
    until(lambda: contents(states)[1:] == whole[1:] and contents(states)[:1] != whole[:1], 15)
    stop.set()
    process.join()


def test_users_long_gone_are_left_out_and_an_erasure_is_heeded(
    settings: Settings, log: TroubledLog, states: UserStates
) -> None:
    now_ms = int(time.time() * 1000)
    long_ago = now_ms - 1000 * settings.idle_after_s - DAY_MS
    send(log, [Event(user, "old", "view", long_ago) for user in ("gone", "back", "erased", "soon")])
    send(log, [Event("back", "new", "view", now_ms), erasure("erased", now_ms)])
    archived(settings, log)
    send(log, [Event("soon", "new", "view", now_ms)])  # in the log alone
    assert rebuild(settings, log, states).from_archive().startswith("3 users from 4 events in ")
    consume(log, consumer(log, states))
    gone, back, erased, soon = states.read(["gone", "back", "erased", "soon"])
    assert gone is None
    assert [len(one.timeline) for one in (back, erased, soon) if isinstance(one, UserRecord)] == [2, 0, 2]


def test_events_of_a_log_that_was_lost_come_first(settings: Settings, states: UserStates) -> None:
    now_ms = int(time.time() * 1000)
    for n, item in enumerate(["first", "second"]):
        log = TroubledLog(partitions=2)
        send(log, [Event("ana", item, "view", now_ms + n)])
        archived(settings, log)
        consume(log, consumer(log, states))
    (before,) = contents(states, ["ana"])
    again = rebuild(settings, log, states)
    assert again.further_back() == "archive"
    again.from_archive()
    assert contents(states, ["ana"]) == [before]


def test_the_log_is_read_again_where_the_archive_reaches_no_further_back(
    settings: Settings, log: TroubledLog, states: UserStates
) -> None:
    again = rebuild(settings, log, states)
    assert again.further_back() == "log"
    with pytest.raises(SettingsError, match="there is no archive"):
        again.from_archive()
    send(log, views(20))
    archived(settings, log)
    assert again.further_back() == "log"


def test_two_rebuilds_at_once_are_one_too_many_and_a_lapsed_hold_is_noticed(
    settings: Settings, log: TroubledLog, states: UserStates, redis_client: Client
) -> None:
    send(log, views(20))
    archived(settings, log)
    other = parts.user_states(settings, redis_client)
    other.hold("process 5 on elsewhere", HOLD_S)
    with pytest.raises(StoreUnavailable, match="being rebuilt by process 5 on elsewhere"):
        rebuild(settings, log, states).from_archive()
    with pytest.raises(StoreUnavailable, match="being rebuilt by process 5 on elsewhere"):
        states.position(1)
    assert other.position(1) is None, "who holds them is not kept out"
    redis_client.delete(f"{settings.namespace}:rebuilding")
    for attempt in (lambda: other.hold_on(HOLD_S), lambda: other.position(1), lambda: other.read_bytes([], 1)):
        with pytest.raises(StoreUnavailable, match="lapsed"):
            attempt()
    other.let_go()
    assert states.position(1) is None
    rebuild(settings, log, states).from_archive()
    assert not redis_client.exists(f"{settings.namespace}:rebuilding")


def test_a_consumer_that_slept_with_a_batch_in_hand_stores_nothing_of_it_once_a_rebuild_began_or_is_over(
    settings: Settings, log: TroubledLog, states: UserStates, redis_address: str
) -> None:
    """Users it had found nowhere would be new to the store again: with the end of their past, and not the rest."""
    meanwhile: list[bytes] = []
    left_of_it: list[object] = []

    def sleep_through_a_rebuild(command: Command) -> None:
        if command.writes(b":u:") and meanwhile and not left_of_it:  # it reads on from the start
            left_of_it.extend(contents(states, [*USERS, "ana"]))
        if command.writes(b":u:") and not meanwhile:
            meanwhile.append(command.keys[-1])
            states.hold("process 5 on elsewhere", HOLD_S)
            with connect(redis_address) as client:
                assert len(client.execute_command("EVALSHA", *command.words[1:])) == len(command.keys) - 2
            states.let_go()
            rebuild(settings, log, states).from_log()

    send(log, views(60))
    with StoreProxy(redis_address) as proxy, connect(proxy.address) as client:
        sleeper = parts.user_states(settings, client)
        consume(log, consumer(log, sleeper))
        send(log, [Event("ana", f"item-{n}", "view", int(time.time() * 1000)) for n in range(3)])
        proxy.before = sleep_through_a_rebuild
        consume(log, consumer(log, sleeper))
    assert meanwhile
    assert left_of_it == [None] * (len(USERS) + 1)
    consume(log, consumer(log, states))
    again = contents(states, [*USERS, "ana"])
    assert None not in again
    rebuild(settings, log, states).from_log()
    consume(log, consumer(log, states))
    assert contents(states, [*USERS, "ana"]) == again


@contextmanager
def running(settings: Settings, *words: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of ours, killed at the end."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "ledstream", *words],
            env=environ | settings.as_environ(),
            stdout=out,
            stderr=out,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_rebuild_killed_in_the_middle_and_run_again_beside_running_consumers_gives_the_same_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole of it with real processes: log and store in one Valkey, a consumer of each kind, the command."""
    with EmbeddedStore(tmp_path) as server, connect(server.address) as client:
        settings = read_settings(
            {}, {"data_dir": tmp_path, "archive_flush_s": 0.2, "log": server.address, "store": server.address}
        )
        log, states = parts.open_log(settings), parts.user_states(settings, client)
        send(log, views(4000))
        with (
            running(settings, "consume", "timelines", log=tmp_path / "timelines.log"),
            running(settings, "consume", "archive", log=tmp_path / "archive.log"),
        ):
            archive = Archive(settings.archive_dir, log.identity(EVENTS))
            until(lambda: archive.count() == 4000, 60)
            until(lambda: sum(record.applied for record in records(states)) == 4000, 60)
            whole = contents(states)
            wreck(client, settings.namespace)
            died_after = killed_in_the_middle(settings, server.address, tmp_path / "rebuild.log")
            assert died_after == 3
            assert 0 < int(client.ttl(f"{settings.namespace}:rebuilding")) <= HOLD_S
            assert contents(states) != whole
            client.delete(f"{settings.namespace}:rebuilding")  # as HOLD_S seconds do
            for name, value in settings.as_environ().items():
                monkeypatch.setenv(name, value)
            assert main(["rebuild", "--from", "archive"]) == 0
            assert "40 users from 4,000 events in " in capsys.readouterr().out
            assert contents(states) == whole
            send(log, views(40, first=4000))
            until(lambda: sum(record.applied for record in records(states)) == 4040, 15)
            wreck(client, settings.namespace)
            assert main(["rebuild"]) == 0
            assert "consumers read 4,040 records of the log again" in capsys.readouterr().out
            until(lambda: sum(record.applied for record in records(states)) == 4040, 15)
        log.close()


def records(states: UserStates) -> list[UserRecord]:
    return [record for record in states.read(USERS) if isinstance(record, UserRecord)]


def killed_in_the_middle(settings: Settings, store: str, output: Path) -> int:
    """Run the command and kill it before its third write of records; returns the number of that write."""
    writes: list[Command] = []
    process: list[subprocess.Popen[bytes]] = []

    def kill_at_the_third(command: Command) -> None:
        if command.writes(b":u:"):
            writes.append(command)
            if len(writes) == 3:
                process[0].send_signal(signal.SIGKILL)
                process[0].wait()

    with StoreProxy(store, kill_at_the_third) as proxy:
        through = settings.model_copy(update={"store": proxy.address})
        with running(through, "rebuild", "--from", "archive", log=output) as one:
            process.append(one)
            one.wait(60)
    assert one.returncode == -signal.SIGKILL, output.read_text()
    return len(writes)
