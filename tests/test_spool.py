"""Events while the log is away: on the disk, in order, until it is back; refused in words where there is no room."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from bench.away import Away, run
from ledstream import parts as wiring
from ledstream.settings import SettingsError, read_settings
from serving.app import create_app
from store.connection import Client
from store.embedded import EmbeddedStore
from stream.events import Event, decode_event, encode_event
from stream.kept import SPOOLED, KeptLog
from stream.log import Entry, LogUnavailable, Position
from stream.memory_log import MemoryLog
from stream.spool import Addressed, Spool, SpoolFull, Taken
from stream.topics import EVENTS, topics
from tests.conftest import missing
from tests.eventually import until
from tests.running import running
from tests.servers import ServerMissing, free_ports, kafka_libs
from tests.small_disk import disk
from tests.small_server import parts_of

LARGE, ROOT = 1 << 30, Path(__file__).parents[1]


class LogAway(MemoryLog):
    """A log that can be away, altogether or for the first so many entries of a call."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.takes: int | None = None
        for topic, partitions in topics(2).items():
            self.create_topic(topic, partitions)

    def append(self, topic: str, entries: Sequence[Entry]) -> list[Position | LogUnavailable]:
        if self.is_away:
            raise LogUnavailable("the broker is away")
        takes = len(entries) if self.takes is None else self.takes
        left: list[Position | LogUnavailable] = [LogUnavailable("not acknowledged")] * (len(entries) - takes)
        return super().append(topic, entries[:takes]) + left

    def items(self, user: str) -> list[str]:
        numbers = range(self.partitions(EVENTS))
        events = [decode_event(one.value) for number in numbers for one in self.read(EVENTS, number, 0, 10_000)]
        return [event.item_id for event in events if event.user_id == user]


def entry(item: str, user: str = "ana") -> Addressed:
    event = Event(user, item, "view", 1_790_000_000_000, f"{user}-{item}")
    return Addressed(EVENTS, Entry(user.encode(), encode_event(event), event.time_ms))


def entries(*items: str) -> list[Addressed]:
    return [entry(item) for item in items]


def taken(spool: Spool, at_once: int = 1000) -> list[Addressed]:
    """Everything, done as it is taken."""
    found: list[Addressed] = []
    while (some := spool.take(at_once)) is not None:
        found += some.entries
        spool.done(some)
    return found


def test_what_is_put_is_taken_in_its_order_by_whoever_comes_next(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", LARGE)
    assert spool.is_empty()
    spool.put(entries("a", "b"))
    spool.put(entries("c"))
    other = Spool(tmp_path / "spool", LARGE)
    other.put(entries("d"))
    spool.put(entries("e"))
    assert taken(Spool(tmp_path / "spool", LARGE), at_once=1) == entries("a", "b", "c", "d", "e")
    assert spool.is_empty()
    assert [path.name for path in spool.folder.iterdir()] == ["lock"]
    assert not spool.put(entries("f"), only_behind=True)


def test_what_was_taken_and_not_done_is_taken_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LARGE)
    spool.put(entries("a"))
    spool.put(entries("b"))
    first = spool.take(1)
    assert isinstance(first, Taken)
    assert spool.take(1) == first
    spool.done(first)
    spool.put(entries("c"))
    assert taken(Spool(tmp_path, LARGE)) == entries("b", "c")


def test_a_frame_cut_short_by_a_crash_is_left_out_and_what_comes_later_is_not(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LARGE)
    spool.put(entries("a"))
    (segment,) = tmp_path.glob("*.spool")
    whole = segment.read_bytes()
    segment.write_bytes(whole + whole[: len(whole) // 2])
    spool = Spool(tmp_path, LARGE)
    spool.put(entries("b"))
    assert taken(spool) == entries("a", "b")
    assert [path.suffix for path in tmp_path.glob("*.damaged")] == [".damaged"]


def test_segments_begin_anew_once_they_are_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.spool.SEGMENT_BYTES", 500)
    spool = Spool(tmp_path, LARGE)
    for number in range(50):
        spool.put(entries(f"item-{number}"))
    assert len(list(tmp_path.glob("*.spool"))) > 5
    assert taken(spool, at_once=7) == entries(*(f"item-{number}" for number in range(50)))


WRITER = """
import sys
from pathlib import Path
from stream.log import Entry
from stream.spool import Addressed, Spool
spool = Spool(Path(sys.argv[1]), 1 << 30)
for number in range(200):
    spool.put([Addressed("events", Entry(sys.argv[2].encode(), b"%d" % number, 1))])
"""


def test_processes_that_append_at_once_while_another_takes_lose_nothing(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, name], cwd=ROOT) for name in ("ana", "bob")]
    spool, found = Spool(tmp_path, LARGE), list[Addressed]()
    while any(writer.poll() is None for writer in writers):
        found += taken(spool, at_once=10)
    found += taken(spool)
    assert [writer.returncode for writer in writers] == [0, 0]
    for name in (b"ana", b"bob"):
        assert [int(one.entry.value) for one in found if one.entry.key == name] == list(range(200))


def test_a_full_spool_keeps_what_it_has_and_says_that_it_is_full(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 300)
    spool.put(entries("a"))
    with pytest.raises(SpoolFull, match=r"of 300 bytes are taken"):
        spool.put(entries(*"bcdef"))
    assert taken(spool) == entries("a")


def test_a_full_disk_is_a_full_spool(tmp_path: Path) -> None:
    with disk(tmp_path / "small", kilobytes=80) as folder:
        spool, names = Spool(folder, LARGE), [f"{number}" * 20 for number in range(1000)]
        put = 0

        def fill() -> None:
            nonlocal put
            for name in names:
                spool.put(entries(name))
                put += 1

        with pytest.raises(SpoolFull, match="No space left"):
            fill()
        assert put > 10
        assert taken(spool) == entries(*names[:put])


def test_without_a_place_to_keep_events_a_server_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = read_settings({}, {"spool_dir": tmp_path / "file" / "spool"})
    with pytest.raises(SettingsError, match=r"no event could be kept.*LEDSTREAM_SPOOL_DIR"):
        wiring.spool(settings)
    assert wiring.spool(read_settings({}, {"spool_mb": 0})) is None


def test_a_server_that_starts_while_the_log_is_away_keeps_events_and_without_a_spool_it_does_not_start(
    tmp_path: Path,
) -> None:
    nobody, port = free_ports(2)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LEDSTREAM_")}
    environ = kept | {"LEDSTREAM_LOG": f"redis://127.0.0.1:{nobody}", "LEDSTREAM_DATA_DIR": str(tmp_path)}
    environ["LEDSTREAM_PORT"] = str(port)
    command, base = [sys.executable, "-m", "ledstream", "serve"], f"http://127.0.0.1:{port}"
    with EmbeddedStore(tmp_path):
        refused = subprocess.run(
            command, env=environ | {"LEDSTREAM_SPOOL_MB": "0"}, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert (refused.returncode, "Traceback" in refused.stderr) == (2, False)
        with subprocess.Popen(command, env=environ, cwd=ROOT) as server:
            try:
                until(lambda: httpx.get(f"{base}/healthz").status_code == 200)
                event = {"user_id": "ana", "item_id": "hat", "kind": "view"}
                assert httpx.post(f"{base}/v1/events", json=event, timeout=20).status_code == 202
            finally:
                server.terminate()
        (found,) = taken(Spool(tmp_path / "spool", LARGE))
        assert decode_event(found.entry.value).item_id == "hat"


def test_once_anything_is_on_the_disk_everything_goes_behind_it_until_it_is_drained(tmp_path: Path) -> None:
    log = LogAway()
    kept = KeptLog(log, Spool(tmp_path, LARGE))
    assert isinstance(kept.append(entries("a"))[0], Position)
    log.is_away = True
    assert kept.append(entries("b", "c")) == [SPOOLED] * 2
    log.is_away = False
    assert kept.append(entries("d")) == [SPOOLED]  # or it would be before b
    assert log.items("ana") == ["a"]
    kept.start()
    until(lambda: log.items("ana") == ["a", "b", "c", "d"])
    until(Spool(tmp_path, LARGE).is_empty)
    assert isinstance(kept.append(entries("e"))[0], Position)
    kept.stop()


def test_of_a_call_that_failed_in_part_only_the_rest_goes_to_the_disk(tmp_path: Path) -> None:
    log = LogAway()
    kept = KeptLog(log, Spool(tmp_path, LARGE))
    log.takes = 1
    outcomes = kept.append(entries("a", "b", "c"))
    assert [type(outcome) for outcome in outcomes[:1]] == [Position]
    assert outcomes[1:] == [SPOOLED] * 2
    kept.start()  # and each try takes one more
    until(lambda: log.items("ana") == ["a", "b", "c"])
    kept.stop()


def test_a_topic_that_is_gone_is_a_log_that_is_away(tmp_path: Path) -> None:
    kept = KeptLog(MemoryLog(), Spool(tmp_path, LARGE))
    assert kept.append(entries("a")) == [SPOOLED]


def test_while_events_keep_coming_those_on_the_disk_are_drained_and_users_keep_their_order(tmp_path: Path) -> None:
    log = LogAway()
    kept, stop = KeptLog(log, Spool(tmp_path, LARGE)), threading.Event()
    sent: dict[str, int] = dict.fromkeys("abcdef", 0)

    def send() -> None:
        while not stop.is_set():
            for user, number in list(sent.items()):
                kept.append([entry(str(number), user)])
                sent[user] = number + 1

    log.is_away = True
    kept.start()
    sender = threading.Thread(target=send)
    sender.start()
    until(lambda: sent["f"] > 20)
    log.is_away = False
    until(lambda: len(log.items("f")) > 60)
    stop.set()
    sender.join()
    until(lambda: sum(len(log.items(user)) for user in sent) >= sum(sent.values()))
    kept.stop()
    for user, number in sent.items():
        assert log.items(user) == [str(n) for n in range(number)]


def test_a_server_answers_202_while_the_log_is_away_and_503_with_the_reason_once_its_spool_is_full(
    redis_client: Client, namespace: str, tmp_path: Path
) -> None:
    parts = parts_of(redis_client, namespace, tmp_path / "releases")
    log = LogAway()
    for record in parts.log.read("releases", 0, 0, 10):
        log.append("releases", [Entry(record.key, record.value, record.time_ms)])
    parts = replace(parts, log=log, spool=Spool(tmp_path / "spool", 2000))

    async def story() -> None:
        async with running(create_app(parts)) as client:
            log.is_away = True
            statuses = [(await post(client, number)).status_code for number in range(30)]
            assert statuses == sorted(statuses)
            assert set(statuses) == {202, 503}
            full = (await post(client, 99)).json()["verdicts"][0]
            assert full["reason"].startswith("the log is away and the spool is full")
            assert b"ledstream_spool_bytes" in (await client.get("/metrics")).content
            assert (await client.get("/v1/recommendations?user=ana")).status_code == 200
            log.is_away = False
            await asyncio.to_thread(until, Spool(tmp_path / "spool", 1).is_empty)
            assert (await post(client, 100)).status_code == 202
        assert log.items("eve") == [*map(str, range(statuses.count(202))), "100"]

    asyncio.run(story())


async def post(client: httpx.AsyncClient, number: int) -> httpx.Response:
    return await client.post("/v1/events", json={"user_id": "eve", "item_id": str(number), "kind": "view"})


def test_a_killed_valkey_loses_nothing_that_was_answered() -> None:
    figures = run("redis", Away(seconds=3, rate=300))
    assert (figures.lost, figures.misplaced, set(figures.statuses)) == (0, 0, {202})
    assert figures.accepted > 1000


@pytest.mark.kafka
@pytest.mark.slow
def test_a_killed_broker_loses_nothing_that_was_answered() -> None:
    try:
        kafka_libs()
    except ServerMissing as error:
        missing(str(error))
    figures = run("kafka", Away(seconds=20, rate=200), workers=2)
    assert (figures.lost, figures.misplaced, set(figures.statuses)) == (0, 0, {202})


def test_what_is_taken_out_is_gone_and_everything_else_stays_where_it_was(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20)
    for number in range(6):
        spool.put([Addressed(EVENTS, Entry(b"ana" if number % 2 else b"bob", b"%d" % number, number))])
    first = spool.take(2)
    assert first is not None
    size = spool.size()
    assert spool.take_out(lambda one: one.entry.key == b"ana") == 3
    assert spool.take_out(lambda one: one.entry.key == b"ana") == 0
    assert spool.size() == size
    spool.done(first)  # by another process, which read it before
    assert [one.entry.value for one in spool.entries()] == [b"2", b"4"]
    spool.put([Addressed(EVENTS, Entry(b"ana", b"later", 7))])
    (segment,) = tmp_path.glob("*.spool")
    assert b"ana" not in segment.read_bytes().replace(b"later", b"").split(b"bob")[0]
    while (taken := spool.take(1)) is not None:
        spool.done(taken)
    assert spool.is_empty()
