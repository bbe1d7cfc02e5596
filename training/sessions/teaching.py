"""How a learner is taught: passes over prefixes, older sessions replayed beside new ones, a falling learning rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.progress import Progress, silent
from training.sessions.learner import Learner
from training.sessions.prefixes import Sessions


@dataclass(frozen=True)
class Schedule:
    """passes: over the prefixes when nothing was learned before; warm_passes: when something was.

    replay: share of the old sessions' prefixes in each pass, drawn anew each time. rate: Adam's at the beginning,
    which falls by the same factor each step down to last_rate at the end. longest: items of a prefix that count.
    """

    passes: int = 10
    warm_passes: int = 6
    replay: float = 0.25
    batch: int = 512
    rate: float = 0.004
    last_rate: float = 0.0004
    longest: int = 20


@dataclass(frozen=True)
class Taught:
    """What teaching showed. losses: mean of each pass. prefixes: seen in all passes together."""

    losses: tuple[float, ...]
    prefixes: int


def teach(learner: Learner, new: Sessions, old: Sessions, schedule: Schedule, progress: Progress = silent) -> Taught:
    """Teach it new sessions, which it has not seen, and replay old ones, which it has.

    Item rows of both must be within the learner's table. Deterministic by the state of learner.rng.
    """
    passes = schedule.warm_passes if len(old) else schedule.passes
    prefixes = old.prefixes(schedule.longest).then(new.prefixes(schedule.longest))
    olds = len(old.prefixes(schedule.longest))
    fall = schedule.last_rate / schedule.rate
    losses, seen = [], 0
    for number in range(passes):
        is_in = learner.rng.random(len(prefixes)) < schedule.replay
        is_in[olds:] = True
        order = learner.rng.permutation(np.flatnonzero(is_in))
        steps = -(-len(order) // schedule.batch)
        total = 0.0
        for step, batch in enumerate(prefixes.batches(schedule.batch, order)):
            progress("learning from sessions", 100 * number + 100 * step // steps, 100 * passes)
            rate = schedule.rate * fall ** ((number + step / steps) / passes)
            total += learner.step(batch, rate) * len(batch.targets)
        losses.append(total / max(len(order), 1))
        seen += len(order)
    progress("learning from sessions", 100 * passes, 100 * passes)
    return Taught(tuple(losses), seen)
