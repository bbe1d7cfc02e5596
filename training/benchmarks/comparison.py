"""Recipes chosen on a validation part and measured on test, ours and other people's in the same way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from training.baselines.contract import Chosen, Recipe, best_of, fitted_for
from training.benchmarks.case import Case
from training.evaluate import Quality, Row, Scorer, Task, Training, measure
from training.interactions import Interactions
from training.peak_memory import peak_mb
from training.progress import Progress, silent

Recipes = Callable[[], Sequence[Recipe]]


@dataclass(frozen=True)
class Measures:
    """What a protocol prints, and by which of it recipes are chosen. See `measure`."""

    chosen_by: str
    further: tuple[str, ...] = ()
    truncated: bool = False

    def of(self, scorer: Scorer, task: Task, progress: Progress = silent) -> Quality:
        return measure(scorer, task, truncated=self.truncated, further=self.further, progress=progress)

    def worth(self, quality: Quality) -> float:
        """What recipes are chosen by."""
        return {"recall@20": quality.recall, "ndcg@20": quality.ndcg, **quality.further}[self.chosen_by]


@dataclass(frozen=True)
class Trial:
    """A protocol with its data. Recipes are chosen on `train` and `validation`, then trained on `final` for the tests.

    tests: by name.
    """

    train: Interactions
    validation: Task
    final: Interactions
    tests: dict[str, Task]
    measures: Measures


def compared(model: str, recipes: Recipes, trial: Callable[[], Trial], seed: int = 0) -> Case:
    """The case of one model with all its candidates.

    Both functions are picklable and called where the case is measured, which alone imports what the model needs.
    """
    return Case(model, partial(_rows, model, recipes, trial, seed))


def _rows(model: str, recipes: Recipes, trial: Callable[[], Trial], seed: int, progress: Progress) -> list[Row]:
    candidates = recipes()  # first: it imports what may not be installed
    on = trial()
    started = time.process_time()
    chosen = _chosen(candidates, on, seed, progress)
    chose = time.process_time()
    fitted = fitted_for(chosen.recipe, on.final, chosen.steps, seed, progress)
    training = Training(
        d=fitted.d,
        settings=_settings(chosen),
        tried=chosen.tried,
        choose_seconds=chose - started,
        train_seconds=time.process_time() - chose,
        peak_mb=peak_mb(),
    )
    qualities = {name: on.measures.of(fitted.scorer, task, progress) for name, task in on.tests.items()}
    return [Row(name, model, quality, training) for name, quality in qualities.items()]


def _chosen(recipes: Sequence[Recipe], on: Trial, seed: int, progress: Progress) -> Chosen:
    def quality(scorer: Scorer) -> float:
        return on.measures.worth(on.measures.of(scorer, on.validation))

    return best_of(recipes, on.train, quality, seed, progress)


def _settings(chosen: Chosen) -> dict[str, float | str]:
    """The recipe's fields, and how long it was trained where it could have been longer or shorter."""
    return {**vars(chosen.recipe), **({"steps": chosen.steps} if chosen.steps > 1 else {})}
