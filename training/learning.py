"""From an archive read in batches to a model, and to the events that the gate asks about: two ways, one result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from store.releases import Model, Release
from training.gate import Archived
from training.progress import Progress
from training.streamed import Batches, asked_about, train_streamed
from training.survey import Survey
from training.train import TrainSettings, train

Trainer = Callable[[pa.Table, TrainSettings, Progress], Model]


def learn_in_memory(
    batches: Batches, settings: TrainSettings, found: Survey, progress: Progress, *, trainer: Trainer = train
) -> tuple[Model, Archived]:
    """All events at once. trainer: makes the model of those that are not held out. Raises TooFewEvents."""
    events = pa.concat_tables(batches())
    held_out = found.held_out(events, counting_kinds(settings))
    return trainer(events.filter(pa.array(~held_out)), settings, progress), Archived(events, held_out)


def learn_from_disk(
    batches: Batches,
    settings: TrainSettings,
    found: Survey,
    progress: Progress,
    *,
    folder: Path,
    before: Release | None = None,
) -> tuple[Model, Archived]:
    """In passes, with shards in the folder, beginning where the release before it ended. Raises TooFewEvents."""
    model = train_streamed(batches, settings, found, folder, progress, before=before)
    kinds = counting_kinds(settings)
    events = asked_about(batches, found, kinds)
    return model, Archived(events, found.held_out(events, kinds))


def counting_kinds(settings: TrainSettings) -> list[str]:
    """Kinds of events that are trained on."""
    return [kind for kind, weight in settings.selection.kind_weights.items() if weight > 0]
