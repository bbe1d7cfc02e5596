"""Gowalla in the split of LightGCN, the table most of the field prints.

The split has no validation part: it gets one from its training part, so that what is chosen is never chosen on test.
For the closed form that is done before each fit. The settings of narrow tables were chosen once, on the same kind of
part: docs/experiments.md says what was tried.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import scipy.sparse as sp

from training.benchmarks.case import Case, data_file, trained_rows
from training.evaluate import Row, Split, Task, Training, folding, measure
from training.interactions import Selection, without_times
from training.narrow import NarrowSettings, narrow_embeddings
from training.peak_memory import peak_mb
from training.progress import Progress, silent
from training.spectral import SpectralSettings
from training.train import Grid, TrainSettings

DIMS = (64, 128, 256, 512, 1024)
NARROW_DIMS = (64, 128)
CHOSEN = ("wide", "level", "popular", "temperature", "masked", "learning_rate", "steps")
TRIED = 23
GOWALLA = "gowalla_lightgcn.parquet"


def gowalla(dims: Sequence[int] | None, folder: Path) -> list[Case]:
    """The closed form at each dimension, and what is learned to fit few. Raises NoBenchmark."""
    path = data_file(folder, GOWALLA)
    cases = [Case("led", partial(closed_form, dim, path)) for dim in dims or DIMS]
    return cases + [Case("led, narrow", partial(narrow, dim, path)) for dim in dims or NARROW_DIMS]


def closed_form(dim: int, path: Path, progress: Progress = silent) -> list[Row]:
    """a and p are chosen on a fifth of the training part, drawn as the test part was, before the fit on all of it."""
    settings = TrainSettings(Selection({}), SpectralSettings(dim=dim), grid=Grid(bias=(0.0,), users_share=0.0))
    return trained_rows(lightgcn_split(path), settings, progress)


def narrow(dim: int, path: Path, progress: Progress = silent) -> list[Row]:
    """What a few dimensions can hold of the closed form, as wide as the settings say, or dim where that is more.

    Trained on all of the training part. Seconds are of the process, not of the clock.
    """
    settings = NarrowSettings(dim=dim, wide=max(dim, NarrowSettings().wide))
    parts = lightgcn_split(path)
    started = time.process_time()
    inputs, outputs = narrow_embeddings(parts.train.matrix, settings, progress)
    training = Training(
        d=inputs.shape[1],
        settings={name: getattr(settings, name) for name in CHOSEN},
        tried=TRIED,
        train_seconds=time.process_time() - started,
        peak_mb=peak_mb(),
    )
    scorer = folding(inputs, outputs, np.zeros(len(outputs), np.float32))
    return [Row(name, "led, narrow", measure(scorer, task), training) for name, task in parts.tasks.items()]


def lightgcn_split(path: Path) -> Split:
    """29,858 users, 40,981 items; a fifth of each user's items is the task `gowalla`.

    Not a random fifth: of items with 200 events and more it holds a quarter.
    """
    table = pq.read_table(path)
    users, items = (table[name].to_numpy().astype(np.int64) for name in ("user", "item"))
    is_test = table["split"].to_numpy() == 1
    train = without_times(users[~is_test], items[~is_test])
    cells = (np.ones(np.count_nonzero(is_test), np.float32), (users[is_test], items[is_test]))
    return Split(train, {"gowalla": Task(train.matrix, sp.csr_array(cells, shape=train.matrix.shape))})
