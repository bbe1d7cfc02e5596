"""How much memory a training will take, told before it begins, from what a survey counted.

The figures are sums of what the stages hold at once, per event, cell, user and item, with sizes that were measured
(`python -m bench.training_memory`). A cell is at most an event, so that repeated views make the estimate too high.
"""

from __future__ import annotations

from typing import NamedTuple

from store.archive import BATCH_ROWS
from training.sharded_svd import USERS_AT_ONCE
from training.shards import EVENT
from training.spectral import SpectralSettings
from training.streamed import shards_for
from training.survey import Survey

MIB = 2.0**20
PROGRAM = 205 * MIB  # Python and the libraries, before any data
NAME = 120.0  # an id as a Python string, and its place in a list or a dictionary
OF_EVENT = 115.0  # codes, weights, orders and pairs of an event, while cells are made of events
OF_CELL = 90.0  # the matrix, its times, and the matrix normalised and transposed
BLOCKS = 4  # tables as long as users or items and as wide as the basis, held at once by an orthogonalisation
TABLES = 8  # tables of embeddings held while an index is built: inputs, outputs, sorted, with biases, three indexes
OF_BATCH = 350.0  # an event of a batch read from disk, with the row group that it comes from
TORCH = 560 * MIB  # what importing it, its compiler and matplotlib adds, most of it libraries
OF_GRADIENT = 4  # numbers for each that is learnt: itself, its gradient, Adam's two moments
OF_SHARDED = 5.0  # times the size of a shard, while cells are made of it


class TooLittleMemory(ValueError):
    """A training will not fit: says how much it takes, how much there is, and what can be set."""


class Needed(NamedTuple):
    """Bytes at most: with everything in memory, or from shards on disk."""

    in_memory: float
    from_disk: float


def needed(found: Survey, spectral: SpectralSettings) -> Needed:
    """What training on everything surveyed takes."""
    width = min(spectral.dim + spectral.oversample, found.users, found.items)
    events, users, items = float(found.events), float(found.users), float(found.items)
    publishing = TABLES * 4 * items * spectral.dim
    names = NAME * (users + items)
    collecting = OF_EVENT * events + names
    decomposing = OF_CELL * events + names + BLOCKS * 4 * width * (users + items)
    in_memory = 2 * found.bytes + max(collecting, decomposing, publishing)
    sorting = OF_BATCH * min(BATCH_ROWS, events) + OF_SHARDED * EVENT.itemsize * events / shards_for(found.events)
    passing = (BLOCKS + 1) * 4 * width * items + 6 * 4 * width * min(USERS_AT_ONCE, users)
    from_disk = NAME * items + max(sorting, passing, publishing)
    return Needed(PROGRAM + in_memory, PROGRAM + from_disk)


def needed_by_file(found: Survey, spectral: SpectralSettings, *, learnt_tables: int, at_once: float = 0.0) -> float:
    """Bytes of training by a file, which holds everything in memory: as the closed form does, and what gradients take.

    learnt_tables: tables (items, spectral.dim) that gradients change; 0 where torch has no part in it. at_once: bytes
    of a batch, or of which items meet, see `training.batch_memory`.
    """
    if not learnt_tables:
        return needed(found, spectral).in_memory + at_once
    table = 4.0 * found.items * spectral.dim
    return needed(found, spectral).in_memory + TORCH + learnt_tables * OF_GRADIENT * table + at_once
