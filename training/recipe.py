"""A model made in stages: pre-training, then fine-tuning where it is wished for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pyarrow as pa

from led.encoder import F32
from store.releases import Model
from training.encoded import cell_rows
from training.finetune.settings import Stage
from training.finetune.start import random_start
from training.interactions import Interactions, SelectedEvents, interactions_of, select
from training.pmi import PmiSettings, pmi_embeddings
from training.progress import Progress, silent
from training.spectral import averaged
from training.train import SAMPLE_VECTORS, Counts, TrainSettings, choose, fit


@dataclass(frozen=True)
class RandomStart:
    """No pre-training: fine-tuning begins with random rows."""

    dim: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim = {self.dim}: must be at least 1")


@dataclass(frozen=True)
class Recipe:
    """general: selection, encoder, and the closed form, which is what pre-trains where `begin` is None.

    kinds: what pre-training sees; none named: all that is selected. finetuning: None for none.
    """

    general: TrainSettings
    begin: PmiSettings | RandomStart | None = None
    kinds: Sequence[str] = ()
    finetuning: Stage | None = None

    @property
    def dim(self) -> int:
        """Of the embeddings, at most."""
        return self.general.spectral.dim if self.begin is None else self.begin.dim


def made(events: pa.Table, recipe: Recipe, progress: Progress = silent) -> Model:
    """The model of archived events (columns of `training.interactions.collect`). Raises TooFewEvents."""
    selected = select(events, recipe.general.selection)
    model = pretrained(selected, recipe, progress)
    if recipe.finetuning is None:
        return model
    from training.finetune.stage import finetuned

    return finetuned(selected, model, recipe.finetuning, progress)


def pretrained(events: SelectedEvents, recipe: Recipe, progress: Progress = silent) -> Model:
    """The model before fine-tuning; its items are all that were selected, its popularity is of all of them."""
    general = recipe.general
    everything = interactions_of(events, general.selection.half_life_s)
    Counts(*everything.matrix.shape, everything.matrix.nnz).check()
    seen = everything
    if recipe.kinds:
        seen = interactions_of(events.of_kinds(recipe.kinds), general.selection.half_life_s)
        Counts(*seen.matrix.shape, seen.matrix.nnz).check()
    if recipe.begin is None:
        model = fit(seen, general, choose(seen, general, progress), progress)
    else:
        model = _begun(seen, recipe.begin, general, progress)
    return replace(model, popularity=everything.popularity(general.popularity_half_life_s))


def _begun(
    interactions: Interactions, begin: PmiSettings | RandomStart, general: TrainSettings, progress: Progress
) -> Model:
    name, (inputs, outputs, biases) = _rows(interactions, begin, progress)
    rows = averaged(cell_rows(general.recency, interactions)[:SAMPLE_VECTORS])
    times_ms = interactions.times_ms
    return Model(
        item_ids=interactions.item_ids,
        input_embeddings=inputs,
        output_embeddings=outputs,
        biases=biases,
        popularity=interactions.popularity(general.popularity_half_life_s),
        kind_weights=dict(general.selection.kind_weights),
        half_life_s=general.half_life_s,
        head_weights=general.head_weights,
        sample_vectors=rows @ inputs,
        about={
            "interactions": int(interactions.matrix.nnz),
            "users": interactions.matrix.shape[0],
            "items": interactions.matrix.shape[1],
            "from_ms": None if times_ms is None else int(times_ms.min()),
            "to_ms": None if times_ms is None else int(times_ms.max()),
            name: asdict(begin),
        },
    )


def _rows(
    interactions: Interactions, begin: PmiSettings | RandomStart, progress: Progress
) -> tuple[str, tuple[F32, F32, F32]]:
    if isinstance(begin, PmiSettings):
        return "pmi", pmi_embeddings(interactions.matrix, begin, progress)
    start = random_start(len(interactions.item_ids), begin.dim, np.random.default_rng(begin.seed))
    return "random", (start.inputs, start.outputs, start.biases)
