"""Real processes killed, halted and woken while events flow: in the end every record is as the log says."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from bench.every_user import Comparison
from bench.fault_processes import Consumer
from bench.faults import Options, is_good, run
from bench.world import events
from stream.events import Event
from tests.conftest import missing
from tests.eventually import until
from tests.processes import Processes
from tests.servers import ServerMissing, kafka_libs
from tests.store_proxy import Command, StoreProxy

USERS, ITEMS = 300, 50
pytestmark = [pytest.mark.kafka, pytest.mark.faults, pytest.mark.slow]


def made(how_many: int, seed: int) -> list[Event]:
    start_ms = int(time.time() * 1000) - how_many
    return list(events(how_many, users=USERS, items=ITEMS, seed=seed, start_ms=start_ms))


@pytest.mark.parametrize("log", ["kafka", "redis"])
def test_whatever_is_killed_while_events_flow_every_record_is_as_the_log_says(log: str) -> None:
    if log == "kafka":
        try:
            kafka_libs()
        except ServerMissing as error:
            missing(str(error))
    figures = run(Options(kills=8, log=log, seed=5, users=2000, rate=300.0, every_s=1.0))
    assert is_good(figures), figures
    kills = figures["kills"]
    assert isinstance(kills, dict)
    assert min(kills.values()) > 0


def test_a_consumer_that_wakes_after_its_session_with_a_batch_in_hand_overwrites_nothing_and_is_a_member_again(
    kafka_bootstrap: str, redis_address: str, namespace: str, tmp_path: Path
) -> None:
    is_armed, is_halted, may_pass = threading.Event(), threading.Event(), threading.Event()

    def halt_at_the_first_write(command: Command) -> None:
        if is_armed.is_set() and not is_halted.is_set() and command.writes(b":u:"):
            sleeper.halt()
            is_halted.set()
            may_pass.wait()

    with (
        Processes(f"kafka://{kafka_bootstrap}", redis_address, namespace, tmp_path) as processes,
        StoreProxy(redis_address, halt_at_the_first_write) as proxy,
    ):
        sleeper = processes.consumer("sleeper", store=proxy.address)
        processes.send(made(3000, seed=1))
        processes.settle()

        is_armed.set()
        processes.send(made(1000, seed=2))
        assert is_halted.wait(20)
        other = processes.consumer("other")
        processes.settle()
        processes.send(made(1000, seed=3))
        processes.settle()
        before = stored(processes)

        may_pass.set()  # the write it was halted in arrives only now
        sleeper.wake()
        until(lambda: sleeper.asked("rewinds") >= 1, 60)
        assert "reading on from there" in sleeper.log.read_text()
        assert stored(processes) == before

        consumed = [one.asked("consumed") for one in (sleeper, other)]
        until(lambda: is_shared_out(processes, [sleeper, other], consumed), 60)
        processes.settle()
        agrees(processes.compared())
        assert [sleeper.end(), other.end()] == [0, 0]


def is_shared_out(processes: Processes, consumers: list[Consumer], consumed: list[float]) -> bool:
    """Whether each has read more than that. More is sent meanwhile."""
    processes.send(made(50, seed=time.monotonic_ns()))
    return all(one.asked("consumed") > before for one, before in zip(consumers, consumed, strict=True))


def stored(processes: Processes) -> list[bytes]:
    """The users' records, byte by byte."""
    found = processes.store.mget(processes.states.keys([f"user-{number}" for number in range(USERS)]))
    return [bytes(record or b"") for record in found]


def agrees(found: Comparison) -> None:
    assert (found.timelines_differing, found.missing, found.surplus) == (0, 0, 0), found.differing
    assert found.users > 0
