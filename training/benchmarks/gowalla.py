"""Gowalla in the split of LightGCN, the table most of the field prints.

The split has no validation part: it gets one from its training part, so that what is chosen is never chosen on test.
For the closed form that is done before each fit. The settings of narrow tables and of EASE were chosen once, on such a
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

from training.baselines.linear import Ease
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
EASE_REGULARISATION, EASE_TRIED = 200.0, 6  # recall@20 .273 (30), .283 (100), .286, .282 (300), .279 (500), .268 (1000)
GOWALLA = "gowalla_lightgcn.parquet"


def gowalla(dims: Sequence[int] | None, folder: Path) -> list[Case]:
    """The closed form at each dimension, what is learned to fit few, and EASE, which has none. Raises NoBenchmark."""
    path = data_file(folder, GOWALLA)
    cases = [Case("led", partial(closed_form, dim, path)) for dim in dims or DIMS]
    cases += [Case("led, narrow", partial(narrow, dim, path)) for dim in dims or NARROW_DIMS]
    return [*cases, Case("ease", partial(ease, path))]


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


def ease(path: Path, progress: Progress = silent) -> list[Row]:
    """A matrix of items x items, 6.7 GB, and its inverse: ten to twenty minutes of one core.

    Trained on all of the training part, with what was chosen on one of the 10,000 most popular items.
    """
    parts = lightgcn_split(path)
    started = time.process_time()
    fitted = next(Ease(EASE_REGULARISATION).fit(parts.train, np.random.default_rng(0), progress))
    training = Training(
        d=fitted.d,
        settings={"regularisation": EASE_REGULARISATION},
        tried=EASE_TRIED,
        train_seconds=time.process_time() - started,
        peak_mb=peak_mb(),
    )
    return [Row(name, "ease", measure(fitted.scorer, task), training) for name, task in parts.tasks.items()]


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
