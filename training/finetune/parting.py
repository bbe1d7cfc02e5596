"""Each epoch, anew: which of a user's events are input and which items are to be predicted from them.

random: the user's items are shuffled, the first int((1 - ratio) n) are input, the rest targets (LED; Liang et al.).
newest: a moment is drawn; what lies before is input, new items among the next events are targets. Only this teaches
how soon events age, as a random half is no older than the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from led.encoder import I64, Bool
from training.finetune.settings import Order
from training.finetune.timelines import Timelines


@dataclass(frozen=True)
class Parted:
    """is_input: (n,) by event. is_target: (cells,) by cell. No cell is both."""

    is_input: Bool
    is_target: Bool


def part(timelines: Timelines, order: Order, ratio: float, rng: np.random.Generator) -> Parted:
    """A draw for training; ratio is the share of a user's items (events, for newest) that are targets."""
    if order == "random":
        return _by_item(timelines, ratio, rng)
    counts = np.diff(timelines.ends)
    cuts = 1 + (rng.random(timelines.users) * (counts - 1)).astype(np.int64)
    return _by_moment(timelines, np.maximum(cuts, 1), _share(counts, ratio))


def part_at_the_end(timelines: Timelines, order: Order, ratio: float, rng: np.random.Generator) -> Parted:
    """For validation: the same, but for newest the moment leaves just the last share of the events."""
    if order == "random":
        return _by_item(timelines, ratio, rng)
    counts = np.diff(timelines.ends)
    left = _share(counts, ratio)
    return _by_moment(timelines, counts - left, left)


def masked(is_input: Bool, rate: float, rng: np.random.Generator) -> Bool:
    """The input with each event kept with probability 1 - rate. (n,)"""
    return is_input & (rng.random(len(is_input)) >= rate) if rate else is_input


def _by_item(timelines: Timelines, ratio: float, rng: np.random.Generator) -> Parted:
    cells = timelines.cells
    order = np.argsort(cells.owners + rng.random(len(cells.owners)), kind="stable")
    starts = np.cumsum(cells.counts) - cells.counts
    kept = np.floor((1.0 - ratio) * cells.counts + 1e-9).astype(np.int64)  # 0.8 * 5 must be 4
    is_input = np.empty(len(order), np.bool_)
    is_input[order] = np.arange(len(order)) < np.repeat(starts + kept, cells.counts)
    return Parted(is_input[cells.of_event], ~is_input & cells.with_any(timelines.is_positive))


def _by_moment(timelines: Timelines, cuts: I64, lengths: I64) -> Parted:
    places, owners = timelines.places, timelines.owners
    is_input = places < cuts[owners]
    follows = ~is_input & (places < (cuts + lengths)[owners])
    cells = timelines.cells
    return Parted(is_input, cells.with_any(follows & timelines.is_positive) & ~cells.with_any(is_input))


def _share(counts: I64, ratio: float) -> I64:
    return np.asarray(np.maximum(1, np.ceil(ratio * counts - 1e-9)), dtype=np.int64)
