"""Freshness is measured by records that are no events: everything reads past them, and nothing of them stays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from consumers.archive import ArchiveConsumer
from serving.app import create_app
from serving.parts import Limits, Parts
from serving.recent import newest_items
from store.archive import Archive
from store.connection import Client
from store.user_state import UserStates
from stream.decoding import Decoder
from stream.events import DecodeError, Event, decode_event, encode_event
from stream.log import Batch, Entry, Record
from stream.probes import PROBE, new_probe
from stream.topics import EVENTS
from tests.running import running, until
from tests.small_server import parts_of
from tests.test_read_your_writes import consuming
from tests.test_spool import LogAway
from tests.timeline_world import consumer, seen, viewed
from tests.troubled_log import TroubledLog, consume
from tests.worlds import NOW_MS


@pytest.fixture
def parts(redis_client: Client, namespace: str, tmp_path: Path) -> Parts:
    return parts_of(redis_client, namespace, tmp_path)


def test_a_batch_with_probes_is_the_batch_without_them_read_to_its_end() -> None:
    events = [Event("ana", f"item-{n}", "view", NOW_MS, f"id-{n}") for n in range(6)]
    written = [encode_event(event) for event in events]
    values = [PROBE, *written[:3], b"no event", PROBE, *written[3:], PROBE]
    batch = Batch.of(3, [Record(10 + n, NOW_MS, b"k", value) for n, value in enumerate(values)])
    columns, refused = Decoder().decode(batch)
    assert columns.events() == events
    assert np.diff(columns.offsets).tolist() == [1, 1, 3, 1, 1]
    assert (columns.next_offset, list(refused)) == (batch.next_offset, [4])
    alone, nothing_wrong = Decoder().decode(Batch.of(3, [Record(7, NOW_MS, b"k", PROBE)]))
    assert (len(alone), alone.next_offset, nothing_wrong) == (0, 8, {})


def test_who_does_not_know_probes_takes_them_for_no_event() -> None:
    with pytest.raises(DecodeError, match="wire version 0"):
        decode_event(new_probe(NOW_MS).entry.value)


def test_neither_timelines_nor_the_archive_nor_popularity_hold_anything_of_a_probe(
    log: TroubledLog, states: UserStates, tmp_path: Path
) -> None:
    for n in range(3):
        log.send(viewed("ana", f"item-{n}", n))
        log.append(EVENTS, [new_probe(NOW_MS).entry for _ in range(5)])
    consume(log, consumer(log, states))
    assert seen(states, "ana") == ["item-0", "item-1", "item-2"]
    archive = Archive(tmp_path, log.identity(EVENTS))
    archived = ArchiveConsumer(archive, lambda: 0.0)
    progress = consume(log, archived, group="archive")
    assert (archived.archived, progress.dead_letters) == (3, 0)
    assert newest_items(log) == ["item-0", "item-1", "item-2"]


def measured(parts: Parts, is_enough: Callable[[str], bool]) -> None:
    """Until the server's metrics are."""

    async def whole() -> None:
        async with running(create_app(parts, Limits(probe_every_s=0.02))) as client:
            await until(lambda: _shows(client, is_enough))

    asyncio.run(whole())


async def _shows(client: httpx.AsyncClient, is_enough: Callable[[str], bool]) -> bool:
    return is_enough((await client.get("/metrics")).text)


def value(metrics: str, name: str) -> float:
    return sum(float(line.split()[1]) for line in metrics.splitlines() if line.startswith(f"{name} "))


def test_a_running_system_measures_how_fresh_its_answers_are(parts: Parts) -> None:
    with consuming(parts):
        measured(parts, lambda metrics: value(metrics, "ledstream_freshness_seconds_count") >= 5)


def test_without_a_consumer_no_answer_is_fresh_and_without_a_log_probes_are_lost(parts: Parts) -> None:
    log = LogAway()
    stuck = replace(parts, log=log)
    measured(stuck, lambda metrics: value(metrics, "ledstream_freshness_seconds_count") == 0)
    log.is_away = True
    measured(stuck, lambda metrics: value(metrics, "ledstream_probes_lost_total") >= 3)


def test_a_probe_is_keyed_by_nobody() -> None:
    one, other = new_probe(NOW_MS), new_probe(NOW_MS)
    assert one.entry.key != other.entry.key
    assert one.entry == Entry(one.entry.key, PROBE, NOW_MS)
