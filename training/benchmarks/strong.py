"""Strong generalisation (Liang et al. 2018): users are held out whole, and met with four fifths of what they liked.

Written to give the very split of the authors' program for MovieLens 20M: users sorted by id and permuted by NumPy's
legacy generator, items in order of first appearance among training users, the generator seeded anew for each part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from led.encoder import I64, Bool
from training.benchmarks.case import NoBenchmark
from training.benchmarks.comparison import Measures, Trial
from training.evaluate import Task
from training.interactions import Interactions
from training.svd import Sparse

SEED = 98765
FEWEST = 5  # events of a user, to be in the data at all and again to have something hidden
HIDDEN = 0.2
MEASURES = Measures("ndcg@100", ("recall@50", "ndcg@100"), truncated=True)


@dataclass(frozen=True)
class StrongSplit:
    """train: users (t, items). Two tasks of as many held-out users each. counts: what to check the split by."""

    train: Interactions
    validation: Task
    test: Task
    counts: Mapping[str, int]


def strong_split(users: I64, items: I64, held_out: int, seed: int = SEED) -> StrongSplit:
    """The split of liked pairs (users, items), in the order of the file. `held_out` users in each of the two tasks."""
    kept = np.bincount(users)[users] >= FEWEST
    users, items = users[kept], items[kept]
    names = np.unique(users)
    if len(names) <= 2 * held_out:
        raise NoBenchmark(f"{len(names)} users have {FEWEST} events or more: {2 * held_out} are to be held out")
    order = names[np.random.RandomState(seed).permutation(len(names))]
    rows = np.empty(names[-1] + 1, np.int64)
    rows[order] = np.arange(len(order))
    owners, first_test = rows[users], len(order) - held_out
    is_train = owners < first_test - held_out
    vocabulary = items[is_train][np.sort(np.unique(items[is_train], return_index=True)[1])]
    columns = np.full(int(items.max()) + 1, -1)
    columns[vocabulary] = np.arange(len(vocabulary))
    cells = columns[items]
    counts = {"events": len(users), "users": len(names), "items": len(np.unique(items)), "known items": len(vocabulary)}
    train = _matrix(owners[is_train], cells[is_train], (first_test - held_out, len(vocabulary)))
    tasks = {}
    for name, first in (("validation", first_test - held_out), ("test", first_test)):
        chosen = (owners >= first) & (owners < first + held_out) & (cells >= 0)
        # Users take their turns by id, as groups of a table do; the order of their events stays the file's.
        turn = np.argsort(users[chosen], kind="stable")
        owner, cell = owners[chosen][turn] - first, cells[chosen][turn]
        hidden = _hidden(owner, seed)
        shape = (held_out, len(vocabulary))
        tasks[name] = Task(_matrix(owner[~hidden], cell[~hidden], shape), _matrix(owner[hidden], cell[hidden], shape))
        counts[f"{name} targets"] = int(hidden.sum())
    known = Interactions(
        [str(user) for user in order[: train.shape[0]]], [str(item) for item in vocabulary], train, None
    )
    return StrongSplit(known, _with_targets(tasks["validation"]), _with_targets(tasks["test"]), counts)


def strong_trial(name: str, parts: StrongSplit) -> Trial:
    """How such a split is measured: recall truncated, recipes chosen by ndcg@100 of the validation users."""
    return Trial(parts.train, parts.validation, parts.train, {name: parts.test}, MEASURES)


def check(found: Mapping[str, int], published: Mapping[str, int]) -> None:
    """Raises NoBenchmark where a count is not the published one: figures of another split compare with nothing."""
    wrong = [f"{name} = {found[name]:,} for {count:,}" for name, count in published.items() if found[name] != count]
    if wrong:
        raise NoBenchmark(f"this is not the published split: {', '.join(wrong)}")


def _hidden(owners: I64, seed: int) -> Bool:
    """Which events are to be found, (n,): a fifth of each user's, drawn without replacement, user by user."""
    rng = np.random.RandomState(seed)
    hidden = np.zeros(len(owners), np.bool_)
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    for start, size in zip(starts, np.diff(starts, append=len(owners)), strict=True):
        if size >= FEWEST:
            hidden[start + rng.choice(size, size=int(HIDDEN * size), replace=False)] = True
    return hidden


def _matrix(rows: I64, columns: I64, shape: tuple[int, int]) -> Sparse:
    matrix = sp.csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def _with_targets(task: Task) -> Task:
    """The users with something to find."""
    some = np.flatnonzero(np.diff(task.relevant.indptr))
    return Task(task.folded_in[some], task.relevant[some])
