"""The comparison at the end of a replay sees what it is there to see: it must not be right by being blind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench.every_user import Comparison, Expected, compare, folded
from store.releases import Release
from store.user_state import UserStates
from stream.events import ERASE, Event
from tests.records import put
from tests.worlds import NOW_MS, records, releases, two_tastes, viewed

EVENTS = {f"user-{i}": viewed(f"user-{i}", *(f"hat-{j:02}" for j in range(1 + i % 7))) for i in range(20)}


@pytest.fixture
def release(tmp_path: Path) -> Release:
    folder = releases(tmp_path)
    return folder.load(folder.publish(two_tastes(), now_ms=NOW_MS))


def logged(events: dict[str, list[Event]]) -> Iterator[tuple[int, int, Event]]:
    for of_user in events.values():
        yield from ((0, offset, event) for offset, event in enumerate(of_user))


def compared(states: UserStates, release: Release) -> Comparison:
    return compare(folded(logged(EVENTS), 50), states, 1, {release.key: release})


def test_records_a_consumer_made_of_the_log_all_agree(states: UserStates, release: Release) -> None:
    put(states, records(EVENTS, release))
    found = compared(states, release)
    assert (found.users, found.timelines_differing, found.vectors_differing) == (20, 0, 0)
    assert found.events == sum(map(len, EVENTS.values()))


def test_an_event_that_is_missing_and_a_user_who_is_missing_are_found(states: UserStates, release: Release) -> None:
    lacking = {**EVENTS, "user-6": EVENTS["user-6"][:3] + EVENTS["user-6"][4:]}
    del lacking["user-9"]
    put(states, records(lacking, release))
    found = compared(states, release)
    assert (found.timelines_differing, found.events) == (2, sum(map(len, EVENTS.values())) - 1 - len(EVENTS["user-9"]))


def test_a_vector_that_drifted_is_found(states: UserStates, release: Release) -> None:
    made = records(EVENTS, release)
    made["user-3"] = replace(made["user-3"], total=made["user-3"].total * 1.01)
    put(states, made)
    found = compared(states, release)
    assert (found.timelines_differing, found.vectors_differing) == (0, 1)


def test_the_fold_drops_repeats_evicts_the_oldest_and_begins_anew_after_an_erasure() -> None:
    first, second, third = viewed("ana", "hat-00", "hat-01", "hat-02")
    erasure = Event("ana", "", ERASE, NOW_MS)
    events = [first, second, first, third]
    folds = folded(((2, offset, event) for offset, event in enumerate(events)), 2)
    assert ([entry.time_ms for entry in folds["ana"].timeline], folds["ana"].applied, folds["ana"].position) == (
        [second.time_ms, third.time_ms],
        3,
        (2, 3),
    )
    erased = folded(((2, offset, event) for offset, event in enumerate([*events, erasure])), 2)
    assert erased["ana"] == Expected([], 0, (2, 4), third.time_ms)
