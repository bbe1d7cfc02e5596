"""How a learner is taught: passes over prefixes, older sessions replayed beside new ones, a falling learning rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from led.encoder import I64
from training.progress import Progress, silent
from training.sessions.learner import Learner
from training.sessions.prefixes import Prefixes, Sessions

DOING = "learning from sessions"
Judge = Callable[[Learner], float]
"""How good a learner is, the higher the better, on sessions it is not taught."""


@dataclass(frozen=True)
class Schedule:
    """passes: over the prefixes when nothing was learned before; warm_passes: when something was.

    replay: share of the old sessions' prefixes in each pass, drawn anew each time. rate: Adam's at the beginning,
    which falls by the same factor each step down to last_rate at the end. longest: items of a prefix that count.
    patience: so many passes without a better judgement end it, where there is a judge.
    """

    passes: int = 10
    warm_passes: int = 6
    replay: float = 0.25
    batch: int = 512
    rate: float = 0.004
    last_rate: float = 0.0004
    longest: int = 20
    patience: int = 2

    def __post_init__(self) -> None:
        for name in ("passes", "warm_passes", "batch", "longest", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        for name in ("rate", "last_rate"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0 and finite")
        if not 0 <= self.replay <= 1:
            raise ValueError(f"replay = {self.replay}: must be from 0 to 1")


@dataclass(frozen=True)
class Taught:
    """What teaching showed. losses: mean of each pass. prefixes: seen in all passes together.

    judgements: after each pass, where there is a judge."""

    losses: tuple[float, ...]
    prefixes: int
    judgements: tuple[float, ...] = ()


def teach(
    learner: Learner,
    new: Sessions,
    old: Sessions,
    schedule: Schedule,
    progress: Progress = silent,
    *,
    judge: Judge | None = None,
) -> Taught:
    """Teach it new sessions, which it has not seen, and replay old ones, which it has.

    Item rows of both must be within the learner's table. With a judge, the learner is left as it was judged best.
    Deterministic by the state of learner.rng.
    """
    prefixes = old.prefixes(schedule.longest).then(new.prefixes(schedule.longest))
    olds = len(old.prefixes(schedule.longest))
    passes = schedule.warm_passes if len(old) else schedule.passes
    losses, judgements, seen, best = [], [], 0, learner.state()
    for number in range(passes):
        is_in = learner.rng.random(len(prefixes)) < schedule.replay
        is_in[olds:] = True
        order = learner.rng.permutation(np.flatnonzero(is_in))
        losses.append(_one_pass(learner, prefixes, order, schedule, place=(number, passes), progress=progress))
        seen += len(order)
        if judge is not None:
            judgements.append(judge(learner))
            if judgements[-1] == max(judgements):
                best = learner.state()
            if number - int(np.argmax(judgements)) >= schedule.patience:
                break
    progress(DOING, 100 * passes, 100 * passes)
    if judgements:
        learner.put(np.arange(len(learner.table)), *best)
    return Taught(tuple(losses), seen, tuple(judgements))


def _one_pass(
    learner: Learner,
    prefixes: Prefixes,
    order: I64,
    schedule: Schedule,
    *,
    place: tuple[int, int],
    progress: Progress,
) -> float:
    """Its mean loss. place: number of the pass, and passes in all."""
    number, passes = place
    fall = schedule.last_rate / schedule.rate
    steps, total = -(-len(order) // schedule.batch), 0.0
    for step, batch in enumerate(prefixes.batches(schedule.batch, order)):
        progress(DOING, 100 * number + 100 * step // steps, 100 * passes)
        rate = schedule.rate * fall ** ((number + step / steps) / passes)
        total += learner.step(batch, rate) * len(batch.targets)
    return total / max(len(order), 1)
