"""A retrain from disk begins at the release before it: nearer to the answer, with a pass less."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from store.releases import Model, Release, Releases
from stream.events import item_key, kind_code
from tests.gated_world import DIM, KINDS, archive, before_the_last_hour, model_of
from training.interactions import Selection, collect
from training.sharded_svd import decompose_shards
from training.shards import Shards, build
from training.spectral import SpectralSettings
from training.survey import Survey
from training.warm_start import start_from

ALL = Survey(0, 0, 0)
NARROW = SpectralSettings(dim=16, oversample=2, power_iterations=1)


@pytest.fixture(scope="module")
def events() -> pa.Table:
    return archive(seed=4)


@pytest.fixture(scope="module")
def shards(events: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return build([events], Selection(KINDS), ALL, tmp_path_factory.mktemp("shards"), shards=3)


@pytest.fixture(scope="module")
def before(events: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Release:
    return released(model_of(before_the_last_hour(events)), tmp_path_factory.mktemp("releases"))


def released(model: Model, folder: Path) -> Release:
    releases = Releases(folder, item_key, {kind: kind_code(kind) for kind in KINDS})
    return releases.load(releases.publish(model, now_ms=1_790_000_000_000))


def energy(shards: Shards, settings: SpectralSettings, before: Release | None = None) -> float:
    values = decompose_shards(shards, settings, before=before).values.astype(np.float64)
    return float(values @ values)


def test_from_the_release_before_more_is_found_in_as_many_passes(shards: Shards, before: Release) -> None:
    best = energy(shards, replace(NARROW, oversample=300))
    cold, warm = energy(shards, NARROW), energy(shards, NARROW, before)
    assert best - warm < 0.5 * (best - cold)


def test_of_several_power_iterations_one_is_saved(shards: Shards, before: Release) -> None:
    def passes(iterations: int, before: Release | None) -> int:
        seen: list[int] = []
        settings = replace(NARROW, power_iterations=iterations)
        decompose_shards(shards, settings, lambda _what, _done, total: seen.append(total), before)
        return seen[-1]

    assert [passes(n, None) - passes(n, before) for n in (0, 1, 2, 3)] == [0, 0, 1, 1]


def test_a_release_that_knows_too_little_is_no_start(events: pa.Table, before: Release) -> None:
    found = collect(events, Selection(KINDS))
    sums = np.asarray(found.matrix.sum(axis=0, dtype=np.float64))
    start = start_from(before, found.item_ids, sums, dim=DIM)
    assert start is not None
    assert start.shape == (len(found.item_ids), before.dim)
    assert start_from(before, [f"other-{name}" for name in found.item_ids], sums, dim=DIM) is None
    assert start_from(None, found.item_ids, sums, dim=DIM) is None


def test_a_release_with_fewer_directions_than_are_wanted_saves_no_power_iteration(
    shards: Shards, before: Release
) -> None:
    wider = replace(NARROW, dim=before.dim + 1, power_iterations=3)
    assert energy(shards, wider, before) == energy(shards, wider)


@pytest.mark.parametrize("about", [{"pmi": {}}, {"narrow": {}}, {}, {"spectral": {}, "finetuning": {}}])
def test_a_release_of_another_recipe_saves_no_power_iteration(
    events: pa.Table, shards: Shards, tmp_path: Path, about: dict[str, object]
) -> None:
    other = released(replace(model_of(before_the_last_hour(events)), about=about), tmp_path)
    several = replace(NARROW, power_iterations=3)
    assert energy(shards, several, other) == energy(shards, several)
