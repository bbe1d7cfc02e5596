"""The settings of a ridge through noise, chosen on a validation part as the closed form's exponents are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from led.encoder import F32
from training.denoised import DenoisedSettings, denoised_embeddings
from training.evaluate import Quality, Split, folding, measure
from training.interactions import Interactions
from training.joined import JoinedSettings, halves, joined_embeddings
from training.progress import Progress, silent
from training.spectral import popularity_bias
from training.svd import Sparse
from training.train import TrainSettings, validation_parts

RIDGES = (20.0, 80.0, 200.0, 400.0, 800.0)  # the least suits Gowalla's 20 interactions an item, the largest MovieLens
EXPONENTS = (0.2, 0.35, 0.5)
WEIGHTS = (0.25, 0.5, 1.0, 2.0)
CHOOSING = "choosing ridge, a and bias"

Ridge = DenoisedSettings | JoinedSettings
Tables = tuple[F32, F32]


@dataclass(frozen=True)
class RidgeChoice:
    """What to train with, and what it gave on the validation part, by task. tried: how many were measured."""

    settings: Ridge
    bias: float
    validation: Mapping[str, Quality] = field(default_factory=dict)
    tried: int = 0

    @property
    def ndcg(self) -> float:
        """Mean over the tasks, each task counting the same."""
        return sum(quality.ndcg for quality in self.validation.values()) / max(len(self.validation), 1)


def ridge_embeddings(matrix: Sparse, settings: Ridge, progress: Progress = silent) -> Tables:
    """Input and output embeddings, of either kind."""
    if isinstance(settings, JoinedSettings):
        return joined_embeddings(matrix, settings, progress)
    return denoised_embeddings(matrix, settings, progress)


def choose_ridge(
    interactions: Interactions, settings: Ridge, general: TrainSettings, progress: Progress = silent
) -> RidgeChoice:
    """The best by ndcg@20 on held-out events and held-out users of these interactions, equally weighed.

    One after the other: the ridge with `a` as it is set, a, ELSA's weight where there is one, the bias; what is set
    is among what is tried. What the settings say themselves where general.grid is None, or nothing to validate on.
    """
    parts, grid = validation_parts(interactions, general, settings.seed), general.grid
    if parts is None or grid is None:
        return RidgeChoice(settings, general.bias)
    ridge = settings.half if isinstance(settings, JoinedSettings) else settings
    choosing = _Choosing(parts, parts.train.popularity(general.popularity_half_life_s), ridge)
    steps = len({*RIDGES, ridge.ridge}) + len({*EXPONENTS, ridge.a}) - 1
    for value in sorted({*RIDGES} - {ridge.ridge}):
        progress(CHOOSING, choosing.tried, steps)
        choosing.look(replace(ridge, ridge=value))
    chosen = choosing.best.settings.ridge
    for value in sorted({*EXPONENTS} - {ridge.a}):
        progress(CHOOSING, choosing.tried, steps)
        choosing.look(replace(ridge, ridge=chosen, a=value))
    progress(CHOOSING, steps, steps)
    if isinstance(settings, JoinedSettings):
        best = choosing.best.settings
        choosing.weigh(replace(settings, a=best.a, ridge=best.ridge), progress)
    for bias in sorted({*grid.bias, general.bias} - {0.0}):
        choosing.look(choosing.best.settings, bias, choosing.tables)
    return replace(choosing.best, tried=choosing.tried)


class _Choosing:
    """The best so far, beginning with some settings, its tables, and how many were measured."""

    def __init__(self, parts: Split, popularity: F32, first: Ridge) -> None:
        self._parts, self._popularity = parts, popularity
        self.tables = ridge_embeddings(parts.train.matrix, first)
        self.best, self.tried = self._measured(first, 0.0, self.tables), 1

    def look(self, settings: Ridge, bias: float = 0.0, tables: Tables | None = None) -> None:
        """Measure these settings; tables: where they are there already."""
        tables = ridge_embeddings(self._parts.train.matrix, settings) if tables is None else tables
        trial = self._measured(settings, bias, tables)
        self.tried += 1
        if trial.ndcg > self.best.ndcg:
            self.best, self.tables = trial, tables

    def weigh(self, settings: JoinedSettings, progress: Progress) -> None:
        """The best weight of these settings. Both halves together are taken even where one alone ranked better."""
        both = halves(self._parts.train.matrix, settings, progress)
        self.tables = both.joined(settings.weight)
        self.best = self._measured(settings, 0.0, self.tables)
        self.tried += 1
        for weight in sorted({*WEIGHTS} - {settings.weight}):
            self.look(replace(settings, weight=weight), tables=both.joined(weight))

    def _measured(self, settings: Ridge, bias: float, tables: Tables) -> RidgeChoice:
        scorer = folding(*tables, popularity_bias(self._popularity, bias))
        found = {name: measure(scorer, task) for name, task in self._parts.tasks.items()}
        return RidgeChoice(settings, bias, found)
