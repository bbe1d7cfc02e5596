"""The whole product from outside: posted over HTTP, seen in an answer, archived, trained on, swapped in, forgotten."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from ledstream.own_system import OwnSystem
from ledstream.settings import Settings, read_settings
from store.archive import read_archive
from tests.servers import free_ports

ROOT = Path(__file__).parent.parent
SOON_S = 10.0
READERS = 40
T = TypeVar("T")


@pytest.mark.slow
def test_the_loop_closes_on_the_embedded_default(tmp_path: Path) -> None:
    asyncio.run(the_whole_loop(system_settings(tmp_path)))


@pytest.mark.slow
@pytest.mark.kafka
def test_the_loop_closes_on_kafka_and_valkey(
    kafka_bootstrap: str, redis_address: str, namespace: str, tmp_path: Path
) -> None:
    asyncio.run(
        the_whole_loop(
            system_settings(tmp_path, log=f"kafka://{kafka_bootstrap}", store=redis_address, namespace=namespace)
        )
    )


@pytest.mark.slow
def test_the_demo_keeps_its_promises_beside_somebody_who_visits_its_shop_and_ends_with_one_line_of_figures() -> None:
    command = [sys.executable, "-m", "ledstream", "demo", "--for", "25"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as demo:
        assert demo.stdout is not None
        lines = iter(demo.stdout.readline, "")
        told: list[str] = []
        while not told or not told[-1].startswith("shop at "):
            told.append(next(lines))
        visit_the_shop(told[-1].split()[2], told[0].split()[3].rstrip(","))
        told += lines
    assert demo.returncode == 0, "".join(told)
    figures = json.loads(told[-1])
    assert figures["events_lost"] == figures["answer_errors"] == 0
    assert figures["events_sent"] == figures["events_applied"] > 0
    assert figures["swaps_under_load"] >= 1
    assert figures["recall20_personal"] > figures["recall20_popular"]
    assert {"answers", "answer_p50_ms", "answer_p99_ms", "first_answer_s"} <= set(figures)


def visit_the_shop(shop: str, server: str) -> None:
    """As a browser would; the shop may have opened a moment ago."""
    deadline = time.monotonic() + SOON_S
    while "/items/item-00007" not in (page := httpx.get(f"{shop}/categories/mugs").text):
        assert time.monotonic() < deadline, page
        time.sleep(0.1)
    assert f'src="{server}/ledstream.js"' in page
    assert httpx.get(f"{shop}/pictures/item-00007.svg").headers["content-type"].startswith("image/svg+xml")
    assert httpx.get(f"{server}/console").status_code == 200
    event = {"user_id": "anon-" + "0f" * 16, "item_id": "item-00007", "kind": "view"}
    posted = httpx.post(f"{server}/v1/events", json=event, headers={"origin": shop})
    assert (posted.status_code, posted.headers["access-control-allow-origin"]) == (202, shop)
    elsewhere = httpx.post(f"{server}/v1/events", json=event, headers={"origin": "http://127.0.0.1:1"})
    assert elsewhere.status_code == 403


def system_settings(folder: Path, **flags: str) -> Settings:
    chosen = {"data_dir": folder, "port": free_ports(1)[0], "archive_flush_s": 0.5, "dim": 8, "compact_every_s": 0.5}
    return read_settings({}, chosen | flags)


async def the_whole_loop(settings: Settings) -> None:
    """Readers of two tastes; one more reader, ana, shows what the system learnt."""
    async with OwnSystem(settings) as system, httpx.AsyncClient(base_url=system.address) as client:
        await two_tastes_are_read(client)
        await ana_reads(client, "tea-1")
        before = await answer(client)
        assert before["source"] == "popular", "there is no release yet"

        await until(lambda: archived_everything(settings), "the archive holds every event")
        await system.train()
        first = await until(lambda: personal_answer(client), "the release is swapped in")
        assert {item["item_id"][:3] for item in first["items"][:3]} == {"tea"}

        await ana_reads(client, "bolt-1", "bolt-2", "bolt-3")
        changed = await until(lambda: answer_with(client, "bolt"), "what ana read a moment ago changes her answer")
        assert changed["release"] == first["release"]

        await system.train()
        second = await until(lambda: another_release(client, first["release"]), "the retrain is swapped in")
        activated = await client.post(f"/v1/releases/{first['release']}/activate")
        assert activated.status_code == 200, activated.text
        await until(lambda: another_release(client, second["release"]), "one call goes back")

        erased = await client.delete("/v1/users/ana")
        assert (erased.status_code, await is_unknown(client)) == (202, True), "ana is forgotten at once"
        assert len(erased.json()["receipt"]["signature"]) == 64
        await until(lambda: archive_forgot(settings), "ana's events leave the archive by themselves")


async def two_tastes_are_read(client: httpx.AsyncClient) -> None:
    events = [
        {
            "user_id": f"reader-{reader}",
            "item_id": f"{('tea', 'bolt')[reader % 2]}-{(reader + step) % 9 + 1}",
            "kind": "view",
            "event_id": f"{reader}/{step}",
        }
        for reader in range(READERS)
        for step in range(6)
    ]
    posted = await client.post("/v1/events", json={"events": events})
    assert posted.json()["accepted"] == len(events), posted.text


async def ana_reads(client: httpx.AsyncClient, *items: str) -> None:
    posted = await client.post("/v1/events", json=[{"user_id": "ana", "item_id": i, "kind": "view"} for i in items])
    assert posted.status_code == 202, posted.text


async def answer(client: httpx.AsyncClient) -> dict[str, Any]:
    response = await client.get("/v1/recommendations", params={"user": "ana", "k": 8})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def personal_answer(client: httpx.AsyncClient) -> dict[str, Any] | None:
    found = await answer(client)
    return found if found["source"] == "personal" else None


async def answer_with(client: httpx.AsyncClient, taste: str) -> dict[str, Any] | None:
    found = await answer(client)
    return found if any(item["item_id"].startswith(taste) for item in found["items"][:3]) else None


async def another_release(client: httpx.AsyncClient, version: str) -> dict[str, Any] | None:
    found = await answer(client)
    return found if found["release"] != version else None


async def is_unknown(client: httpx.AsyncClient) -> bool:
    return (await client.get("/v1/users/ana")).status_code == 404


async def archive_forgot(settings: Settings) -> bool:
    return "ana" not in read_archive(settings.archive_dir)["user_id"].to_pylist()


async def archived_everything(settings: Settings) -> bool:
    return len(read_archive(settings.archive_dir)) == READERS * 6 + 1


async def until(look: Callable[[], Awaitable[T | None]], what: str) -> T:
    deadline = time.monotonic() + SOON_S
    while not (found := await look()):
        assert time.monotonic() < deadline, f"not within {SOON_S:g} s: {what}"
        await asyncio.sleep(0.05)
    return found
