"""How good a model ranks what it has not seen: held-out events of known users, and users it has never met.

held-out events   the newest fifth of each user's items is taken away; the rest is trained on and folded in.
held-out users    some users are kept out of training; the older four fifths of their items are folded in, the model
                  predicts the rest (strong generalisation, Liang et al. 2018).

"Newest" where times are known, drawn at random otherwise. Items that nobody left in training touched are no targets:
no model could name them. Everything is scored exactly, with the items folded in left out of the ranking.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from led import metrics
from led.encoder import F32, I64, Bool, Encoder
from led.ranking import score, top_k
from training.encoded import cell_rows
from training.interactions import Interactions
from training.progress import Progress, silent
from training.spectral import averaged
from training.svd import Sparse

Scorer = Callable[[Sparse], F32]
"""Scores (users, items) of all items from the weights (users, items) of what each user did."""

TIMELESS = Encoder({})
CELLS_AT_ONCE = 1 << 24  # scores held at a time; 64 MiB


@dataclass(frozen=True)
class Task:
    """What is folded in for some users and what is then to be found: two matrices (users, items), no cell in both."""

    folded_in: Sparse
    relevant: Sparse


@dataclass(frozen=True)
class Split:
    """One training matrix, and the tasks a model of it is measured on, by name."""

    train: Interactions
    tasks: dict[str, Task]


@dataclass(frozen=True)
class Quality:
    """Means over `users` with something to find. coverage: share of the catalogue recommended to anybody.

    further: what a protocol asks for beside these, by names such as "recall@50".
    """

    recall: float
    ndcg: float
    coverage: float
    users: int
    further: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """What was trained and what it cost.

    settings: what was chosen, out of `tried` configurations, on a validation part. peak_mb: the most memory the process
    held until then, in MB.
    """

    d: int = 0
    settings: Mapping[str, float | str] = field(default_factory=dict)
    tried: int = 0
    choose_seconds: float = 0.0
    train_seconds: float = 0.0
    peak_mb: float = 0.0


NOTHING_TRAINED = Training()


@dataclass(frozen=True)
class Row:
    """One line of a results table, at k = 20. Whether recall is truncated is the protocol's to say."""

    benchmark: str
    model: str
    quality: Quality
    training: Training = NOTHING_TRAINED


def split(
    interactions: Interactions,
    rng: np.random.Generator,
    *,
    users_share: float = 0.1,
    encoder: Encoder = TIMELESS,
    max_users: int | None = None,
) -> Split:
    """Both protocols at once: `users_share` of the users are held out, the others lose their newest fifth.

    users_share = 0 leaves the task of held-out events alone. Tasks hold only users with something to find, at most
    max_users of them; a task without users is left out. encoder: by whose age and position what is folded in counts.
    """
    matrix = interactions.matrix
    older = _older(interactions, rng)
    is_held_out = rng.random(len(interactions.user_ids)) < users_share
    train = interactions.only(older & ~np.repeat(is_held_out, np.diff(matrix.indptr)))
    known = train.matrix.sum(axis=0) > 0
    folded_in = cell_rows(encoder, interactions.only(older))
    relevant = interactions.only(~older & known[matrix.indices]).matrix
    has_target = np.diff(relevant.indptr) > 0
    tasks = {}
    for name, users in (("held-out events", ~is_held_out), ("held-out users", is_held_out)):
        chosen = rng.permutation(np.flatnonzero(users & has_target))[:max_users]
        if len(chosen):
            tasks[name] = Task(folded_in[chosen], relevant[chosen])
    return Split(train, tasks)


def measure(
    scorer: Scorer,
    task: Task,
    *,
    k: int = 20,
    truncated: bool = False,
    further: Sequence[str] = (),
    progress: Progress = silent,
) -> Quality:
    """The quality of a scorer's best k on a task; raises ValueError if the task has no users.

    truncated: recall over min(k, relevant), as Liang et al. print it, instead of over all relevant, as LightGCN does.
    further: metrics beside recall@k and ndcg@k, such as "mrr@20" or "ndcg@100".
    """
    users, items = task.folded_in.shape
    if not users:
        raise ValueError("the task has no users: there is nothing to measure")
    asked = [(name, *_parsed(name)) for name in further]
    ranked = _ranked(scorer, task, max([k, *(at for _, _, at in asked)]), progress)
    counts = np.diff(task.relevant.indptr).astype(np.int64)
    hit = metrics.hits(ranked, _rows(task.relevant))

    def mean(metric: str, at: int) -> float:
        if metric == "recall":
            return float(metrics.recall(hit, counts, at, truncated=truncated).mean())
        return float((metrics.ndcg(hit, counts, at) if metric == "ndcg" else metrics.mrr(hit, at)).mean())

    return Quality(
        recall=mean("recall", k),
        ndcg=mean("ndcg", k),
        coverage=metrics.coverage(ranked[:, :k], items),
        users=users,
        further={name: mean(metric, at) for name, metric, at in asked},
    )


def folding(inputs: F32, outputs: F32, biases: F32) -> Scorer:
    """The scorer LED is: a user is the weighted average of input embeddings."""
    return lambda folded_in: score(averaged(folded_in) @ inputs, outputs, biases)


def popular(popularity: F32) -> Scorer:
    """The scorer to beat: the same for everybody."""
    return lambda folded_in: np.tile(popularity, (folded_in.shape[0], 1))


def row_as_json(row: Row) -> str:
    """One JSON object on one line."""
    quality, made = row.quality, row.training
    figures = {"recall@20": quality.recall, "ndcg@20": quality.ndcg, "coverage@20": quality.coverage, **quality.further}
    cost = {name: getattr(made, name) for name in ("tried", "choose_seconds", "train_seconds", "peak_mb")}
    about = {"benchmark": row.benchmark, "model": row.model, "d": made.d, "settings": dict(made.settings)}
    rounded = {name: round(value, 5) for name, value in (figures | cost).items()}
    return json.dumps({**about, **rounded, "users": quality.users})


def rows_as_markdown(rows: Sequence[Row]) -> str:
    """A table for a page of results, with a column for every metric that any row has."""
    further = list(dict.fromkeys(name for row in rows for name in row.quality.further))
    heads = ["benchmark", "model", "d", "recall@20", "ndcg@20", *further, "coverage@20", "users", "settings", "tried"]
    lines = [_line([*heads, "train s", "peak MB"]), "|" + " --- |" * (len(heads) + 2)]
    for row in rows:
        quality, made = row.quality, row.training
        others = [f"{quality.further[name]:.4f}" if name in quality.further else "" for name in further]
        figures = [f"{quality.recall:.4f}", f"{quality.ndcg:.4f}", *others, f"{quality.coverage:.3f}"]
        chosen = ", ".join(
            f"{name} {value if isinstance(value, str) else format(value, 'g')}" for name, value in made.settings.items()
        )
        cost = [f"{quality.users:,}", chosen, str(made.tried), f"{made.train_seconds:.1f}", f"{made.peak_mb:,.0f}"]
        lines.append(_line([row.benchmark, row.model, str(made.d), *figures, *cost]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _parsed(name: str) -> tuple[str, int]:
    """The metric and the length of list in a name such as "ndcg@100"."""
    metric, _, at = name.partition("@")
    if metric not in ("recall", "ndcg", "mrr") or not at.isdigit() or int(at) < 1:
        raise ValueError(f"metric = {name}: known are recall@K, ndcg@K and mrr@K")
    return metric, int(at)


def _ranked(scorer: Scorer, task: Task, k: int, progress: Progress) -> I64:
    """The best k items of every user without those folded in, (users, min(k, items))."""
    users, items = task.folded_in.shape
    at_once = max(1, CELLS_AT_ONCE // max(items, 1))
    ranked = np.empty((users, min(k, items)), np.int64)
    for start in range(0, users, at_once):
        progress("scoring users", start, users)
        folded_in = task.folded_in[start : start + at_once]
        scores = scorer(folded_in)
        scores[folded_in.nonzero()] = -np.inf
        ranked[start : start + at_once] = top_k(scores, k)
    progress("scoring users", users, users)
    return ranked


def _older(interactions: Interactions, rng: np.random.Generator) -> Bool:
    """Which cells are in the older four fifths of their user's, (nnz,). A user of one item keeps it."""
    counts = np.diff(interactions.matrix.indptr)
    owners = np.repeat(np.arange(len(counts)), counts)
    chance = rng.permutation(len(owners))  # decides alone without times, and between equal times
    times_ms = interactions.times_ms if interactions.times_ms is not None else np.zeros(len(owners), np.int64)
    order = np.lexsort((chance, times_ms, owners))
    place = np.arange(len(owners)) - np.repeat(interactions.matrix.indptr[:-1], counts)
    newer = np.where(counts >= 2, np.maximum(1, counts // 5), 0)
    older = np.empty(len(owners), np.bool_)
    older[order] = place < np.repeat(counts - newer, counts)
    return older


def _rows(matrix: Sparse) -> list[I64]:
    """Columns of each row's cells."""
    return [columns.astype(np.int64) for columns in np.split(matrix.indices, matrix.indptr[1:-1])]
