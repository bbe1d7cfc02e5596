"""Bets that may be looked at after every event: how seldom they are wrong, and how soon they are right."""

from __future__ import annotations

from math import inf, log

import numpy as np
import pytest

from led.evidence import Pairs, against_errors, against_recall, change_of_recall, for_recall

LEVEL = 0.05


def ever_reached(rng: np.random.Generator, chances: tuple[float, float, float, float], change: float) -> bool:
    """Whether a bet against the canary that is looked at every ten events reaches 1 / LEVEL within 3000."""
    outcomes = rng.choice(4, size=3000, p=chances)
    counts = np.array([np.cumsum(outcomes == which) for which in range(4)])[:, 9::10]
    return any(against_recall(Pairs(*map(int, at)), change) >= -log(LEVEL) for at in counts.T)


def test_an_equal_canary_is_suspected_no_more_often_than_the_level_however_often_one_looks() -> None:
    rng = np.random.default_rng(1)
    wrong = sum(ever_reached(rng, (0.2, 0.05, 0.05, 0.7), 0.0) for _ in range(200))
    assert wrong <= 200 * LEVEL * 1.5


def test_a_canary_that_loses_what_is_borne_is_no_worse_than_that() -> None:
    rng = np.random.default_rng(2)
    champion_only = 0.05 + 0.01 * 0.25
    wrong = sum(ever_reached(rng, (0.2 - 0.01 * 0.25, champion_only, 0.05, 0.7), -0.01) for _ in range(200))
    assert wrong <= 200 * LEVEL * 1.5


def test_a_worse_canary_is_found_out_and_a_broken_one_within_a_dozen_hits() -> None:
    rng = np.random.default_rng(3)
    assert all(ever_reached(rng, (0.15, 0.1, 0.05, 0.7), -0.01) for _ in range(20))
    assert against_recall(Pairs(champion_only=12), -0.01) > -log(0.01)


def test_order_and_parts_do_not_matter() -> None:
    parts = [Pairs(3, 1, 0, 9), Pairs(2, 0, 4, 1), Pairs()]
    whole = parts[0].plus(parts[1]).plus(parts[2])
    assert whole == Pairs(5, 1, 4, 10)
    assert (whole.events, whole.champion_hits, whole.canary_hits) == (20, 6, 9)


def test_bounds_of_the_change_close_in_on_it_and_move_with_the_counts() -> None:
    assert change_of_recall(Pairs(), 0.025) == (-1.0, inf)
    few, many = Pairs(20, 10, 10, 60), Pairs(2000, 1000, 1000, 6000)
    (low_few, high_few), (low, high) = change_of_recall(few, 0.025), change_of_recall(many, 0.025)
    assert low_few < low < 0 < high < high_few
    assert -0.06 < low < high < 0.06
    assert change_of_recall(Pairs(2000, 1000, 1500, 5500), 0.025)[0] > 0.1
    assert change_of_recall(Pairs(2000, 1000, 500, 6500), 0.025)[1] < -0.1


def test_at_a_bound_the_bet_is_just_won() -> None:
    pairs = Pairs(300, 40, 70, 500)
    low, high = change_of_recall(pairs, 0.025)
    assert for_recall(pairs, low) == pytest.approx(-log(0.025), abs=1e-6)
    assert against_recall(pairs, high) == pytest.approx(-log(0.025), abs=1e-6)


def test_two_failures_of_a_small_share_are_suspicious_and_a_fair_share_is_not() -> None:
    assert against_errors(0, 0, 0.05) == 0
    assert against_errors(2, 0, 0.05) > -log(0.01)
    assert against_errors(5, 95, 0.05) < 0
    assert against_errors(50, 50, 0.5) < 0
    assert against_errors(40, 0, 1.0) == pytest.approx(0)  # nobody to compare with


def test_failures_of_equal_releases_are_suspected_no_more_often_than_the_level() -> None:
    rng = np.random.default_rng(4)
    wrong = 0
    for _ in range(300):
        ours = np.cumsum(rng.random(200) < 0.1)
        wrong += any(against_errors(int(e), n + 1 - int(e), 0.1) >= -log(LEVEL) for n, e in enumerate(ours))
    assert wrong <= 300 * LEVEL * 1.5
