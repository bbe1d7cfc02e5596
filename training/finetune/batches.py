"""An epoch as a row of batches, drawn by one generator: the same generator makes the same batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from led.encoder import I64
from training.finetune.parting import Parted, masked, part
from training.finetune.settings import FinetuneSettings
from training.finetune.timelines import Timelines, ranges


@dataclass(frozen=True)
class Inputs:
    """Events to encode users from, flat. starts: (users,) where each user's begin; the rest (m,), oldest first.

    owners: the user's place here. ages_s: seconds before the user's newest event here. ranks: 0 for that event, 1 for
    the one before.
    """

    starts: Tensor
    owners: Tensor
    rows: Tensor
    kinds: Tensor
    ages_s: Tensor
    ranks: Tensor


@dataclass(frozen=True)
class Batch:
    """users and what is to be predicted for them. owners, targets: (t,) place of the user here, item row.

    negatives: (users, N) item rows; no columns for the loss that needs none.
    """

    inputs: Inputs
    owners: Tensor
    targets: Tensor
    negatives: Tensor


def epoch(timelines: Timelines, settings: FinetuneSettings, rng: np.random.Generator) -> Iterator[Batch]:
    """All users with a target, once, in random order; input, targets, masks and negatives drawn anew."""
    parted = part(timelines, settings.order, settings.target_ratio, rng)
    kept = masked(parted.is_input, settings.masking, rng)
    inputs = timelines.only(kept).newest(settings.newest)
    targets, counts = _targets(timelines, parted)
    ends = np.concatenate([[0], np.cumsum(counts)])
    users = rng.permutation(np.flatnonzero(counts))
    wanted = 0 if settings.loss == "multinomial" else settings.negatives
    for start in range(0, len(users), settings.batch_users):
        chosen = users[start : start + settings.batch_users]
        places = ranges(ends[chosen], counts[chosen])
        yield Batch(
            inputs_of(inputs, chosen),
            torch.from_numpy(np.repeat(np.arange(len(chosen)), counts[chosen])),
            torch.from_numpy(targets[places]),
            torch.from_numpy(rng.integers(timelines.items, size=(len(chosen), wanted))),
        )


def inputs_of(timelines: Timelines, users: I64) -> Inputs:
    """All events of these users."""
    some = timelines.of(users)
    counts = np.diff(some.ends)
    newest = np.repeat(some.times_ms[some.ends[1:][counts > 0] - 1], counts[counts > 0])  # oldest first
    ranks = np.repeat(counts, counts) - 1 - some.places
    return Inputs(
        torch.from_numpy(some.ends[:-1].copy()),
        torch.from_numpy(some.owners),
        torch.from_numpy(some.rows),
        torch.from_numpy(some.kinds),
        torch.from_numpy(((newest - some.times_ms) / 1000.0).astype(np.float32)),
        torch.from_numpy(ranks),
    )


def _targets(timelines: Timelines, parted: Parted) -> tuple[I64, I64]:
    """Item rows of all targets in order of user, and how many each user has."""
    cells = timelines.cells
    counts = np.bincount(cells.owners[parted.is_target], minlength=timelines.users)
    return cells.rows[parted.is_target], counts
