"""One small contract for all that is compared, ours included: hyper-parameters that can be fitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from training.evaluate import Scorer
from training.interactions import Interactions
from training.progress import Progress, silent

PATIENCE = 10  # measurements without a better one, after which a candidate is left


@dataclass(frozen=True)
class Fitted:
    """scorer: of users by what they did, known ones or new. d: numbers kept for each item, 0 where that means nothing.

    It stays what it was when its model is trained further.
    """

    scorer: Scorer
    d: int = 0


class Recipe(Protocol):
    """A model's hyper-parameters: a frozen dataclass of numbers and words, so that a row can say what was chosen."""

    def fit(self, train: Interactions, rng: np.random.Generator, progress: Progress = silent, /) -> Iterator[Fitted]:
        """The model, trained longer and longer; once where there is nothing to prolong."""
        ...


@dataclass(frozen=True)
class Chosen:
    """The best of some recipes: after `steps` yields of its fit it was `fitted`. tried: all that were measured."""

    recipe: Recipe
    steps: int
    fitted: Fitted
    tried: int


def best_of(
    recipes: Sequence[Recipe],
    train: Interactions,
    quality: Callable[[Scorer], float],
    seed: int,
    progress: Progress = silent,
) -> Chosen:
    """The recipe, and how long it was trained, of highest quality on a validation part. All get the same seed."""
    best: Chosen | None = None
    highest, tried = -np.inf, 0
    for place, recipe in enumerate(recipes):
        progress("choosing", place, len(recipes))
        highest_here, without_better = -np.inf, 0
        for step, fitted in enumerate(recipe.fit(train, np.random.default_rng(seed), progress), 1):
            found = quality(fitted.scorer)
            tried += 1
            if found > highest:
                best, highest = Chosen(recipe, step, fitted, tried), found
            without_better = 0 if found > highest_here else without_better + 1
            highest_here = max(found, highest_here)
            if without_better == PATIENCE:
                break
    progress("choosing", len(recipes), len(recipes))
    if best is None:
        raise ValueError("there is no recipe to choose from")
    return Chosen(best.recipe, best.steps, best.fitted, tried)


def fitted_for(recipe: Recipe, train: Interactions, steps: int, seed: int, progress: Progress = silent) -> Fitted:
    """The recipe fitted as long as `steps` yields; as long as it goes where it ends before."""
    fitted: Fitted | None = None
    for step, found in enumerate(recipe.fit(train, np.random.default_rng(seed), progress), 1):
        fitted = found
        if step == steps:
            break
    if fitted is None:
        raise ValueError(f"{recipe} gave no model")
    return fitted
