"""Does what is trained here behave as LED does in its paper? Which loss, how many negatives, free rows or a projection.

The paper's figures are of MovieLens 20M at d = 600 after 50,000 steps; these are of smaller data, fewer dimensions and
steps, so that only their shape can be compared: multinomial >= BPR ~ NS >= CSS; BPR rises from N = 1 to 1,000; with 1 %
of the users a projection of SVD rows is better than free rows, with all of them it is worse.

Every learning rate of a configuration is tried, and its best epoch kept, by ndcg@100 of validation users.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from led import metrics
from led.encoder import F64, I64
from led.ranking import top_k
from training.benchmarks.case import Case, data_file
from training.benchmarks.comparison import Measures, Trial
from training.benchmarks.gowalla import GOWALLA, lightgcn_split
from training.benchmarks.ml1m import RATINGS, strong
from training.evaluate import Row, Scorer, Task, Training, folding, split
from training.finetune.settings import FinetuneSettings
from training.interactions import Interactions
from training.peak_memory import peak_mb
from training.pmi import PmiSettings, pmi_embeddings
from training.progress import Progress, silent

if TYPE_CHECKING:
    from training.finetune.run import Finetuned
    from training.finetune.start import Start

DIMS = (128,)
K = 50  # of the recall that is compared
USERS_AT_ONCE = 400
STEPS_AT_MOST = 2000
LOOKS = 20  # at the validation, in so many steps
RATES = (0.01, 0.03)
PROJECTED_RATES = (0.001, 0.01)
BASE = FinetuneSettings(batch_users=128, patience=4, threads=1)
SHARES = (0.01, 0.1, 1.0)


@dataclass(frozen=True)
class Shape:
    """One point of a curve: a configuration, its start, and the share of the training users it sees.

    start: the SVD is of all training users, whatever the share.
    """

    label: str
    settings: FinetuneSettings
    rates: tuple[float, ...] = RATES
    start: Literal["random", "svd"] = "random"
    share: float = 1.0


def led_shape(dims: Sequence[int] | None, folder: Path) -> list[Case]:
    """MovieLens 1M with users held out whole. A case for each curve, whose first row the others are compared with."""
    trial = partial(strong, data_file(folder, RATINGS))
    return [
        Case(name, partial(all_rows, shapes, trial, dim)) for dim in dims or DIMS for name, shapes in curves().items()
    ]


def led_shape_gowalla(dims: Sequence[int] | None, folder: Path) -> list[Case]:
    """Gowalla: fewer dimensions, and the one learning rate that MovieLens chose, since a step costs ten times more."""
    trial = partial(gowalla_trial, data_file(folder, GOWALLA))
    found = {name: tuple(replace(shape, rates=shape.rates[:1]) for shape in some) for name, some in curves().items()}
    return [
        Case(name, partial(all_rows, shapes, trial, dim)) for dim in dims or (64,) for name, shapes in found.items()
    ]


def gowalla_trial(path: Path) -> Trial:
    """A fifth of what users have in the training part is held back to choose by; users are a sample."""
    parts = lightgcn_split(path)
    rng = np.random.default_rng(BASE.seed)
    within = split(parts.train, rng, users_share=0.0, max_users=1500)
    some = rng.permutation(parts.tasks["gowalla"].relevant.shape[0])[:5000]
    test = Task(parts.tasks["gowalla"].folded_in[some], parts.tasks["gowalla"].relevant[some])
    measures = Measures("ndcg@100", ("recall@50", "ndcg@100"))
    return Trial(within.train, within.tasks["held-out events"], within.train, {"gowalla": test}, measures)


def curves() -> dict[str, tuple[Shape, ...]]:
    """By name."""
    negatives = tuple(Shape(f"bpr, N = {n}", replace(BASE, negatives=n)) for n in (1000, 100, 10, 1))
    others = [Shape("multinomial", replace(BASE, loss="multinomial"))]
    others += [Shape("ns", replace(BASE, loss="ns")), Shape("css", replace(BASE, loss="css"))]
    made = {"losses": (*others, *negatives)}
    for share in SHARES:
        made[f"{100 * share:g} % of users"] = (
            Shape("random, full", BASE, share=share),
            Shape("svd, full", BASE, start="svd", share=share),
            Shape("svd, project", replace(BASE, tuning="project"), PROJECTED_RATES, "svd", share),
        )
    return made


def all_rows(
    shapes: Sequence[Shape], trial: Callable[[], Trial], dim: int, progress: Progress = silent
) -> Sequence[Row]:
    """The rows of a curve."""
    import_module("training.finetune.run")  # before anything is read: it needs an extra
    return list(rows(shapes, trial(), dim, progress))


def rows(shapes: Sequence[Shape], on: Trial, dim: int, progress: Progress = silent) -> Iterator[Row]:
    """Each as soon as it is there. Beside recall@50 stands how far it is from the first one's, and the standard error
    of that difference, over users."""
    first: F64 | None = None
    (name, task), *_ = on.tests.items()
    for number, shape in enumerate(shapes):
        progress("configurations", number, len(shapes))
        began = time.process_time()
        rate, best = _best(shape, on, dim)
        scorer = folding(best.learned.inputs, best.learned.outputs, best.learned.biases)
        of_users = recalls(scorer, task, K)
        first = of_users if first is None else first
        quality = on.measures.of(scorer, task)
        apart = {
            f"against {shapes[0].label}": float((of_users - first).mean()),
            "standard error": _error(of_users - first),
        }
        training = Training(
            d=dim,
            settings={"start": shape.start, "share": shape.share, "lr": rate, "epoch": best.best_epoch},
            tried=len(shape.rates),
            train_seconds=time.process_time() - began,
            peak_mb=peak_mb(),
        )
        yield Row(f"led-shape {name}", shape.label, replace(quality, further={**quality.further, **apart}), training)


def recalls(scorer: Scorer, task: Task, k: int) -> F64:
    """recall@k of each user, truncated, with what was folded in left out. (users,)"""
    found = []
    for start in range(0, task.folded_in.shape[0], USERS_AT_ONCE):
        folded_in, relevant = (part[start : start + USERS_AT_ONCE] for part in (task.folded_in, task.relevant))
        scores = scorer(folded_in)
        scores[folded_in.nonzero()] = -np.inf
        wanted: list[I64] = np.split(relevant.indices.astype(np.int64), relevant.indptr[1:-1])
        counts = np.diff(relevant.indptr).astype(np.int64)
        found.append(metrics.recall(metrics.hits(top_k(scores, k), wanted), counts, k, truncated=True))
    return np.concatenate(found)


def _best(shape: Shape, on: Trial, dim: int) -> tuple[float, Finetuned]:
    """The learning rate and the run with the best ndcg on the validation."""
    from training.finetune.run import finetune
    from training.finetune.timelines import timelines_of_matrix
    from training.finetune.validation import validation_of_task

    start = _start(shape, on.train, dim)
    some = on.train.matrix[: max(1, round(shape.share * on.train.matrix.shape[0]))]
    steps = max(1, some.shape[0] // shape.settings.batch_users)
    epochs = STEPS_AT_MOST // steps
    settings = replace(shape.settings, epochs=epochs, validate_every=max(1, epochs // LOOKS))
    timelines = timelines_of_matrix(some)
    validation = validation_of_task(on.validation.folded_in, on.validation.relevant, 100)
    runs = [(rate, finetune(timelines, validation, start, replace(settings, lr=rate))) for rate in shape.rates]
    return max(runs, key=lambda run: run[1].best_ndcg or 0.0)


def _start(shape: Shape, train: Interactions, dim: int) -> Start:
    from training.finetune.start import Start, random_start

    if shape.start == "random":
        return random_start(len(train.item_ids), dim, np.random.default_rng(shape.settings.seed))
    return Start(*pmi_embeddings(train.matrix, PmiSettings(dim=dim)))


def _error(differences: F64) -> float:
    return float(differences.std() / np.sqrt(len(differences)))
