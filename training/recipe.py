"""A model made in stages: pre-training, then fine-tuning where it is wished for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from led.encoder import F32, I64
from store.releases import Model
from training.curves import Curve
from training.denoised import DenoisedSettings
from training.encoded import cell_rows
from training.finetune.settings import Stage
from training.finetune.start import random_start
from training.interactions import Interactions, SelectedEvents, interactions_of, select
from training.joined import JoinedSettings
from training.narrow import NarrowSettings, narrowed
from training.pmi import PmiSettings, pmi_embeddings
from training.progress import Progress, silent
from training.ridge_choice import Ridge, choose_ridge, ridge_embeddings
from training.spectral import averaged, popularity_bias
from training.story import drawn, told
from training.train import SAMPLE_VECTORS, Counts, TrainSettings, choose, fit


@dataclass(frozen=True)
class RandomStart:
    """No pre-training: fine-tuning begins with random rows."""

    dim: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim = {self.dim}: must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed}: must be at least 0")


Begin = PmiSettings | NarrowSettings | DenoisedSettings | JoinedSettings | RandomStart


@dataclass(frozen=True)
class Recipe:
    """general: selection, encoder, and the closed form, which is what pre-trains where `begin` is None. Its bias and
    its grid are also those of ridges through noise.

    kinds: what pre-training sees; none named: all that is selected. finetuning: None for none.
    """

    general: TrainSettings
    begin: Begin | None = None
    kinds: Sequence[str] = ()
    finetuning: Stage | None = None

    @property
    def dim(self) -> int:
        """Of the embeddings, at most."""
        return self.general.spectral.dim if self.begin is None else self.begin.dim


def made(events: pa.Table, recipe: Recipe, progress: Progress = silent) -> Model:
    """The model of archived events (columns of `training.interactions.collect`). Raises TooFewEvents."""
    began = time.process_time()
    selected = select(events, recipe.general.selection)
    stage = recipe.finetuning
    if stage is None:
        model = pretrained(selected, recipe, progress)
    else:
        from training.finetune.stage import finetuned

        held_out = stage.validation.users(len(selected.user_ids), stage.settings.seed)
        model = pretrained(selected, recipe, progress, without=held_out)
        model = finetuned(selected, model, stage, progress)
    settings = asdict(replace(recipe, finetuning=stage and replace(stage, warm=None)))
    return told(model, {"settings": settings, "cpu_seconds": time.process_time() - began})


def pretrained(
    events: SelectedEvents, recipe: Recipe, progress: Progress = silent, *, without: I64 | None = None
) -> Model:
    """The model before fine-tuning; its items and their popularity are of all events.

    without: users it does not learn from: fine-tuning is to be validated on them.
    """
    general = recipe.general
    everything = interactions_of(events, general.selection.half_life_s)
    Counts(*everything.matrix.shape, everything.matrix.nnz).check()
    seen = everything
    if recipe.kinds or without is not None:
        some = events.of_kinds(recipe.kinds or events.kind_names)
        some = some if without is None else some.only(~np.isin(some.users, without))
        seen = interactions_of(some, general.selection.half_life_s)
        Counts(*seen.matrix.shape, seen.matrix.nnz).check()
    if recipe.begin is None:
        model = fit(seen, general, choose(seen, general, progress), progress)
    else:
        model = _begun(seen, recipe.begin, general, progress)
    span = {"interactions": int(everything.matrix.nnz), **_span(everything)}
    popularity = everything.popularity(general.popularity_half_life_s)
    return replace(model, popularity=popularity, about={**model.about, **span})


def _begun(interactions: Interactions, begin: Begin, general: TrainSettings, progress: Progress) -> Model:
    made = _rows(interactions, begin, general, progress)
    rows = averaged(cell_rows(general.recency, interactions)[:SAMPLE_VECTORS])
    model = Model(
        item_ids=interactions.item_ids,
        input_embeddings=made.inputs,
        output_embeddings=made.outputs,
        biases=made.biases,
        popularity=interactions.popularity(general.popularity_half_life_s),
        kind_weights=dict(general.selection.kind_weights),
        half_life_s=general.half_life_s,
        head_weights=general.head_weights,
        sample_vectors=rows @ made.inputs,
        about={
            "users": interactions.matrix.shape[0],
            "items": interactions.matrix.shape[1],
            **made.about,
        },
    )
    if not made.losses:
        return model
    numbers = list(range(1, len(made.losses) + 1))
    return drawn(model, [Curve("training loss", "step", numbers, made.losses)])


def _span(interactions: Interactions) -> dict[str, object]:
    times_ms = interactions.times_ms
    return {} if times_ms is None else {"from_ms": int(times_ms.min()), "to_ms": int(times_ms.max())}


class _Rows(NamedTuple):
    """Tables, biases, how they came to be, and the loss of each step where there were steps."""

    inputs: F32
    outputs: F32
    biases: F32
    about: dict[str, object]
    losses: tuple[float, ...] = ()


def _rows(interactions: Interactions, begin: Begin, general: TrainSettings, progress: Progress) -> _Rows:
    if isinstance(begin, PmiSettings):
        return _Rows(*pmi_embeddings(interactions.matrix, begin, progress), {"pmi": asdict(begin)})
    if isinstance(begin, NarrowSettings):
        inputs, outputs, losses = narrowed(interactions.matrix, begin, progress)
        return _Rows(inputs, outputs, np.zeros(len(outputs), np.float32), {"narrow": asdict(begin)}, losses)
    if isinstance(begin, DenoisedSettings | JoinedSettings):
        return _ridge(interactions, begin, general, progress)
    start = random_start(len(interactions.item_ids), begin.dim, np.random.default_rng(begin.seed))
    return _Rows(start.inputs, start.outputs, start.biases, {"random": asdict(begin)})


def _ridge(interactions: Interactions, begin: Ridge, general: TrainSettings, progress: Progress) -> _Rows:
    """With the settings chosen where there is a grid."""
    choice = choose_ridge(interactions, begin, general, progress)
    inputs, outputs = ridge_embeddings(interactions.matrix, choice.settings, progress)
    biases = popularity_bias(interactions.popularity(general.popularity_half_life_s), choice.bias)
    name = "joined" if isinstance(begin, JoinedSettings) else "denoised"
    validation = {task: asdict(quality) for task, quality in choice.validation.items()}
    told = {name: asdict(choice.settings), "bias": choice.bias, "validation": validation, "tried": choice.tried}
    return _Rows(inputs, outputs, biases, told)
