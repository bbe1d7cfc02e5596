"""Fine-tuning as a stage of training: events and a pre-trained model in, a model with the story of its making out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from led.encoder import Encoder, Events
from store.releases import Model
from training.curves import Curve
from training.encoded import timeline_rows
from training.finetune.checkpoint import OtherRun
from training.finetune.network import Learned
from training.finetune.run import Finetuned, finetune
from training.finetune.settings import Stage
from training.finetune.start import Start
from training.finetune.timelines import Timelines, timelines_of_events
from training.finetune.tying import tied
from training.finetune.validation import held_out
from training.interactions import SelectedEvents
from training.progress import Progress, silent
from training.spectral import averaged
from training.story import drawn, told
from training.train import SAMPLE_VECTORS, TooFewEvents

logger = logging.getLogger(__name__)


def finetuned(events: SelectedEvents, model: Model, stage: Stage, progress: Progress = silent) -> Model:
    """The model with its tables, biases and encoder as fine-tuning leaves them. Raises Diverged.

    model: pre-trained, on these events but those of validation users; its item_ids are theirs. What its events weigh,
    by kind, age and position, is where learned weights begin, and what they stay where none are learned, up to a
    factor that makes the first kind 1. A checkpoint of another run, as newer events make it, is removed. Raises
    TooFewEvents where there is nothing to predict.
    """
    settings = replace(stage.settings, half_life_s=stage.settings.half_life_s or model.half_life_s)
    kinds = [kind for kind, weight in model.kind_weights.items() if weight > 0]
    timelines = timelines_of_events(events, kinds, settings.positives or kinds)
    train, validation = held_out(timelines, settings, stage.validation)
    if not train.is_positive.any():
        named = ", ".join(settings.positives or kinds)
        raise TooFewEvents(f"positives = {named}: no such event of the users to train on is there to predict")
    start = Start(model.input_embeddings, model.output_embeddings, model.biases)
    if stage.warm is not None:
        start = stage.warm.start(model.item_ids, np.random.default_rng(settings.seed))
    weights = tuple(model.kind_weights[kind] for kind in kinds)
    start = replace(start, kind_weights=weights, head_weights=model.head_weights)
    begins_at = "both tables"
    if settings.tied:
        begins_at, start = tied(start, validation, settings)
    try:
        run = finetune(train, validation, start, settings, checkpoint=stage.checkpoint, progress=progress)
    except OtherRun as error:
        logger.warning("fine-tuning begins anew: %s", error)
        if stage.checkpoint is not None:
            stage.checkpoint.unlink()
        run = finetune(train, validation, start, settings, checkpoint=stage.checkpoint, progress=progress)
    return _told(_with_learned(model, kinds, timelines, run.learned), run, stage, begins_at)


def _told(model: Model, run: Finetuned, stage: Stage, begins_at: str) -> Model:
    """With learning curves and a JSON of what made it. begins_at: which table, see `training.finetune.tying`."""
    summary = {
        "epochs": len(run.history),
        "best_epoch": run.best_epoch,
        "ndcg": run.best_ndcg,
        "k": stage.validation.k,
        "begins_at": begins_at,
    }
    model = replace(model, about={**model.about, "finetuning": {**asdict(stage.settings), **summary}})
    curves = [Curve("training loss", "epoch", [one.number for one in run.history], [one.loss for one in run.history])]
    looks = {one.number: one.ndcg for one in run.history if one.ndcg is not None}
    if looks:
        title = f"validation ndcg@{stage.validation.k}"
        curves.append(Curve(title, "epoch", list(looks), list(looks.values()), run.best_epoch))
    story = {
        "validation": asdict(stage.validation),
        "epochs": [asdict(epoch) for epoch in run.history],
        "cpu_seconds": sum(epoch.cpu_seconds for epoch in run.history),
    }
    return told(drawn(model, curves), story)


def _with_learned(model: Model, kinds: Sequence[str], timelines: Timelines, learned: Learned) -> Model:
    encoder = Encoder(dict(enumerate(learned.kind_weights)), learned.half_life_s, learned.head_weights)
    some = timelines.of(np.random.default_rng(0).permutation(timelines.users)[:SAMPLE_VECTORS])
    events = Events(some.owners, some.rows, some.kinds.astype(np.uint8), some.times_ms)
    rows = timeline_rows(encoder, events, (some.users, some.items))
    return replace(
        model,
        input_embeddings=learned.inputs,
        output_embeddings=learned.outputs,
        biases=learned.biases,
        kind_weights=dict.fromkeys(model.kind_weights, 0.0) | dict(zip(kinds, learned.kind_weights, strict=True)),
        half_life_s=learned.half_life_s,
        head_weights=learned.head_weights,
        sample_vectors=averaged(rows) @ learned.inputs,
    )
