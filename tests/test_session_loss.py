"""The loss of training on sessions: gradients against automatic differentiation, and shares of items against all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="training on sessions needs the extra `train`")

import torch
from torch import Tensor

from training.sessions import loss
from training.sessions.learner import Learner, Recipe
from training.sessions.loss import Candidates, cosine_softmax, through_unit_rows, unit_rows
from training.sessions.prefixes import Batch, Sessions

TAU = 0.2


def units(seed: int, rows: int, dim: int = 3) -> Tensor:
    """Random rows of unit length, in float64."""
    return unit_rows(torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, dim))))[0]


def plain(users: Tensor, wanted: Tensor, others: Tensor, places: Tensor, share: float) -> Tensor:
    """The loss said slowly: own odds, and all others' over the share they are."""
    own = (users * wanted).sum(1) / TAU
    odds = torch.exp(users @ others.T / TAU)
    is_other = torch.ones_like(odds)
    is_other[places >= 0, places[places >= 0]] = 0
    return (torch.log(own.exp() + (odds * is_other).sum(1) / share) - own).mean()


def test_all_items_as_candidates_give_the_plain_softmax_over_all_items() -> None:
    users, items, targets = units(1, 7), units(2, 11), torch.tensor([0, 3, 3, 10, 5, 6, 2])
    got = cosine_softmax(users, items[targets], Candidates(items, targets), tau=TAU)
    want = torch.nn.functional.cross_entropy(users @ items.T / TAU, targets)
    assert got.loss == pytest.approx(float(want), rel=1e-12)


@pytest.mark.parametrize("share", [1.0, 0.25])
@pytest.mark.parametrize("block", [2, 512])
def test_gradients_are_those_of_automatic_differentiation(
    share: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "BLOCK_ROWS", block)
    users, wanted, others = (units(seed, rows).requires_grad_() for seed, rows in ((1, 5), (2, 5), (3, 8)))
    places = torch.tensor([-1, 2, 0, -1, 2])
    slow = plain(users, wanted, others, places, share)
    want = torch.autograd.grad(slow, (users, wanted, others))
    with torch.no_grad():
        got = cosine_softmax(users, wanted, Candidates(others, places, share), tau=TAU)
    assert got.loss == pytest.approx(slow.item(), rel=1e-12)
    for mine, theirs in zip((got.users, got.wanted, got.candidates), want, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_the_gradient_of_unit_rows_passes_the_check_by_differences() -> None:
    class Unit(torch.autograd.function.Function):
        @staticmethod
        def forward(ctx, matrix):  # type: ignore[no-untyped-def]
            made, lengths = unit_rows(matrix)
            ctx.save_for_backward(made, lengths)
            return made

        @staticmethod
        def backward(ctx, gradient):  # type: ignore[no-untyped-def]
            return through_unit_rows(gradient, *ctx.saved_tensors)

    matrix = torch.from_numpy(np.random.default_rng(4).normal(size=(4, 3))).requires_grad_()
    assert torch.autograd.gradcheck(Unit.apply, (matrix,))


def test_multiplying_in_bfloat16_moves_gradients_by_less_than_a_hundredth() -> None:
    users, items = (units(seed, rows, 64).float() for seed, rows in ((1, 40), (2, 300)))
    targets = torch.arange(40)
    exact = cosine_softmax(users, items[targets], Candidates(items, targets), tau=0.07)
    rough = cosine_softmax(users, items[targets], Candidates(items, targets), tau=0.07, products=torch.bfloat16)
    assert rough.loss == pytest.approx(exact.loss, rel=0.005)
    for mine, theirs in ((rough.users, exact.users), (rough.candidates, exact.candidates)):
        assert torch.linalg.norm(mine - theirs) < 0.01 * torch.linalg.norm(theirs)


def test_a_drawn_share_of_the_items_estimates_the_sum_over_all_without_bias() -> None:
    users, items, targets = units(1, 3, 8), units(2, 400, 8), torch.tensor([0, 1, 2])
    rng = np.random.default_rng(5)

    def norm(candidates: Candidates) -> Tensor:
        got = cosine_softmax(users, items[targets], candidates, tau=TAU)
        return torch.exp(torch.tensor(got.loss))  # the loss of all users; enough to see a bias

    exact = float(norm(Candidates(items, targets)))
    drawn = []
    for _ in range(300):
        rows = torch.from_numpy(np.flatnonzero(rng.random(400) < 0.25))
        places = torch.full((400,), -1).index_copy_(0, rows, torch.arange(len(rows)))[targets]
        drawn.append(float(norm(Candidates(items[rows], places, 0.25))))
    assert np.mean(drawn) == pytest.approx(exact, rel=0.03)


def test_a_step_hands_the_table_and_the_weights_the_gradient_of_the_whole_model() -> None:
    recipe = Recipe(dim=4, dropout=0.0, share=1.0, heads=2, bfloat16=False, tau=TAU)
    learner = Learner(6, recipe, np.random.default_rng(1))
    batch = Sessions.of(np.array([0, 0, 0, 0, 1, 1]), np.array([0, 1, 1, 4, 5, 2])).prefixes(20).batch(np.arange(4))
    table, log_heads = learner.table.clone().requires_grad_(), learner.log_heads.clone().requires_grad_()
    want = torch.autograd.grad(whole_model(table, log_heads, batch), (table, log_heads))
    learner.step(batch, rate=0.0)
    for mine, theirs in zip((learner.table.grad, learner.log_heads.grad), want, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def whole_model(table: Tensor, log_heads: Tensor, batch: Batch) -> Tensor:
    """The loss of a batch without dropout, for automatic differentiation, one prefix at a time."""
    weights = torch.cat([log_heads.exp(), torch.ones(1)])
    losses = []
    for prefix, target in enumerate(batch.targets):
        mine = batch.owners == prefix
        parts = table[batch.rows[mine]] * weights[np.minimum(batch.ranks[mine], len(log_heads))][:, None]
        cosines = torch.nn.functional.normalize(table, dim=1) @ torch.nn.functional.normalize(parts.sum(0), dim=0)
        losses.append(torch.nn.functional.cross_entropy(cosines[None] / TAU, torch.tensor([int(target)])))
    return torch.stack(losses).mean()


def test_shares_temperatures_and_dropout_outside_their_ranges_are_refused() -> None:
    for wrong in ({"share": 0.0}, {"share": 1.5}, {"dropout": 1.0}, {"tau": 0.001}):
        settings: dict[str, Any] = dict(wrong)
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Recipe(**settings)
