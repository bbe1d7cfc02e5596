"""LED's losses against their formulas, written out in NumPy over users, positives and negatives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from led.encoder import F64, I64
from training.finetune.losses import Positives, bpr, css, multinomial, ns, target_weights

ITEMS, DRAWN = 9, 4
OWNERS: I64 = np.array([0, 0, 0, 1, 3])  # user 2 has no positive
PER_USER = {0: 3, 1: 1, 3: 1}


def sigma(x: F64 | float) -> F64:
    return np.asarray(1 / (1 + np.exp(-x)))


def bpr_of(i: float, negatives: F64, over: float) -> float:
    return float(-np.log(sigma(i - negatives)).sum() / over)


def ns_of(i: float, negatives: F64, over: float) -> float:
    return float(-np.log(sigma(i)) - np.log(1 - sigma(negatives)).sum() / over)


def css_of(i: float, negatives: F64) -> float:
    return float(-i + np.log(np.exp(i) + (ITEMS - 1) / DRAWN * np.exp(negatives).sum()))


def multinomial_of(i: float, scores: F64) -> float:
    return float(-np.log(np.exp(i) / np.exp(scores).sum()))


@pytest.fixture
def scores() -> tuple[F64, F64]:
    """Of five positives, and of four negatives (or all nine items) of four users."""
    rng = np.random.default_rng(3)
    return rng.normal(0, 2, 5), rng.normal(0, 2, (4, ITEMS))


def positives(found: F64, weights: F64) -> Positives:
    return Positives(*(torch.tensor(array) for array in (found, OWNERS, weights)))


Formula = Callable[[float, F64], float]


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("bpr", lambda i, n: bpr_of(i, n, DRAWN)),
        ("bpr, sums", lambda i, n: bpr_of(i, n, 1)),
        ("ns", lambda i, n: ns_of(i, n, DRAWN)),
        ("ns, sums", lambda i, n: ns_of(i, n, 1)),
        ("css", css_of),
        ("multinomial", multinomial_of),
    ],
)
def test_a_loss_is_its_formula_for_each_positive_times_its_weight(
    name: str, formula: Formula, scores: tuple[F64, F64]
) -> None:
    weights = np.array([0.5, 1.0, 2.0, 0.25, 3.0])
    others = scores[1] if name == "multinomial" else scores[1][:, :DRAWN]
    given, those = positives(scores[0], weights), torch.tensor(others)
    over = 1.0 if name.endswith("sums") else float(DRAWN)
    found = {
        "bpr": lambda: bpr(given, those, over),
        "ns": lambda: ns(given, those, over),
        "css": lambda: css(given, those, ITEMS),
        "multinomial": lambda: multinomial(given, those),
    }[name.partition(",")[0]]()
    wanted = sum(
        weight * formula(float(i), others[user]) for weight, i, user in zip(weights, scores[0], OWNERS, strict=True)
    )
    assert float(found) == pytest.approx(wanted, rel=1e-6)


def test_equal_scores_give_the_values_training_starts_from() -> None:
    zeros, weights = np.zeros(5), np.full(5, 0.2)
    given, none = positives(zeros, weights), torch.zeros(4, DRAWN, dtype=torch.float64)
    assert float(bpr(given, none, DRAWN)) == pytest.approx(np.log(2))
    assert float(ns(given, none, DRAWN)) == pytest.approx(2 * np.log(2))
    assert float(css(given, none, ITEMS)) == pytest.approx(np.log(ITEMS))


def test_the_blocks_of_bpr_give_the_gradient_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.finetune.losses.CELLS_AT_ONCE", 2 * DRAWN)  # blocks of two positives
    rng = np.random.default_rng(4)
    positive = torch.tensor(rng.normal(size=5), requires_grad=True)
    negative = torch.tensor(rng.normal(size=(4, DRAWN)), requires_grad=True)
    owners, weights = torch.tensor(OWNERS), torch.tensor(rng.random(5))
    bpr(Positives(positive, owners, weights), negative, DRAWN).backward()  # type: ignore[no-untyped-call]
    found = [positive.grad, negative.grad]
    whole = -(torch.nn.functional.logsigmoid(positive[:, None] - negative[owners]).mean(dim=1) * weights).sum()
    wanted = torch.autograd.grad(whole, [positive, negative])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_positives_count_by_event_by_user_or_as_sums_of_users() -> None:
    owners = torch.tensor(OWNERS)
    assert target_weights(owners, 4, "events").tolist() == pytest.approx([1 / 5] * 5)
    assert target_weights(owners, 4, "users").tolist() == pytest.approx([1 / 9] * 3 + [1 / 3] * 2)
    assert target_weights(owners, 4, "sums").tolist() == pytest.approx([1 / 3] * 5)
