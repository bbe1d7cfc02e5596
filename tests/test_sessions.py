"""Training on sessions: prefixes, a grammar that can be learned, and a model that serving encodes as training did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("torch", reason="training on sessions needs the extra `train`")

from led.encoder import Encoder, Events, encode
from led.ranking import score, top_k
from store.releases import Model
from tests.records import published
from training.sessions.learner import Recipe
from training.sessions.prefixes import Sessions
from training.sessions.teaching import Schedule
from training.sessions.train import SessionSettings, train_sessions
from training.train import TooFewEvents

ITEMS, FAMILY = 40, 4
SMALL = SessionSettings(
    recipe=Recipe(dim=16, tau=0.2, share=0.5, bfloat16=False),
    schedule=Schedule(passes=8, warm_passes=3, batch=64, rate=0.02, last_rate=0.002),
)


def grammar(users: int, seed: int, *, first_ms: int = 0) -> pa.Table:
    """Sessions of six views: the next item is one of the newest item's family of four, in one case of three of any.

    So a family holds for three views or so, and what came before it says nothing."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[object]] = {"user_id": [], "item_id": [], "kind": [], "time_ms": []}
    for user in range(users):
        item = int(rng.integers(ITEMS))
        for place in range(6):
            values = (f"u{user}", f"i{item:02}", "view", first_ms + 100_000 * user + 1000 * place)
            for column, value in zip(rows.values(), values, strict=True):
                column.append(value)
            stays = rng.random() > 1 / 3
            item = item // FAMILY * FAMILY + int(rng.integers(FAMILY)) if stays else int(rng.integers(ITEMS))
    return pa.table(rows)


def hit_rates(model: Model, table: pa.Table, k: int) -> tuple[float, float]:
    """How often the last item of a session is among the model's best k, and among the most popular k."""
    row_of = {item_id: row for row, item_id in enumerate(model.item_ids)}
    rows = np.array([row_of[str(item_id)] for item_id in table["item_id"].to_pylist()]).reshape(-1, 6)
    owners, zeros = np.repeat(np.arange(len(rows)), 5), np.zeros(5 * len(rows), np.int64)
    events = Events(owners, rows[:, :5].ravel(), zeros.astype(np.uint8), zeros)
    users = encode(Encoder({0: 1.0}, head_weights=model.head_weights), model.input_embeddings, len(rows), events)
    best = top_k(score(users.vectors(), model.output_embeddings, model.biases), k)
    popular = np.argsort(-model.popularity, kind="stable")[:k]
    return float((best == rows[:, 5:]).any(axis=1).mean()), float(np.isin(rows[:, 5], popular).mean())


@pytest.fixture(scope="module")
def model() -> Model:
    return train_sessions(grammar(300, seed=1), SMALL)


def test_every_prefix_predicts_its_next_item_from_its_newest_items() -> None:
    sessions = Sessions.of(np.array([7, 7, 3, 7, 3, 7]), np.array([1, 2, 8, 3, 9, 4]))
    prefixes = sessions.prefixes(2)
    batch = prefixes.batch(np.arange(len(prefixes)))
    seen = [(batch.rows[batch.owners == p].tolist(), int(batch.targets[p])) for p in range(len(prefixes))]
    assert seen == [([8], 9), ([1], 2), ([1, 2], 3), ([2, 3], 4)]
    assert batch.ranks.tolist() == [0, 0, 1, 0, 1, 0]


def test_no_sessions_and_sessions_of_one_item_have_no_prefixes() -> None:
    nothing = np.empty(0, np.int64)
    assert len(Sessions.of(nothing, nothing).prefixes(20)) == 0
    assert len(Sessions.of(np.array([1, 2]), np.array([5, 6])).prefixes(20)) == 0


def test_what_follows_the_newest_item_is_learned_and_popularity_clearly_beaten(model: Model) -> None:
    learned, popular = hit_rates(model, grammar(200, seed=2), FAMILY)
    assert learned > 0.55  # .7 for who knows the grammar
    assert popular < 0.25


def test_weights_of_the_newest_items_grow_where_the_newest_item_decides(model: Model) -> None:
    newest, second, third = model.head_weights
    assert newest > 2 * second > second > third


def test_one_seed_makes_one_model_and_another_seed_another() -> None:
    settings = replace(SMALL, schedule=replace(SMALL.schedule, passes=1))
    first, again, other = (train_sessions(grammar(60, 3), replace(settings, seed=seed)) for seed in (0, 0, 1))
    assert np.array_equal(first.input_embeddings, again.input_embeddings)
    assert not np.array_equal(first.input_embeddings, other.input_embeddings)


def test_a_longer_pause_begins_another_session() -> None:
    table = pa.table(
        {
            "user_id": ["a", "a", "b", "a", "a"],
            "item_id": ["w", "x", "x", "y", "z"],
            "kind": ["view"] * 5,
            "time_ms": [0, 1000, 2000, 60_000, 61_000],
        }
    )
    settings = replace(SMALL, session_gap_s=30.0)
    told = train_sessions(table, settings).about["sessions"]
    assert isinstance(told, dict)
    assert (told["sessions"], told["prefixes"]) == (3, 2 * SMALL.schedule.passes)


def test_going_on_from_a_model_keeps_what_it_knew_and_learns_what_is_new(model: Model) -> None:
    tail = grammar(100, seed=4, first_ms=10**9)
    renamed = [str(item_id).replace("i3", "n3") for item_id in tail["item_id"].to_pylist()]  # ten items are new
    after = pa.concat_tables([grammar(300, seed=1), tail.set_column(1, "item_id", pa.array(renamed))])
    second = train_sessions(after, SMALL, before=model)
    told = second.about["sessions"]
    assert isinstance(told, dict)
    assert (told["replayed"], told["sessions"]) == (300, 400)
    assert set(second.item_ids) - set(model.item_ids) == {f"n3{digit}" for digit in range(10)}
    assert hit_rates(second, grammar(200, seed=2), FAMILY)[0] > 0.55


def test_teaching_ends_where_held_out_sessions_are_found_no_better_and_keeps_the_best() -> None:
    schedule = replace(SMALL.schedule, passes=60, rate=0.05, last_rate=0.05, patience=2)
    settings = replace(SMALL, schedule=schedule, held_out_share=0.2)
    told = train_sessions(grammar(100, seed=1), settings).about["sessions"]
    assert isinstance(told, dict)
    judged = told["recall@20"]
    assert len(judged) < 60
    assert len(judged) == int(np.argmax(judged)) + 3
    assert told["prefixes"] == 80 * 5 * len(judged)


def test_a_model_of_another_shape_is_not_gone_on_from(model: Model) -> None:
    with pytest.raises(ValueError, match="dim = 16"):
        train_sessions(grammar(20, seed=1), replace(SMALL, recipe=replace(SMALL.recipe, dim=8)), before=model)


def test_a_release_of_the_model_encodes_a_session_as_training_did(model: Model, tmp_path: Path) -> None:
    release = published(tmp_path, model)
    assert release.encoder.head_weights == pytest.approx(model.head_weights)
    row_of = {release.item_id(row): row for row in range(release.items)}
    session = [3, 17, 17, 5, 30]
    rows = np.array([row_of[f"i{item:02}"] for item in session])
    zeros = np.zeros(5, np.int64)
    kind = release.encoder.kind_weight(np.arange(256, dtype=np.uint8)).argmax()
    served = encode(
        release.encoder,
        release.input_embeddings,
        1,
        Events(zeros, rows, zeros.astype(np.uint8) + np.uint8(kind), zeros),
    )
    mine = [model.item_ids.index(f"i{item:02}") for item in session]
    weights = np.array([1.0, 1.0, *model.head_weights[::-1]])
    want = weights @ model.input_embeddings[mine] / weights.sum()
    assert served.vectors()[0] == pytest.approx(want, abs=1e-6)
    assert np.linalg.norm(release.output_embeddings, axis=1) == pytest.approx(1, abs=1e-5)
    assert not release.biases.any()


def test_nothing_to_learn_from_is_said_so() -> None:
    with pytest.raises(TooFewEvents):
        train_sessions(grammar(0, seed=1), SMALL)
