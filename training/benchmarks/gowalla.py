"""Gowalla in the split of LightGCN, the table most of the field prints.

The split has no validation part: it gets one from its training part, so that what is chosen is never chosen on test.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import scipy.sparse as sp

from training.benchmarks.case import Case, data_file, trained_rows
from training.evaluate import Row, Split, Task
from training.interactions import Selection, without_times
from training.progress import Progress, silent
from training.spectral import SpectralSettings
from training.train import Grid, TrainSettings

DIMS = (64, 128, 256, 512, 1024)
GOWALLA = "gowalla_lightgcn.parquet"


def gowalla(dims: Sequence[int] | None, folder: Path) -> list[Case]:
    """The closed form at each dimension. Raises NoBenchmark."""
    path = data_file(folder, GOWALLA)
    return [Case("led", partial(closed_form, dim, path)) for dim in dims or DIMS]


def closed_form(dim: int, path: Path, progress: Progress = silent) -> list[Row]:
    """a and p are chosen on a fifth of the training part, drawn as the test part was, before the fit on all of it."""
    settings = TrainSettings(Selection({}), SpectralSettings(dim=dim), grid=Grid(bias=(0.0,), users_share=0.0))
    return trained_rows(lightgcn_split(path), settings, progress)


def lightgcn_split(path: Path) -> Split:
    """29,858 users, 40,981 items; a random fifth of each user's items is the task `gowalla`."""
    table = pq.read_table(path)
    users, items = (table[name].to_numpy().astype(np.int64) for name in ("user", "item"))
    is_test = table["split"].to_numpy() == 1
    train = without_times(users[~is_test], items[~is_test])
    cells = (np.ones(np.count_nonzero(is_test), np.float32), (users[is_test], items[is_test]))
    return Split(train, {"gowalla": Task(train.matrix, sp.csr_array(cells, shape=train.matrix.shape))})
