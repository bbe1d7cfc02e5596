"""More events than memory holds are trained on from disk, and give what memory would have given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from led.encoder import F32
from store.releases import Model
from tests.gated_world import KINDS, NOW_MS, archive
from training.evaluate import folding, measure, split
from training.interactions import Selection, collect
from training.sharded_svd import decompose_shards
from training.shards import build
from training.spectral import SpectralSettings, Spectrum, decompose
from training.streamed import asked_about, train_streamed
from training.survey import NONE, Survey, survey
from training.train import Grid, TooFewEvents, TrainSettings, train

SELECTION = Selection(KINDS)
ALL = Survey(0, 0, 0, NONE)


@pytest.fixture(scope="module")
def events() -> pa.Table:
    """With erasures, one of them of somebody who comes back, and items that only erased users looked at."""
    events = archive(seed=3)
    users, items = events["user_id"].to_pylist(), events["item_id"].to_pylist()
    kinds = events["kind"].to_pylist()
    for place in (500, 4000, 8990):
        kinds[place] = "erase"
    items[400], users[400] = "secret", users[500]
    columns = {"user_id": users, "item_id": items, "kind": kinds}
    for name, values in columns.items():
        events = events.set_column(events.column_names.index(name), name, pa.array(values))
    return events


def parts(events: pa.Table, rows: int = 700) -> Iterator[pa.Table]:
    for start in range(0, len(events), rows):
        yield events.slice(start, rows)


def cells(users: list[str], items: list[str], matrix: F32) -> list[dict[str, float]]:
    """Each user's row, in an order that does not depend on the users' names."""
    rows = [{items[column]: float(row[column]) for column in np.flatnonzero(row)} for row in matrix]
    assert len(users) == len(rows)
    return sorted(rows, key=lambda row: sorted(row.items()))


@pytest.mark.parametrize(
    "selection",
    [SELECTION, Selection(KINDS, half_life_s=3600.0), Selection(KINDS, window_s=3600.0), Selection({"sale": 1.0})],
)
@pytest.mark.parametrize("shards", [1, 7])
def test_cells_in_shards_are_those_of_memory(
    events: pa.Table, tmp_path: Path, selection: Selection, shards: int
) -> None:
    found, expected = build(parts(events), selection, ALL, tmp_path, shards=shards), collect(events, selection)
    assert sorted(found.item_ids) == sorted(expected.item_ids)
    assert (found.users, found.cells) == (expected.matrix.shape[0], expected.matrix.nnz)
    rows = np.concatenate([shard.matrix.toarray() for shard in found])
    of_memory = cells(expected.user_ids, expected.item_ids, expected.matrix.toarray())
    for ours, theirs in zip(cells(["?"] * len(rows), found.item_ids, rows), of_memory, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)
    order = [found.item_ids.index(name) for name in expected.item_ids]
    np.testing.assert_allclose(found.popularity(900.0)[order], expected.popularity(900.0), rtol=1e-5)
    assert expected.times_ms is not None
    assert (found.oldest_ms, found.newest_ms) == (expected.times_ms.min(), expected.times_ms.max())
    assert "secret" not in found.item_ids


def test_a_spectrum_of_shards_is_that_of_memory_up_to_signs(events: pa.Table, tmp_path: Path) -> None:
    """With room for every direction there is but one answer; values that are close to each other are rotated freely."""
    expected = collect(events, SELECTION)
    shards = build(parts(events), SELECTION, ALL, tmp_path, shards=5)
    settings = SpectralSettings(dim=12, oversample=400)
    ours, theirs = decompose_shards(shards, settings), decompose(expected.matrix, settings)
    np.testing.assert_allclose(ours.values, theirs.values, rtol=1e-4)
    order = [shards.item_ids.index(name) for name in expected.item_ids]
    for p in (0.0, 0.5):
        np.testing.assert_allclose(scores(ours, p)[np.ix_(order, order)], scores(theirs, p), atol=2e-3)


def test_training_from_disk_evaluates_as_training_in_memory(events: pa.Table, tmp_path: Path) -> None:
    settings = TrainSettings(SELECTION, SpectralSettings(dim=16, oversample=48), bias=0.02, grid=None)
    task = split(collect(events, SELECTION), np.random.default_rng(0)).tasks["held-out events"]
    item_ids = collect(events, SELECTION).item_ids
    (tmp_path / "shards").mkdir()
    found = survey(parts(events), KINDS)
    held_out = found.held_out(events, list(KINDS))
    in_memory = train(events.filter(pa.array(~held_out)), settings)
    from_disk = train_streamed(lambda: parts(events), settings, found, tmp_path / "shards")
    ndcgs = [measure(folding(*tables(model, item_ids)), task).ndcg for model in (in_memory, from_disk)]
    assert ndcgs[1] == pytest.approx(ndcgs[0], rel=0.01)
    assert dict(from_disk.about, spectral=0) == dict(in_memory.about, spectral=0)
    assert from_disk.sample_vectors is not None


def test_exponents_are_chosen_on_as_many_users_as_memory_holds(events: pa.Table, tmp_path: Path) -> None:
    grid = Grid(a=(0.3, 0.5), p=(0.0, 1.0), bias=(0.0,))
    settings = TrainSettings(SELECTION, SpectralSettings(dim=8), grid=grid)
    model = train_streamed(lambda: parts(events), settings, ALL, tmp_path)
    validation = model.about["validation"]
    assert isinstance(validation, dict)
    assert set(validation) == {"held-out events", "held-out users"}


def test_what_the_gate_needs_is_all_of_the_users_it_asks_about_and_nobody_else(events: pa.Table) -> None:
    found = survey(parts(events), KINDS)
    held_out = found.held_out(events, list(KINDS))
    asked = set(np.array(events["user_id"].to_pylist())[held_out])
    needed = asked_about(lambda: parts(events), found, KINDS)
    assert set(needed["user_id"].to_pylist()) == asked
    assert len(needed) == sum(user in asked for user in events["user_id"].to_pylist())
    assert found.held_out(needed, list(KINDS)).sum() == held_out.sum() >= 200


def test_a_survey_counts_and_holds_out_the_newest_events_of_some_users_alone(events: pa.Table) -> None:
    found, expected = survey(parts(events), KINDS), collect(events.filter(pa.array([True] * len(events))), SELECTION)
    assert found.events == len(events) - 3
    assert abs(found.users - len(expected.user_ids)) <= 3  # those who were erased count here
    held_out = found.held_out(events, list(KINDS))
    times_ms = events["time_ms"].to_numpy()
    users = np.array(events["user_id"].to_pylist())
    of_these = np.isin(users, users[held_out]) & (times_ms > found.held_out_after_ms)
    assert held_out.sum() == of_these.sum() - sum(kind == "erase" for kind in np.array(events["kind"])[of_these])
    assert len(set(users[held_out])) < 0.3 * len(set(users))
    assert replace(found, bytes=0) == replace(survey([events], KINDS), bytes=0)


def test_of_few_events_nothing_is_held_out_and_of_many_the_newest_hour() -> None:
    events = archive(seed=3)
    assert survey([events.slice(0, 900)], KINDS).held_out_after_ms == NONE
    busy = pa.concat_tables([events] * 30)
    assert survey([busy], KINDS).held_out_after_ms == NOW_MS - 3_600_000


def test_nothing_is_held_out_that_the_release_before_may_have_learnt_from() -> None:
    """It would be asked what it was taught, beside one that was not: each retrain of a first hour would look worse."""
    busy, lately_ms = pa.concat_tables([archive(seed=3)] * 30), NOW_MS - 60_000
    assert survey([busy], KINDS, learnt_until_ms=lately_ms).held_out_after_ms == lately_ms
    assert survey([busy], KINDS, learnt_until_ms=NOW_MS - 7_200_000).held_out_after_ms == NOW_MS - 3_600_000


def test_nothing_to_learn_from_is_refused_from_disk_as_from_memory(events: pa.Table, tmp_path: Path) -> None:
    with pytest.raises(TooFewEvents, match="0 users and 0 items"):
        train_streamed(lambda: parts(events), TrainSettings(Selection({"wish": 1.0})), ALL, tmp_path)


def scores(spectrum: Spectrum, p: float) -> F32:
    inputs, outputs = spectrum.embeddings(p)
    return inputs @ outputs.T


def tables(model: Model, item_ids: list[str]) -> tuple[F32, F32, F32]:
    """Input and output embeddings and biases in the order of the ids; zeros for those the model does not know."""
    place = {name: row for row, name in enumerate(model.item_ids)}
    rows = np.array([place.get(name, -1) for name in item_ids])
    arrays = (model.input_embeddings, model.output_embeddings, model.biases[:, None])
    first, second, biases = (np.where(rows[:, None] >= 0, array[rows], 0).astype(np.float32) for array in arrays)
    return first, second, biases[:, 0]
