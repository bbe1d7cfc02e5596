"""What users did as sparse rows of weights, as the encoder sums it: what a trainer multiplies a table of items by.

The weights come of `led.encoder`, the same code that makes and reads the vectors served. Divided by their row's total
(`training.spectral.averaged`) and multiplied by input embeddings, rows are user vectors.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from led.encoder import Encoder, Events, recency, weighed
from training.interactions import Interactions
from training.svd import Sparse


def timeline_rows(encoder: Encoder, timelines: Events, shape: tuple[int, int]) -> Sparse:
    """Whole timelines as weights (users, items), float32; events of a user on one item are one cell.

    timelines: each user's events in the order of the log, as `led.encoder.encode` takes them.
    """
    events, weights = weighed(encoder, timelines)
    rows = sp.coo_array((weights, (events.users, events.rows)), shape=shape).tocsr()
    return sp.csr_array(rows.astype(np.float32))


def cell_rows(encoder: Encoder, interactions: Interactions) -> Sparse:
    """The matrix, each cell weighed by age and position besides: its newest event's, among its user's cells.

    As it is where times are not known. The encoder's kinds do not matter: a cell has its weight.
    """
    matrix, times_ms = interactions.matrix, interactions.times_ms
    if times_ms is None or not encoder.has_recency:
        return matrix
    owners = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((times_ms, owners))
    data = matrix.data.copy()
    data[order] *= recency(encoder, owners[order], times_ms[order])
    data = np.maximum(data, np.finfo(np.float32).tiny)  # a cell of weight 0 would count as not there
    return sp.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)
