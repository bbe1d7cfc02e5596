"""The paper's pre-training: which items meet in users' timelines, as positive pointwise mutual information, by SVD.

With C the numbers of users that touched both of two items (nothing on the diagonal), L_i its row sums, n its total and
R_j = L_j the sums of its columns,

    PPMI_ij = max(ln(C_ij / n) - ln(L_i / n) - ln(R_j^s / D) - ln k, 0) = U S V',    s = .75,

where D is the sum of R_j^s, or of C_ij^s over the cells, as the authors' program has it: that moves every value up by
one constant, so that fewer fall to 0. C itself is never held: its sums follow from the users' numbers of items, and its
rows are made a block at a time, of which the positive cells are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sp

from led.encoder import F32, F64, I64
from training.progress import Progress, silent
from training.svd import Sparse, randomized_svd
from training.train import TooFewEvents

BYTES_A_CELL = 12  # a float32 and an int32, and half of that again while blocks are put together
CELLS_AT_ONCE = 1 << 24
SAMPLED_ITEMS = 1024  # from which the number of cells is estimated


Scaling = Literal["US", "U sqrt S", "U"]
SCALINGS: tuple[Scaling, ...] = ("US", "U sqrt S", "U")


class TooLarge(ValueError):
    """The co-occurrences would not fit: says how large they are, and the min_count with which they would."""


@dataclass(frozen=True)
class PmiSettings:
    """dim: embedding size. min_count: items that meet others less often in all are left out, as empty rows.

    smoothing: s. shift: k. cell_sums: D over cells instead of columns. scaling: of a direction with singular value S,
    "US" by S, "U sqrt S" by its root, "U" not at all. unit_rows: rows at length 1. log_count_bias: ln of an item's
    share of all events for a bias, 0 otherwise. max_bytes: what the co-occurrences may take.
    """

    dim: int = 64
    min_count: int = 10
    smoothing: float = 0.75
    shift: float = 1.0
    cell_sums: bool = False
    scaling: Scaling = "US"
    unit_rows: bool = True
    log_count_bias: bool = True
    oversample: int = 64
    power_iterations: int = 2
    seed: int = 0
    max_bytes: int = 4 << 30

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim = {self.dim}: must be at least 1")
        if not 0 < self.shift < np.inf:
            raise ValueError(f"shift = {self.shift}: must be above 0 and finite")
        if not np.isfinite(self.smoothing):
            raise ValueError(f"smoothing = {self.smoothing}: must be finite")
        for name in ("min_count", "oversample", "power_iterations", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 0")


def pmi_embeddings(matrix: Sparse, settings: PmiSettings, progress: Progress = silent) -> tuple[F32, F32, F32]:
    """Input embeddings, output embeddings (items, dim), which are the same, and biases (items,).

    Raises TooLarge, TooFewEvents. Of a matrix (users, items) only which cells are there matters. Items that were left
    out have rows of zeros; dim is less where there are fewer directions.
    """
    values = positive_pmi(matrix, settings, progress)
    rng = np.random.default_rng(settings.seed)
    chosen = {"oversample": settings.oversample, "power_iterations": settings.power_iterations}
    found = randomized_svd(values, settings.dim, rng=rng, progress=progress, **chosen)
    kept = found.values > 1e-6 * max(float(found.values[0]), 1e-30)
    power = {"US": 1.0, "U sqrt S": 0.5, "U": 0.0}[settings.scaling]
    rows = found.left[:, kept] * found.values[kept] ** np.float32(power)
    if settings.unit_rows:
        rows = rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-8)
    biases = log_shares(matrix) if settings.log_count_bias else np.zeros(matrix.shape[1], np.float32)
    rows = rows.astype(np.float32)
    return rows, rows, biases


def positive_pmi(matrix: Sparse, settings: PmiSettings, progress: Progress = silent) -> Sparse:
    """PPMI (items, items) of the items that touch the same users.

    Raises TooLarge before anything large is made, TooFewEvents where min_count leaves none.
    """
    users = _frequent_alone(matrix, settings)
    sums = meetings(users)
    total = sums.sum()
    if not total:
        raise TooFewEvents(f"min_count = {settings.min_count}: no two items that meet so often are left")
    powers = np.where(sums > 0, sums, 1.0) ** settings.smoothing * (sums > 0)
    if settings.cell_sums:
        smoothed = sum(float((block.data.astype(np.float64) ** settings.smoothing).sum()) for block in _rows(users))
    else:
        smoothed = float(powers.sum())
    # ln n_ij - ln L_i - ln R_j^s + ln D - ln k: n itself cancels.
    by_row, by_column = (np.log(np.where(found > 0, found, 1.0)) for found in (sums, powers))
    constant = np.log(smoothed) - np.log(settings.shift)
    blocks, done = [], 0
    what = f"mutual information, {estimated_bytes(users) / 1e6:,.0f} MB at most"
    for block in _rows(users):
        progress(what, done, matrix.shape[1])
        owners = np.repeat(np.arange(done, done + block.shape[0]), np.diff(block.indptr))
        block.data = (np.log(block.data) - by_row[owners] - by_column[block.indices] + constant).astype(np.float32)
        block.data[block.data < 0] = 0
        block.eliminate_zeros()
        blocks.append(block)
        done += block.shape[0]
    progress(what, done, matrix.shape[1])
    return sp.csr_array(sp.vstack(blocks, format="csr"))


def meetings(users: Sparse) -> F64:
    """Row sums of the co-occurrences of a matrix of ones, (items,): each user of n items adds n - 1 to each of them."""
    others = np.diff(users.indptr).astype(np.float64) - 1
    return np.asarray(np.bincount(users.indices, np.repeat(others, np.diff(users.indptr)), users.shape[1]), np.float64)


def estimated_bytes(users: Sparse) -> int:
    """What the co-occurrences of a matrix of ones take, from a sample of items and never above what they can be."""
    some = np.flatnonzero(np.bincount(users.indices, minlength=users.shape[1]))
    counts = np.diff(users.indptr).astype(np.float64)
    most = min(float((counts * (counts - 1)).sum()), float(len(some)) * max(len(some) - 1, 0))
    if len(some) > SAMPLED_ITEMS:
        sample = np.random.default_rng(0).permutation(some)[:SAMPLED_ITEMS]
        met = sum(block.nnz for block in _rows(users, sample))
        most = min(most, met * len(some) / SAMPLED_ITEMS)
    return int(most * BYTES_A_CELL)


def log_shares(matrix: Sparse) -> F32:
    """ln of each item's share of the events, (items,); an item without any counts as half an event."""
    counts = np.bincount(matrix.indices, minlength=matrix.shape[1]).astype(np.float64)
    shares: F32 = np.log(np.maximum(counts, 0.5) / max(counts.sum(), 1.0)).astype(np.float32)
    return shares


def _frequent_alone(matrix: Sparse, settings: PmiSettings) -> Sparse:
    """The matrix as ones, without items under min_count. Raises TooLarge."""
    ones = np.ones(matrix.nnz, np.float32)
    users: Sparse = sp.csr_array((ones, matrix.indices, matrix.indptr), shape=matrix.shape)
    sums = meetings(users)
    kept = _only(users, sums >= settings.min_count)
    size = estimated_bytes(kept)
    if size <= settings.max_bytes:
        return kept
    fewest = max(settings.min_count, 1)
    while estimated_bytes(_only(users, sums >= fewest)) > settings.max_bytes:
        fewest *= 2
    sizes = f"about {size / 1e9:.2f} GB of co-occurrences, {settings.max_bytes / 1e9:.2f} GB allowed"
    raise TooLarge(f"min_count = {settings.min_count}: {sizes}; with min_count = {fewest} they fit")


def _only(users: Sparse, kept: np.typing.NDArray[np.bool_]) -> Sparse:
    """The cells of the items kept."""
    cells = kept[users.indices]
    ends = np.concatenate([[0], np.cumsum(cells)])[users.indptr]
    return sp.csr_array((users.data[cells], users.indices[cells], ends), shape=users.shape)


def _rows(users: Sparse, items: I64 | None = None) -> Iterator[Sparse]:
    """The co-occurrences' rows, of all items or of these, in blocks of at most about CELLS_AT_ONCE cells."""
    by_item = users.T.tocsr()
    items = np.arange(users.shape[1]) if items is None else items
    reached = np.minimum(meetings(users)[items], users.shape[1])
    block_of = (np.cumsum(reached) // CELLS_AT_ONCE).astype(np.int64)
    for block in np.split(items, np.flatnonzero(np.diff(block_of)) + 1):
        met = sp.coo_array(by_item[block] @ users)
        apart = block[met.coords[0]] != met.coords[1]
        cells = (met.data[apart], (met.coords[0][apart], met.coords[1][apart]))
        yield sp.csr_array(cells, shape=met.shape)
