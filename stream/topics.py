"""The topics and what their keys are: one place, so that producers and consumers agree."""

from __future__ import annotations

EVENTS = "events"
RELEASES = "releases"
DEAD_LETTERS = "deadletters"


def topics(event_partitions: int) -> dict[str, int]:
    """Every topic with its number of partitions; releases are announced in one order, hence one partition."""
    return {EVENTS: event_partitions, RELEASES: 1, DEAD_LETTERS: 1}
