"""Where one table begins that stands for two: nothing is lost that the two knew, as far as one table can hold it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from training.finetune.network import Network
from training.finetune.settings import FinetuneSettings, Stage, ValidationSettings
from training.finetune.stage import finetuned
from training.finetune.start import Start
from training.finetune.timelines import Timelines, timelines_of_matrix
from training.finetune.tying import TABLES, tables, tied
from training.finetune.validation import Validation, held_out, ndcg
from training.interactions import Interactions, Selection, select, without_times
from training.recipe import Recipe, pretrained
from training.spectral import SpectralSettings, spectral_embeddings
from training.train import TrainSettings

TASTES, PER_TASTE = 8, 12
QUICK = FinetuneSettings(negatives=20, lr=0.005, batch_users=64, epochs=3, threads=1, target_ratio=0.5, masking=0.0)


def readers(users: int = 500) -> Interactions:
    """Each likes one of eight tastes; within a taste a few items are what nearly everybody has read."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, PER_TASTE + 1)
    rows, columns = [], []
    for user in range(users):
        liked = rng.choice(PER_TASTE, 5, replace=False, p=share / share.sum()) + PER_TASTE * (user % TASTES)
        mine = np.unique(np.concatenate([liked, rng.integers(TASTES * PER_TASTE, size=2)]))
        rows.append(np.full(len(mine), user))
        columns.append(mine)
    return without_times(np.concatenate(rows), np.concatenate(columns), (users, TASTES * PER_TASTE))


@pytest.fixture(scope="module")
def parts() -> tuple[Timelines, Validation]:
    train, validation = held_out(timelines_of_matrix(readers().matrix), QUICK, ValidationSettings(0.3, k=10))
    assert validation is not None
    return train, validation


@pytest.fixture(scope="module")
def closed_form() -> Start:
    inputs, outputs = spectral_embeddings(readers().matrix, SpectralSettings(dim=8, p=1.0))
    return Start(inputs, outputs, np.zeros(len(inputs), np.float32))


def quality(start: Start, validation: Validation) -> float:
    return ndcg(Network(start, QUICK, np.random.default_rng(0)), validation)


def test_a_tied_start_ranks_as_the_best_table_does_and_far_above_chance(
    parts: tuple[Timelines, Validation], closed_form: Start
) -> None:
    name, start = tied(closed_form, parts[1], QUICK)
    found = {table: quality(replace(start, inputs=t, outputs=t), parts[1]) for table, t in tables(closed_form).items()}
    assert quality(start, parts[1]) == max(found.values()) == found[name]
    rng = np.random.default_rng(1)
    chance = rng.standard_normal(closed_form.outputs.shape, np.float32)
    assert found[name] > 2 * quality(replace(start, inputs=chance, outputs=chance), parts[1])
    assert found[name] > 1.02 * found["outputs"]  # with these alone the popular items drown the others twice over


def test_without_a_validation_a_table_between_the_two_is_taken_which_scores_one_item_as_they_do(
    closed_form: Start,
) -> None:
    name, start = tied(closed_form, None, QUICK)
    assert name == TABLES[0] == "between"
    np.testing.assert_array_equal(start.inputs, start.outputs)
    itself = np.einsum("id,id->i", closed_form.inputs, closed_form.outputs)
    straight = np.isclose(
        itself, np.linalg.norm(closed_form.inputs, axis=1) * np.linalg.norm(closed_form.outputs, axis=1), rtol=1e-3
    )
    np.testing.assert_allclose(np.square(start.outputs).sum(axis=1)[straight], itself[straight], rtol=1e-2)
    plain = Start(*spectral_embeddings(readers().matrix, SpectralSettings(dim=8)), closed_form.biases)
    itself = np.einsum("id,id->i", plain.inputs, plain.outputs)  # p = 0: every row lies along its other one
    np.testing.assert_allclose(np.square(tables(plain)["between"]).sum(axis=1), itself, rtol=1e-4)


def test_a_start_of_one_table_stays_as_it_is(parts: tuple[Timelines, Validation], closed_form: Start) -> None:
    one = replace(closed_form, inputs=closed_form.outputs)
    assert tied(one, parts[1], QUICK) == ("same", one)
    for table in tables(one).values():
        np.testing.assert_allclose(table, one.outputs, atol=1e-5)


def test_rows_of_nothing_stay_rows_of_nothing(closed_form: Start) -> None:
    inputs = closed_form.inputs.copy()
    inputs[3] = 0
    for name in ("between", "inputs"):
        assert not tables(replace(closed_form, inputs=inputs))[name][3].any()


def test_a_fine_tuned_release_says_which_table_it_began_at() -> None:
    matrix = readers(200).matrix.tocoo()
    users, items = matrix.coords
    columns = {"user_id": [f"u{user}" for user in users], "item_id": [f"i{item}" for item in items]}
    table = pa.table({**columns, "kind": ["view"] * matrix.nnz, "time_ms": list(range(matrix.nnz))})
    general = TrainSettings(Selection({"view": 1.0}), SpectralSettings(dim=8), grid=None)
    events = select(table, general.selection)
    model = finetuned(events, pretrained(events, Recipe(general)), Stage(QUICK, ValidationSettings(0.3, k=10)))
    told = model.about["finetuning"]
    assert isinstance(told, dict)
    assert told["begins_at"] in TABLES
    assert told["ndcg"] > 0.3
