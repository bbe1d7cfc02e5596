"""Training on more events than memory holds: read in passes, made cells in shards on disk, decomposed from there.

The same stages as `training/train.py`, and the same model, up to the signs and rotations that no score depends on. What
is chosen on a validation part (`Grid`) is chosen on as many users, drawn at random, as memory holds well.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from store.releases import Model, Release
from stream.events import ERASE
from training.encoded import cell_rows
from training.id_hashes import id_hashes
from training.progress import Progress, silent
from training.sharded_svd import decompose_shards
from training.shards import Shards, build
from training.spectral import averaged
from training.story import told
from training.survey import Survey
from training.train import SAMPLE_VECTORS, Counts, Described, TrainSettings, choose, model_of

Batches = Callable[[], Iterable[pa.Table]]
"""Gives the archive from its beginning, a batch of events at a time."""

EVENTS_PER_SHARD, MOST_SHARDS = 1 << 19, 256
CHOOSING_CELLS = 5_000_000
ASKED_USERS = 10_000


def train_streamed(
    batches: Batches,
    settings: TrainSettings,
    found: Survey,
    folder: Path,
    progress: Progress = silent,
    *,
    before: Release | None = None,
) -> Model:
    """The model of all batches, but for what is held out. folder: empty, with room for 50 bytes an event.

    before: the release before it, to begin at. Raises TooFewEvents.
    """
    began = time.process_time()
    progress("sorting events to users", 0, 1)
    shards = build(batches(), settings.selection, found, folder, shards=shards_for(found.events))
    progress("sorting events to users", 1, 1)
    counts = Counts(shards.users, len(shards.item_ids), shards.cells, shards.oldest_ms, shards.newest_ms)
    counts.check()
    rng = np.random.default_rng(settings.spectral.seed)
    choice = choose(shards.sample(_users_to_choose_on(shards), rng), settings, progress)
    spectrum = decompose_shards(shards, dataclasses.replace(settings.spectral, a=choice.a), progress, before)
    sample = shards.sample(SAMPLE_VECTORS, rng)
    model = model_of(
        shards.item_ids,
        spectrum.embeddings(choice.p),
        shards.popularity(settings.popularity_half_life_s),
        averaged(cell_rows(settings.recency, sample)),
        Described(settings, choice, counts),
    )
    return told(model, {"settings": dataclasses.asdict(settings), "cpu_seconds": time.process_time() - began})


def shards_for(events: int) -> int:
    """Into how many shards so many events are put."""
    return min(MOST_SHARDS, 1 + events // EVENTS_PER_SHARD)


def asked_about(batches: Batches, found: Survey, kinds: Iterable[str]) -> pa.Table:
    """What the gate needs: all events and erasures of users of whom something is held out, ASKED_USERS at most."""
    counting = list(kinds)
    asked = np.empty(0, np.uint64)
    for batch in batches():
        new = id_hashes(batch["user_id"])[found.held_out(batch, counting)]
        asked = np.unique(np.concatenate([asked, new]))[:ASKED_USERS]
    parts = []
    for batch in batches():
        mine = batch.filter(pa.array(np.isin(id_hashes(batch["user_id"]), asked)))
        parts.append(mine.filter(pc.field("kind").isin([*counting, ERASE])))
    return pa.concat_tables(parts)


def _users_to_choose_on(shards: Shards) -> int:
    return max(1, round(shards.users * min(1.0, CHOOSING_CELLS / max(shards.cells, 1))))
