"""Evidence between two releases that may be looked at after every event, and acted upon whenever it suffices.

A test that is repeated while the data come in errs far more often than its level says. A bet does not: let its capital
begin at 1 and, as long as the hypothesis holds, be expected never to grow; then it ever reaches 1/a with probability
at most a (Ville's inequality). Capitals of several stakes averaged are such a capital too, so that no stake needs to
be right. (Robbins 1970 on mixtures; Waudby-Smith and Ramdas, JRSS B 86, 2024, on bets about bounded variables.)

Here a capital is a function of counts alone: it can be taken up again from where it was, in whatever order they came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf, log, log1p
from typing import NamedTuple

import numpy as np

STAKES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
TIMES_AS_MANY = (1.5, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0)
LEAST_RATIO, STEPS = 1e-4, 60


class Pairs(NamedTuple):
    """Events, by which of the two releases had the event's item among its best: counts that add up."""

    both: int = 0
    champion_only: int = 0
    canary_only: int = 0
    neither: int = 0

    def plus(self, other: Pairs) -> Pairs:
        """Both counts together."""
        return Pairs(*(one + more for one, more in zip(self, other, strict=True)))

    @property
    def events(self) -> int:
        return sum(self)

    @property
    def champion_hits(self) -> int:
        return self.both + self.champion_only

    @property
    def canary_hits(self) -> int:
        return self.both + self.canary_only


def against_recall(pairs: Pairs, change: float) -> float:
    """Log capital of a bet that the canary's recall is below (1 + change) of the champion's; change above -1.

    An event counts x = canary hit - (1 + change) * champion hit, which is expected at or above 0 unless it is.
    """
    return _mixed(
        pairs.canary_only * log1p(-stake)
        + pairs.champion_only * log1p(stake * (1 + change))
        + pairs.both * log1p(stake * change)
        for stake in STAKES
    )


def for_recall(pairs: Pairs, change: float) -> float:
    """Log capital of a bet that the canary's recall is above (1 + change) of the champion's; change above -1."""
    return _mixed(
        pairs.canary_only * log1p(stake / (1 + change))
        + pairs.champion_only * log1p(-stake)
        + pairs.both * log1p(-stake * change / (1 + change))
        for stake in STAKES
    )


def change_of_recall(pairs: Pairs, level: float) -> tuple[float, float]:
    """Bounds of the relative change of recall from champion to canary, -1 .. inf.

    Both hold at all times at once with probability 1 - 2 * level.

    >>> low, high = change_of_recall(Pairs(both=900, champion_only=100, canary_only=100, neither=900), 0.025)
    >>> low < 0 < high
    True
    """
    enough = -log(level)
    low = _turning_point(lambda change: for_recall(pairs, change) < enough)
    return low, _turning_point(lambda change: against_recall(pairs, change) >= enough)


def against_errors(canary_errors: int, champion_errors: int, canary_share: float) -> float:
    """Log capital of a bet that the canary fails more often than the champion.

    canary_share: of all calls, which is the chance that a failure is the canary's while both fail equally often.
    """
    capitals = []
    for times in TIMES_AS_MANY:
        all_failures = 1 - canary_share + times * canary_share
        capitals.append(canary_errors * log(times / all_failures) - champion_errors * log(all_failures))
    return _mixed(capitals)


def _mixed(log_capitals: Iterable[float]) -> float:
    each = np.array(list(log_capitals))
    return float(np.logaddexp.reduce(each) - log(len(each)))


def _turning_point(is_above: Callable[[float], bool]) -> float:
    """The change from which on is_above holds, by bisection of 1 + change on a scale of ratios.

    -1 where it holds nearly everywhere, inf where it does so nowhere.
    """
    low, high = log(LEAST_RATIO), log(1 / LEAST_RATIO)
    if is_above(float(np.expm1(low))):
        return -1.0
    if not is_above(float(np.expm1(high))):
        return inf
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_above(float(np.expm1(middle))) else (middle, high)
    return float(np.expm1(high))
