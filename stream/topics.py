"""The topics and what their keys are: one place, so that producers and consumers agree."""

from __future__ import annotations

EVENTS = "events"  # keyed by user, as are impressions
IMPRESSIONS = "impressions"  # what was shown to whom: no interaction, so no part of a timeline
RELEASES = "releases"
DEAD_LETTERS = "deadletters"
BAD_ROWS = "badrows"  # events refused at the border, keyed by site
ITEMS = "items"  # what is known of each item, keyed by it: the last record of an item says all
COMPACTED = {ITEMS}  # topics of which Kafka keeps the last record of a key
# Newest records of a partition that a single box keeps where no consumer group's commits say what may go.
KEPT_RECORDS = {DEAD_LETTERS: 10_000, BAD_ROWS: 10_000, IMPRESSIONS: 100_000}


def topics(event_partitions: int) -> dict[str, int]:
    """Every topic with its number of partitions; releases are announced in one order, hence one partition.

    Items too: whatever else is made of the topic, what was put last of an item is last.
    """
    one = dict.fromkeys((RELEASES, ITEMS, DEAD_LETTERS, BAD_ROWS), 1)
    return {EVENTS: event_partitions, IMPRESSIONS: event_partitions} | one
