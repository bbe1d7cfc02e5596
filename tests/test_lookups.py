"""Look-ups from inside an event loop: what a store may do besides answering, and that it is found again after all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.connection import Line, connect
from store.embedded import EmbeddedStore
from store.lookups import Found, Lookups


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with EmbeddedStore(tmp_path, extra=("--save", "", "--databases", "2")) as store:
        yield store


def test_a_store_that_refuses_the_connection_for_a_reason_nobody_thought_of_is_found_once_it_does_not(
    own_store: EmbeddedStore,
) -> None:
    """A user of the store without the right to choose its database, which somebody gives him then."""

    async def story() -> None:
        with connect(own_store.address) as admin, connect(f"{own_store.address}?username=app&password=pw&db=1") as app:
            admin.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "-select")
            lookups = Lookups(app, timeout_s=1.0, pause_s=0.05)
            await lookups.start()
            assert isinstance(await looked_up(lookups), Exception)
            admin.execute_command("ACL", "SETUSER", "app", "+select")
            ends = time.monotonic() + 10
            while isinstance(found := await looked_up(lookups), Exception) and time.monotonic() < ends:
                await asyncio.sleep(0.05)
            assert found == [b""]
            lookups.stop()

    asyncio.run(story())


def test_who_fails_with_an_answer_does_not_make_the_next_one_that_of_somebody_else(own_store: EmbeddedStore) -> None:
    """Two answers that come in one piece, and a third afterwards."""

    def fails(_: Found) -> None:
        raise RuntimeError("no use for it")

    async def story() -> None:
        with connect(own_store.address) as client:
            client.mset({"ana": "hats", "ben": "boots", "cleo": "coats"})
            lookups = Lookups(client, timeout_s=1.0)
            await lookups.start()
            bens: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
            cleos: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
            lookups.ask([b"ana"], fails)
            lookups.ask([b"ben"], bens.set_result)
            time.sleep(0.2)  # both answers are there before the loop looks
            assert await bens == [b"boots"]
            lookups.ask([b"cleo"], cleos.set_result)
            assert await cleos == [b"coats"]
            lookups.stop()

    asyncio.run(story())


async def looked_up(lookups: Lookups) -> Found:
    answered: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
    lookups.ask([b"somewhere"], answered.set_result)
    return await answered


def test_what_a_store_says_unasked_is_no_answer_to_a_question(own_store: EmbeddedStore) -> None:
    with connect(own_store.address + "?protocol=3") as client, connect(own_store.address) as other:
        line = Line(client)
        try:
            line.send((b"CLIENT", b"TRACKING", b"ON"))
            assert answers(line, 1) == [b"OK"]
            line.send((b"MGET", b"hat"))
            assert answers(line, 1) == [[None]]
            other.set("hat", "new")  # the line is told that what it read is old
            time.sleep(0.05)
            line.send((b"MGET", b"hat"))
            assert answers(line, 1) == [[b"new"]]
        finally:
            line.close()


def answers(line: Line, number: int) -> list[object]:
    found: list[object] = []
    ends = time.monotonic() + 5
    while len(found) < number and time.monotonic() < ends:
        found += line.received()
    return found
