"""The same list for everybody."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from training.baselines.contract import Fitted
from training.evaluate import popular
from training.interactions import Interactions
from training.progress import Progress, silent


@dataclass(frozen=True)
class MostPopular:
    """By weight of all events."""

    def fit(self, train: Interactions, _rng: np.random.Generator, _progress: Progress = silent) -> Iterator[Fitted]:
        yield Fitted(popular(train.popularity(None)))


@dataclass(frozen=True)
class RecentPopular:
    """By weight of all events, halved with every half-life of age. Raises ValueError where times are unknown."""

    half_life_s: float

    def fit(self, train: Interactions, _rng: np.random.Generator, _progress: Progress = silent) -> Iterator[Fitted]:
        if train.times_ms is None:
            raise ValueError("these interactions have no times: nothing is known to be recent")
        yield Fitted(popular(train.popularity(self.half_life_s)))
