"""The formula of docs/sizing.md against real servers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from bench.memory import PROGRAMS, made_up_record, measured_bytes
from bench.sizing import SERVERS, Shape, glibc, jemalloc, predicted_bytes, record_bytes
from store.user_record import ENTRY, HEAD, IDS_KEPT, encode_record
from tests.conftest import missing

SHAPES = [Shape(15_000), Shape(9_000, events=30, dim=100, idle=0.6, id_bytes=36)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", PROGRAMS)
def test_memory_is_what_the_formula_says(name: str, shape: Shape) -> None:
    if name == "redis" and shutil.which("redis-server") is None:
        missing("no redis-server")
    measured = measured_bytes(name, shape)
    assert abs(predicted_bytes(shape, SERVERS[name]) / measured - 1) < 0.05


@pytest.mark.parametrize("events", [1, 12, 50, 200])
def test_a_record_is_as_long_as_the_formula_says(events: int) -> None:
    record = made_up_record(events, 64, np.random.default_rng(1))
    assert len(encode_record(record)) == record_bytes(Shape(1, events=events))


def test_the_document_has_the_formula_of_the_record_as_it_is() -> None:
    formula = f"record = {HEAD.itemsize} + 2·dim + 4·min(events, {IDS_KEPT}) + {ENTRY.itemsize}·events"
    assert formula in (Path(__file__).parents[1] / "docs" / "sizing.md").read_text()


def test_allocators_round_up_to_their_classes() -> None:
    assert [jemalloc(16)(size) for size in (1, 24, 128, 129, 769, 1025)] == [16, 32, 128, 160, 896, 1280]
    assert [jemalloc(8)(size) for size in (1, 24, 57, 65, 129)] == [8, 24, 64, 80, 160]
    assert [glibc(size) for size in (1, 24, 25, 768, 777)] == [24, 24, 40, 776, 792]
