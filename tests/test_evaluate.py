from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from led.encoder import F32, Encoder
from training.benchmarks.case import NoBenchmark, data_folder
from training.benchmarks.diginetica import DIGINETICA
from training.benchmarks.gowalla import GOWALLA, closed_form, ease, gowalla
from training.benchmarks.ml1m import RATINGS
from training.benchmarks.own_events import archive
from training.benchmarks.registry import run
from training.evaluate import (
    Quality,
    Row,
    Task,
    Training,
    folding,
    measure,
    popular,
    row_as_json,
    rows_as_markdown,
    split,
)
from training.interactions import Interactions, Selection
from training.peak_memory import peak_mb
from training.spectral import SpectralSettings
from training.svd import Sparse
from training.train import Grid, TooFewEvents, TrainSettings, choose, train

SELECTION = Selection({"view": 1.0, "sale": 3.0})


def matrix(rows: list[list[float]]) -> Sparse:
    return sp.csr_array(np.array(rows, np.float32))


def two_tastes(users: int = 120) -> pa.Table:
    """Users of two tastes see six of the eight items of their taste, one a second; time runs with the user's number."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(users):
        for place, item in enumerate(rng.permutation(8)[:6]):
            kind = "sale" if place % 3 == 2 else "view"
            rows.append((f"u{user}", f"{'hat' if user % 2 else 'book'}{item}", kind, 1000 * (10 * user + place)))
    return pa.table(dict(zip(("user_id", "item_id", "kind", "time_ms"), zip(*rows, strict=True), strict=True)))


def interactions(times_ms: list[list[int]]) -> Interactions:
    """One weight everywhere; a time above 0 is a cell."""
    found = matrix([[float(at > 0) for at in row] for row in times_ms])
    times = np.array([at for row in times_ms for at in row if at > 0], np.int64)
    users, items = found.shape
    return Interactions([f"u{n}" for n in range(users)], [f"i{n}" for n in range(items)], found, times)


def test_the_newest_fifth_of_each_user_is_held_out_and_the_rest_folded_in() -> None:
    parts = split(interactions([[5, 1, 4, 2, 3], [1, 9, 2, 3, 4]]), np.random.default_rng(0), users_share=0.0)
    task = parts.tasks["held-out events"]
    kept = [[0, 1, 1, 1, 1], [1, 0, 1, 1, 1]]
    assert parts.train.matrix.toarray().tolist() == kept
    assert sorted(task.folded_in.toarray().tolist()) == kept
    assert (task.folded_in + task.relevant).toarray().tolist() == [[1] * 5] * 2


def test_items_nobody_is_left_to_learn_from_are_no_targets() -> None:
    parts = split(interactions([[1, 2, 0], [1, 0, 2]]), np.random.default_rng(0), users_share=0.0)
    assert parts.tasks == {}
    parts = split(interactions([[1, 2, 0], [2, 1, 0]]), np.random.default_rng(0), users_share=0.0)
    task = parts.tasks["held-out events"]
    assert sorted(task.relevant.toarray().tolist()) == [[0, 1, 0], [1, 0, 0]]
    assert not (task.folded_in.toarray() * task.relevant.toarray()).any()


def test_held_out_users_are_in_no_training_row_and_known_users_are_in_all() -> None:
    everything = interactions((np.random.default_rng(1).permutation(4000).reshape(200, 20) + 1).tolist())
    parts = split(everything, np.random.default_rng(0), users_share=0.25)
    left = np.diff(parts.train.matrix.indptr)
    assert set(left.tolist()) == {0, 16}
    assert parts.tasks["held-out users"].folded_in.shape[0] == (left == 0).sum()
    assert parts.tasks["held-out events"].folded_in.shape[0] == (left == 16).sum()
    assert set(np.diff(parts.tasks["held-out users"].relevant.indptr).tolist()) == {4}


def test_without_times_a_fifth_is_drawn_at_random_and_one_seed_draws_the_same() -> None:
    plain = Interactions([str(n) for n in range(30)], [str(n) for n in range(10)], matrix([[1.0] * 10] * 30), None)
    first, again, other = (split(plain, np.random.default_rng(seed)).train.matrix.toarray() for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert set(first.sum(axis=1).tolist()) <= {0, 8}


def test_what_is_folded_in_is_weighed_as_the_encoder_would() -> None:
    events = interactions([[1000, 3000, 5000], [3000, 5000, 1000]])
    parts = split(events, np.random.default_rng(0), users_share=0.0, encoder=Encoder({}, half_life_s=2.0))
    folded_in = parts.tasks["held-out events"].folded_in
    assert sorted(folded_in.toarray().tolist()) == [[0.5, 1, 0], [1, 0, 0.5]]
    assert set(parts.train.matrix.data.tolist()) == {1}
    encoder = Encoder({}, half_life_s=2.0, head_weights=(4.0,))
    folded_in = (
        split(events, np.random.default_rng(0), users_share=0.0, encoder=encoder).tasks["held-out events"].folded_in
    )
    assert sorted(folded_in.toarray().tolist()) == [[0.5, 4, 0], [4, 0, 0.5]]


def test_a_task_is_measured_without_what_was_folded_in_and_in_batches_of_any_size() -> None:
    task = Task(matrix([[1, 0, 0, 0], [0, 0, 0, 1]]), matrix([[0, 0, 1, 0], [1, 1, 0, 0]]))
    scorer = popular(np.array([9, 5, 3, 8], np.float32))
    best_two = measure(scorer, task, k=2)  # items 3, 1 for the first user, items 0, 1 for the second
    assert best_two == Quality(recall=0.5, ndcg=0.5, coverage=0.75, users=2)
    assert measure(scorer, task, k=3).recall == 1.0


def test_a_task_without_users_is_refused() -> None:
    with pytest.raises(ValueError, match="no users"):
        measure(popular(np.zeros(3, np.float32)), Task(matrix([[0] * 3])[:0], matrix([[0] * 3])[:0]))


def test_folding_scores_a_user_as_the_weighted_average_of_the_inputs_plus_the_bias() -> None:
    inputs: F32 = np.array([[2, 0], [0, 4]], np.float32)
    outputs: F32 = np.array([[1, 1], [1, 0]], np.float32)
    scores = folding(inputs, outputs, np.array([0, 10], np.float32))(matrix([[3, 1], [0, 0]]))
    np.testing.assert_allclose(scores, np.array([[2.5, 11.5], [0.0, 10.0]]))


def test_two_tastes_are_learned_and_beat_popularity_for_known_and_for_new_users() -> None:
    rows = archive(two_tastes(), TrainSettings(SELECTION, SpectralSettings(dim=4)))
    assert [(row.benchmark, row.model) for row in rows] == [
        ("held-out events", "led"),
        ("held-out events", "popular"),
        ("held-out users", "led"),
        ("held-out users", "popular"),
    ]
    led, plain = rows[2].quality, rows[3].quality
    assert led.ndcg > plain.ndcg
    assert rows[2].training.d <= 4
    assert rows[3].training == Training()


def test_a_model_knows_what_it_was_made_of_and_the_same_events_make_the_same_model() -> None:
    settings = TrainSettings(SELECTION, SpectralSettings(dim=2), half_life_s=60.0, head_weights=(3.0, 2.0))
    model, again = train(two_tastes(), settings), train(two_tastes(), settings)
    assert len(model.item_ids) == 16
    assert model.input_embeddings.shape == model.output_embeddings.shape == (16, 2)
    assert model.biases.shape == model.popularity.shape == (16,)
    assert model.kind_weights == {"view": 1.0, "sale": 3.0}
    assert (model.half_life_s, model.head_weights) == (60.0, (3.0, 2.0))
    assert (model.about["users"], model.about["from_ms"], model.about["to_ms"]) == (120, 0, 1_195_000)
    assert json.loads(json.dumps(model.about)) == model.about
    assert np.array_equal(model.input_embeddings, again.input_embeddings)


def test_a_user_vector_of_the_model_prefers_its_own_taste() -> None:
    model = train(two_tastes(), TrainSettings(SELECTION, SpectralSettings(dim=2), grid=None))
    user = model.input_embeddings[[model.item_ids.index("hat0"), model.item_ids.index("hat3")]].mean(axis=0)
    best = np.argsort(-(model.output_embeddings @ user + model.biases))[:8]
    assert {model.item_ids[row] for row in best} == {f"hat{n}" for n in range(8)}


def test_tiny_data_train_with_fewer_dimensions_and_without_a_choice() -> None:
    events = pa.table(
        {"user_id": ["ana", "bob"], "item_id": ["hat", "belt"], "kind": ["view", "view"], "time_ms": [1, 2]}
    )
    model = train(events, TrainSettings(SELECTION, SpectralSettings(dim=64)))
    assert model.input_embeddings.shape == (2, 2)


@pytest.mark.parametrize("users", [[], ["ana"], ["ana", "ana"]])
def test_nothing_to_learn_from_is_said_in_numbers(users: list[str]) -> None:
    columns = {"user_id": users, "item_id": ["hat", "belt"][: len(users)], "kind": ["view"] * len(users)}
    events = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    events = events.append_column("time_ms", pa.array(range(len(users)), pa.int64()))
    with pytest.raises(TooFewEvents, match=f"{len(set(users))} users"):
        train(events, TrainSettings(SELECTION))
    with pytest.raises(TooFewEvents):
        archive(events, TrainSettings(SELECTION))


def test_the_choice_is_of_the_grid_and_carries_its_figures() -> None:
    numbers = np.random.default_rng(2).permutation(3000).reshape(100, 30) + 1
    everything = interactions(np.where(numbers % 3 == 0, numbers, 0).tolist())
    grid = Grid(a=(0.1, 0.6), p=(0.0,), bias=(0.0, 0.3))
    found = choose(everything, TrainSettings(SELECTION, SpectralSettings(dim=3, a=9.0), grid=grid))
    assert found.a in grid.a
    assert found.p == 0.0
    assert found.bias in grid.bias
    assert set(found.validation) == {"held-out events", "held-out users"}
    assert choose(everything, TrainSettings(SELECTION, SpectralSettings(a=0.9), grid=None)).a == 0.9


def test_a_row_is_one_json_object_and_a_line_of_a_table() -> None:
    made = Training(1024, {"a": 0.3, "loss": "css"}, 12, 9.0, 12.345, 1200.0)
    row = Row("gowalla", "led", Quality(0.19, 0.16, 0.5, 29858, {"mrr@20": 0.25}), made)
    plain = Row("gowalla", "popular", Quality(0.05, 0.04, 0.1, 29858))
    found = json.loads(row_as_json(row))
    assert found["settings"] == {"a": 0.3, "loss": "css"}
    assert (found["d"], found["recall@20"], found["mrr@20"], found["train_seconds"]) == (1024, 0.19, 0.25, 12.345)
    assert rows_as_markdown([row, plain]).splitlines()[2:] == [
        "| gowalla | led | 1024 | 0.1900 | 0.1600 | 0.2500 | 0.500 | 29,858 | a 0.3, loss css | 12 | 12.3 | 1,200 |",
        "| gowalla | popular | 0 | 0.0500 | 0.0400 |  | 0.100 | 29,858 |  | 0 | 0.0 | 0 |",
    ]


def test_a_protocol_may_ask_for_longer_lists_and_truncated_recall() -> None:
    task = Task(matrix([[1, 0, 0, 0, 0]]), matrix([[0, 1, 1, 1, 0]]))
    scorer = popular(np.array([9, 5, 3, 1, 4], np.float32))  # ranks items 1, 4, 2, 3
    found = measure(scorer, task, k=2, truncated=True, further=("recall@3", "ndcg@4", "mrr@1"))
    assert found.recall == 1 / 2
    ideal = 1 + 1 / np.log2(3) + 1 / 2
    assert found.further == pytest.approx({"recall@3": 2 / 3, "ndcg@4": (1.5 + 1 / np.log2(5)) / ideal, "mrr@1": 1.0})
    assert measure(scorer, task, k=2).recall == 1 / 3
    with pytest.raises(ValueError, match="metric = map@5"):
        measure(scorer, task, further=("map@5",))


def test_a_benchmark_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoBenchmark, match="benchmark = netflix: known benchmarks are "):
        next(iter(run("netflix", [64])))
    with pytest.raises(NoBenchmark, match="set LEDSTREAM_DATA"):
        gowalla([64], data_folder({"LEDSTREAM_DATA": str(tmp_path)}))


def test_a_model_that_a_benchmark_does_not_know_is_named(tmp_path: Path) -> None:
    (tmp_path / GOWALLA).touch()
    with pytest.raises(NoBenchmark, match='models = "svm": benchmark gowalla knows "ease", "led", "led, narrow"'):
        next(iter(run("gowalla", [64], models=["svm"], folder=tmp_path)))


@pytest.mark.parametrize(
    ("benchmark", "model", "extra"),
    [
        ("led-shape", "losses", "train"),
        ("diginetica-stream", "led-sessions", "train"),
        ("ml-1m-strong", "wmf", "baselines"),
    ],
)
def test_a_model_whose_extra_is_not_installed_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, benchmark: str, model: str, extra: str
) -> None:
    """The case's own process finds, first on its path, modules that say of themselves that they are not there."""
    for data in (RATINGS, DIGINETICA):
        (tmp_path / data).touch()
    for missing in ("torch", "implicit"):
        says = f"raise ModuleNotFoundError('No module named {missing}', name='{missing}')"
        (tmp_path / f"{missing}.py").write_text(says)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(NoBenchmark, match=rf"model = {model}: No module .*: pip install 'ledstream\[{extra}\]'"):
        next(iter(run(benchmark, models=[model], folder=tmp_path)))


def test_ease_on_a_small_file_like_gowallas_names_its_ridge_and_finds_what_goes_together(tmp_path: Path) -> None:
    """Four hundred users of two tastes of six items, one of which is to be found for each."""
    users = np.repeat(np.arange(400), 4)
    items = np.concatenate([6 * (user % 2) + np.random.default_rng(user).permutation(6)[:4] for user in range(400)])
    split = np.tile([0, 0, 0, 1], 400)
    pq.write_table(pa.table({"user": users, "item": items, "split": split}), tmp_path / GOWALLA)
    (row,) = ease(tmp_path / GOWALLA)
    assert row.training is not None
    assert (row.model, row.training.settings, row.training.tried) == ("ease", {"regularisation": 200.0}, 6)
    assert row.quality.ndcg > 0.6  # drawn from the three that a taste has left; of all nine .45


def test_peak_memory_is_a_plausible_number_of_megabytes() -> None:
    assert 20 < peak_mb() < 100_000


@pytest.mark.slow
def test_gowalla_at_64_dimensions_keeps_its_quality() -> None:
    folder = data_folder(os.environ)
    if not (folder / GOWALLA).exists():
        pytest.skip(f"{folder / GOWALLA} is not there: set LEDSTREAM_DATA to the folder that holds it")
    (row,) = closed_form(64, folder / GOWALLA)
    assert row.quality.users == 29858
    assert row.quality.recall > 0.125
    assert row.quality.ndcg > 0.110
