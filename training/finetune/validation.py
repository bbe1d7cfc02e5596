"""What early stopping looks at: users whom training does not see, encoded from a part of what they did."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from led import metrics
from led.encoder import F32, I64
from led.ranking import top_k
from training.finetune.batches import inputs_of
from training.finetune.network import Network
from training.finetune.parting import part_at_the_end
from training.finetune.settings import FinetuneSettings, ValidationSettings
from training.finetune.timelines import Timelines, timelines_of_matrix
from training.svd import Sparse

CELLS_AT_ONCE = 1 << 24  # scores held at a time; 64 MiB
VALIDATION = 1 << 32  # a number that no epoch has


@dataclass(frozen=True)
class Validation:
    """seen: what users did before, and is not recommended. folded_in: the part of it that they are encoded from.

    relevant: for each of these users the item rows to be found, one at least.
    """

    seen: Timelines
    folded_in: Timelines
    relevant: list[I64]
    k: int


def held_out(
    timelines: Timelines, settings: FinetuneSettings, chosen: ValidationSettings
) -> tuple[Timelines, Validation | None]:
    """Timelines to train on and the validation; None where nobody is left with something to find.

    Held-out users lose the same share of their items as in training.
    """
    users = chosen.users(timelines.users, settings.seed)
    is_out = np.zeros(timelines.users, np.bool_)
    is_out[users] = True
    rng = np.random.default_rng([settings.seed, VALIDATION])
    validation = validation_of(timelines.of(users), settings, chosen.k, rng)
    return timelines.only(~is_out[timelines.owners]), validation


def validation_of(
    timelines: Timelines, settings: FinetuneSettings, k: int, rng: np.random.Generator
) -> Validation | None:
    """A validation on these users; None where none of them has something to find."""
    parted = part_at_the_end(timelines, settings.order, settings.target_ratio, rng)
    cells = timelines.cells
    counts = np.bincount(cells.owners[parted.is_target], minlength=timelines.users)
    users = np.flatnonzero(counts)
    if not len(users):
        return None
    relevant = np.split(cells.rows[parted.is_target], np.cumsum(counts)[:-1])
    seen = timelines.only(parted.is_input).of(users)
    return Validation(seen, seen.newest(settings.newest), [relevant[user] for user in users], k)


def validation_of_task(folded_in: Sparse, relevant: Sparse, k: int) -> Validation:
    """A validation on users who are given as two matrices (users, items), each user with something to find."""
    seen = timelines_of_matrix(folded_in)
    return Validation(seen, seen, np.split(relevant.indices.astype(np.int64), relevant.indptr[1:-1]), k)


def ndcg(network: Network, validation: Validation) -> float:
    """Mean ndcg@k over the users."""
    users = len(validation.relevant)
    at_once = max(1, CELLS_AT_ONCE // validation.seen.items)
    found = 0.0
    for start in range(0, users, at_once):
        chosen = np.arange(start, min(start + at_once, users))
        with torch.no_grad():
            scores: F32 = network.scores(network.queries(inputs_of(validation.folded_in, chosen))).numpy()
        seen = validation.seen.of(chosen)
        scores[seen.owners, seen.rows] = -np.inf
        relevant = [validation.relevant[user] for user in chosen]
        counts = np.array([len(wanted) for wanted in relevant])
        hit = metrics.hits(top_k(scores, validation.k), relevant)
        found += float(metrics.ndcg(hit, counts, validation.k).sum())
    return found / users
