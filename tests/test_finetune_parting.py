"""What an epoch of fine-tuning is drawn from: input, targets, masks, negatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp

from training.finetune.batches import Batch, epoch
from training.finetune.parting import Parted, masked, part, part_at_the_end
from training.finetune.settings import FinetuneSettings, ValidationSettings
from training.finetune.timelines import Timelines, timelines_of_events, timelines_of_matrix
from training.finetune.validation import held_out
from training.interactions import Selection, select

Story = Sequence[tuple[str, str, str, int]]


def timelines(story: Story, positives: Sequence[str] = ("sale",)) -> Timelines:
    """Of (user, item, kind, second)."""
    columns: dict[str, Any] = dict(
        zip(("user_id", "item_id", "kind", "time_ms"), map(list, zip(*story, strict=True)), strict=True)
    )
    columns["time_ms"] = [1000 * at for at in columns["time_ms"]]
    return timelines_of_events(
        select(pa.table(columns), Selection({"view": 1.0, "sale": 1.0})), ["view", "sale"], positives
    )


def of_users(counts: Sequence[int]) -> Timelines:
    """Users with so many items each."""
    rows = np.repeat(np.arange(len(counts)), counts)
    columns = np.concatenate([np.arange(count) for count in counts])
    return timelines_of_matrix(
        sp.csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(counts), max(counts)))
    )


def counted(some: Timelines, parted: Parted) -> list[tuple[int, int]]:
    """(events that are input, items that are targets) of each user."""
    inputs = np.bincount(some.owners[parted.is_input], minlength=some.users)
    targets = np.bincount(some.cells.owners[parted.is_target], minlength=some.users)
    return list(zip(inputs.tolist(), targets.tolist(), strict=True))


def test_events_of_a_user_lie_oldest_first_whatever_order_they_came_in() -> None:
    some = timelines([("ana", "b", "sale", 3), ("bob", "a", "view", 9), ("ana", "a", "view", 1)])
    assert some.ends.tolist() == [0, 2, 3]
    assert some.times_ms.tolist() == [1000, 3000, 9000]
    assert some.kinds.tolist() == [0, 1, 0]
    assert some.is_positive.tolist() == [False, True, False]


def test_the_first_four_fifths_of_shuffled_items_are_input_and_the_rest_targets() -> None:
    some = of_users([5, 10, 4, 1])
    assert counted(some, part(some, "random", 0.2, np.random.default_rng(0))) == [(4, 1), (8, 2), (3, 1), (0, 1)]


def test_input_and_targets_are_drawn_anew_each_time_and_the_same_by_one_seed() -> None:
    some = of_users([50])
    first, again, other = (part(some, "random", 0.2, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first.is_input.tolist() == again.is_input.tolist() != other.is_input.tolist()


def test_all_events_of_an_item_are_on_one_side_and_only_positive_kinds_are_targets() -> None:
    some = timelines([(f"u{n}", item, kind, n) for n in range(20) for item in "ab" for kind in ("view", "sale")])
    viewed = timelines([(f"u{n}", item, "view", n) for n in range(20) for item in "ab"])
    parted = part(some, "random", 0.5, np.random.default_rng(0))
    assert set(counted(some, parted)) == {(2, 1)}
    seen = set(zip(some.owners[parted.is_input].tolist(), some.rows[parted.is_input].tolist(), strict=True))
    targets = zip(some.cells.owners[parted.is_target].tolist(), some.cells.rows[parted.is_target], strict=True)
    assert not seen & set(targets)
    assert set(counted(viewed, part(viewed, "random", 0.5, np.random.default_rng(0)))) == {(1, 0)}


def test_before_a_moment_is_input_and_new_items_soon_after_it_are_targets() -> None:
    some = timelines([("ana", item, "sale", at) for at, item in enumerate("abcdeafg")])
    moments = set()
    for seed in range(40):
        parted = part(some, "newest", 0.25, np.random.default_rng(seed))
        before = int(parted.is_input.sum())
        moments.add(before)
        assert parted.is_input.tolist() == [at < before for at in range(8)]
        names = {int(some.rows[at]) for at in range(before, min(before + 2, 8))} - set(some.rows[:before].tolist())
        assert set(some.cells.rows[parted.is_target].tolist()) == names
    assert moments == set(range(1, 8))
    at_the_end = part_at_the_end(some, "newest", 0.25, np.random.default_rng(0))
    assert at_the_end.is_input.tolist() == [True] * 6 + [False] * 2


def test_masking_keeps_each_input_by_chance_and_invents_none() -> None:
    is_input = np.arange(20000) % 2 == 0
    kept = masked(is_input, 0.25, np.random.default_rng(0))
    assert not (kept & ~is_input).any()
    assert kept.sum() / is_input.sum() == pytest.approx(0.75, abs=0.02)
    assert masked(is_input, 0.0, np.random.default_rng(0)) is is_input


def batches(some: Timelines, **settings: Any) -> list[Batch]:
    return list(epoch(some, FinetuneSettings(**settings), np.random.default_rng(0)))


def test_an_epoch_meets_every_user_with_a_target_once() -> None:
    some = of_users([5] * 7 + [0])
    drawn = batches(some, batch_users=3, negatives=6, masking=0.0)
    assert [batch.negatives.shape for batch in drawn] == [(3, 6), (3, 6), (1, 6)]
    assert sum(len(batch.targets) for batch in drawn) == 7
    assert {len(batch.inputs.rows) // len(batch.inputs.starts) for batch in drawn} == {4}
    assert batches(some, loss="multinomial")[0].negatives.shape == (7, 0)


def test_negatives_are_drawn_from_all_items_alike() -> None:
    (batch,) = batches(of_users([8]), negatives=4000)
    counts = np.bincount(batch.negatives.numpy().ravel(), minlength=8)
    assert counts.min() > 400
    assert counts.max() < 600


def test_ages_and_ranks_are_seen_from_the_newest_event_that_is_input() -> None:
    some = timelines([("ana", item, "sale", at) for at, item in ((10, "a"), (13, "b"), (17, "c"), (99, "d"))])
    drawn = [batches(some, order="newest", target_ratio=0.25, masking=0.0, newest=2, seed=n)[0] for n in range(1)]
    ages, ranks = drawn[0].inputs.ages_s.tolist(), drawn[0].inputs.ranks.tolist()
    assert ages[-1] == 0
    assert ranks == list(range(len(ranks)))[::-1]
    assert len(ranks) <= 2


def test_held_out_users_are_not_trained_on_and_lose_the_same_share() -> None:
    some = of_users([10] * 40)
    train, validation = held_out(some, FinetuneSettings(), ValidationSettings(0.25))
    assert validation is not None
    assert np.bincount(np.diff(train.ends)).tolist() == [10] + [0] * 9 + [30]
    assert {len(wanted) for wanted in validation.relevant} == {2}
    assert np.diff(validation.seen.ends).tolist() == [8] * 10
