"""A store that is away, slow, or hangs: what a server answers meanwhile, and that nobody waits."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from serving.parts import Parts
from store.connection import connect
from store.embedded import EmbeddedStore
from store.user_state import UserStates
from tests.records import lengths
from tests.running import until
from tests.small_server import ANA, EVENT, parts_of, told
from tests.store_proxy import Command, StoreProxy
from tests.wire import Response, ask


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with EmbeddedStore(tmp_path / "own", extra=("--save", "")) as store:
        yield store


@pytest.fixture
def own_parts(own_store: EmbeddedStore, namespace: str, tmp_path: Path) -> Iterator[Parts]:
    with connect(own_store.address, timeout_s=0.25) as client:
        yield parts_of(client, namespace, tmp_path / "releases")


def test_while_the_store_hangs_nobody_waits_for_long_and_all_is_well_when_it_goes_on(
    own_parts: Parts, own_store: EmbeddedStore
) -> None:
    async def timed(port: int, target: str, method: str = "GET", body: bytes = b"") -> tuple[Response, float]:
        begun = time.monotonic()
        response = await ask(port, target, method, body)
        return response, time.monotonic() - begun

    async def story(port: int) -> None:
        assert own_store.pid is not None
        assert not orjson.loads((await ask(port, ANA)).body)["degraded"]
        os.kill(own_store.pid, signal.SIGSTOP)
        try:
            ends, waits = time.monotonic() + 2.5, []  # the store is looked for twice in between
            while time.monotonic() < ends:
                answer, waited_s = await timed(port, ANA)
                assert answer.status == 200
                assert (orjson.loads(answer.body)["degraded"], orjson.loads(answer.body)["source"]) == (True, "popular")
                waits.append(waited_s)
                for target, method, body, status in (
                    ("/v1/events", "POST", EVENT, 202),
                    ("/healthz", "GET", b"", 200),
                    ("/v1/recommendations", "POST", b'{"timeline":[{"item_id":"hat-01","kind":"view"}]}', 200),
                ):
                    response, waited_s = await timed(port, target, method, body)
                    assert (response.status, waited_s < 0.2) == (status, True), (target, waited_s)
                await asyncio.sleep(0.02)
            assert max(waits) < 0.5
            assert sum(waited_s > 0.1 for waited_s in waits) <= 1  # looking for it costs nobody a wait
            ready, waited_s = await timed(port, "/readyz")
            assert (ready.status, waited_s < 1.0) == (503, True)
            assert "Timeout" in orjson.loads(ready.body)["store"]
            user, waited_s = await timed(port, "/v1/users/ana")
            assert (user.status, user.headers["retry-after"], waited_s < 1.0) == (503, "1", True)
        finally:
            os.kill(own_store.pid, signal.SIGCONT)
        await until(lambda: is_personal(port))
        assert (await ask(port, "/readyz")).status == 200

    told(own_parts, story)


def test_a_store_that_is_slow_but_in_time_costs_its_slowness_and_one_that_is_too_slow_the_person(
    own_parts: Parts, own_store: EmbeddedStore, namespace: str
) -> None:
    slow_s = 0.0

    def before(command: Command) -> None:
        if command.reads(b":u:"):
            time.sleep(slow_s)

    async def story(port: int) -> None:
        nonlocal slow_s
        for takes_s, degraded in ((0.05, False), (0.6, True)):
            slow_s = takes_s
            begun = time.monotonic()
            answer = orjson.loads((await ask(port, ANA)).body)
            assert answer["degraded"] is degraded
            assert time.monotonic() - begun < 0.5
        slow_s = 0.0
        await until(lambda: is_personal(port))

    with (
        StoreProxy(own_store.address, before) as proxy,
        connect(proxy.address, timeout_s=0.25) as client,
    ):
        told(replace(own_parts, states=UserStates(client, namespace, lengths)), story)


def test_a_store_that_was_not_there_when_the_server_started_is_found(
    own_parts: Parts, own_store: EmbeddedStore
) -> None:
    own_store.stop()

    async def story(port: int) -> None:
        assert orjson.loads((await ask(port, ANA)).body)["degraded"]
        assert (await ask(port, "/readyz")).status == 503
        await asyncio.to_thread(own_store.start)
        await until(lambda: is_recovered(port))

    async def is_recovered(port: int) -> bool:
        return not orjson.loads((await ask(port, ANA)).body)["degraded"]

    told(own_parts, story)


async def is_personal(port: int) -> bool:
    return bool(orjson.loads((await ask(port, ANA)).body)["source"] == "personal")
