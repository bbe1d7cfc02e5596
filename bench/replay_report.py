"""What a replay of a day found, as lines for people and as figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.every_user import Comparison
from bench.replay_load import Asked, Seen
from bench.replay_training import Training
from bench.report import percentiles_ms

AFTER_S = 1.0
LINES = 12

Window = tuple[float, float]


class Sample(NamedTuple):
    """One look at the system. resident_mb: by process."""

    at_s: float
    events: int
    lag: float
    store_mb: float
    resident_mb: dict[str, float]


@dataclass
class Course:
    """What a run did and saw; times in seconds of time.perf_counter.

    held_s: how long the replay stood still for trainings. before, appended: events in the log when it began and ended.
    training_s: from start to announcement. swaps_s: from announcement to the first answer of the new release.
    """

    started_s: float = 0.0
    posted_s: float = 0.0
    empty_s: float = 0.0
    held_s: float = 0.0
    before: int = 0
    appended: int = 0
    trainings: list[Training] = field(default_factory=list)
    training_s: list[Window] = field(default_factory=list)
    swaps_s: list[Window] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    probes: list[float] = field(default_factory=list)


def figures_of(course: Course, seen: Seen, comparison: Comparison) -> dict[str, object]:
    """The last line."""
    sent = course.before + seen.events + len(course.probes)
    lost = {"events_lost": sent - comparison.events, "events_appended_twice": course.appended - sent}
    return {
        **_traffic(course, seen),
        **lost,
        **recall_of(seen.asked),
        **_swap_cost(course, seen),
        **_state(course, comparison),
    }


def print_course(course: Course, asked: Sequence[Asked]) -> None:
    """Samples, trainings, and recall by release: how fresh a release is decides nearly everything with news."""
    for sample in course.samples[:: max(1, len(course.samples) // LINES)]:
        memory = ", ".join(f"{name} {mb:.0f}" for name, mb in sorted(sample.resident_mb.items()))
        print(f"  {sample.at_s:5.0f} s {sample.events:7d} events, lag {sample.lag:.0f}; MB: {memory}")
    for training in course.trainings:
        some = [one for one in asked if one.release == training.version]
        print(f"  {training}: {len(some)} answers, {recall_of(some)}")


def recall_of(asked: Sequence[Asked]) -> dict[str, float]:
    """recall@20 of the three, over the same questions."""
    names = ("recall20_personal", "recall20_last_hour", "recall20_last_day")
    return {name: round(_mean([one.hits[place] for one in asked]), 4) for place, name in enumerate(names)}


def _traffic(course: Course, seen: Seen) -> dict[str, object]:
    sending_s = course.posted_s - course.started_s - course.held_s
    return {
        "events_sent": seen.events,
        "events_per_s": round(seen.events / (course.empty_s - course.started_s - course.held_s), 1),
        "answers_per_s": round(len(seen.asked) / sending_s, 1),
        "answers": len(seen.asked),
        "answer_errors": seen.answer_errors,
        "events_rejected": seen.rejected,
        "post_retries": seen.post_retries,
        **percentiles_ms([one.seconds for one in seen.asked]),
        "probes": len(course.probes),
        **{f"freshness_{name}": value for name, value in percentiles_ms(course.probes).items()},
        "personal_share": round(_mean([one.is_personal for one in seen.asked]), 4),
    }


def _swap_cost(course: Course, seen: Seen) -> dict[str, object]:
    """p99 before the first training, while training, and from an announcement to a second after the first answer."""
    before = [(course.started_s, course.training_s[0][0])] if course.training_s else []
    around = [(announced, first + AFTER_S) for announced, first in course.swaps_s]
    windows = {"before": before, "while_training": course.training_s, "around_swaps": around}
    waits = [first - announced for announced, first in course.swaps_s]
    return {
        "swaps": len(course.swaps_s),
        "training_s": round(statistics.median(training.seconds for training in course.trainings), 1),
        "announced_to_first_answer_s": round(statistics.median(waits), 3) if waits else None,
        **{f"p99_ms_{name}": _p99_ms(seen.asked, some) for name, some in windows.items()},
    }


def _state(course: Course, comparison: Comparison) -> dict[str, object]:
    lags = [sample.lag for sample in course.samples if sample.lag == sample.lag]
    last = course.samples[-1]
    return {
        "lag_median": statistics.median(lags),
        "lag_max": max(lags),
        "store_used_mb": round(last.store_mb, 1),
        "resident_mb": {name: round(mb) for name, mb in last.resident_mb.items()},
        "events_in_log": course.appended,
        "events_in_records": comparison.events,
        "users_compared": comparison.users,
        "users_differing": comparison.timelines_differing + comparison.vectors_differing,
        "largest_vector_difference": float(f"{comparison.largest_difference:.1e}"),
        "users_without_vector": comparison.without_vector,
    }


def _p99_ms(asked: Sequence[Asked], windows: Sequence[Window]) -> float | None:
    """p99 of the answers asked for within the windows, None of none."""
    some = [one.seconds for one in asked if any(start <= one.at_s <= end for start, end in windows)]
    return percentiles_ms(some)["p99_ms"] if some else None


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / max(1, len(values))
