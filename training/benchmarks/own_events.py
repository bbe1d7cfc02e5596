"""The same measurements on one's own archive."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from training.benchmarks.case import trained_rows
from training.evaluate import Row, measure, popular, split
from training.interactions import collect
from training.progress import Progress, silent
from training.train import TrainSettings


def archive(events: pa.Table, settings: TrainSettings, progress: Progress = silent) -> list[Row]:
    """Rows for one's own events: LED and popularity, on held-out events and on held-out users.

    a, p and the bias are chosen on a validation part of what is trained on. Raises TooFewEvents.
    """
    interactions = collect(events, settings.selection)
    rng = np.random.default_rng(settings.spectral.seed + 1)  # another split than the one the choice is made on
    parts = split(interactions, rng, encoder=settings.recency)
    popularity = popular(parts.train.popularity(settings.popularity_half_life_s))
    rows = trained_rows(parts, settings, progress)
    for name, task in parts.tasks.items():
        rows.append(Row(name, "popular", measure(popularity, task, progress=progress)))
    return sorted(rows, key=lambda row: row.benchmark)
