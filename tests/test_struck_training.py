"""What was struck is not trained on: the archive without it is that of a user who never sent it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.archive import archive_row, columns_of
from consumers.arrivals import Arrivals
from consumers.fold import fold_batch
from store.archive import SCHEMA
from store.entries import entries_of
from store.stored import Stored
from stream.events import Event, event_key, item_key, kind_code, striking
from stream.strikes import STRIKE, Strike
from tests.test_strikes import Step, steps, told
from training.interactions import Selection, collect
from training.struck import struck_places, without_struck


def archived(log: Sequence[Event], partition: int = 0) -> pa.Table:
    rows = [archive_row(partition, offset, 1000 + offset, event)._asdict() for offset, event in enumerate(log)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def trained_on(events: pa.Table) -> list[Event]:
    """What is left of a table that is read in small batches."""

    def read(columns: Sequence[str]) -> list[pa.Table]:
        return [events.select(list(columns)).slice(start, 7) for start in range(0, len(events), 7)]

    rows = without_struck(events, struck_places(read)).to_pylist()
    return [Event(*list(row.values())[3:9]) for row in rows]


@given(chosen=steps(), max_events=st.integers(1, 25))
@settings(max_examples=60, deadline=None)
def test_training_sees_what_it_would_had_the_struck_events_never_been_sent(chosen: list[Step], max_events: int) -> None:
    story = told(chosen, max_events)
    seen = Counter((one.item_id, one.kind) for one in trained_on(archived(story.log)) if one.kind != STRIKE)
    assert seen == Counter((one.item_id, one.kind) for one in story.never)


def test_only_the_one_event_goes_with_every_copy_of_it() -> None:
    log = [Event(user, item, "view", 5, f"{item}-1") for user in ("ana", "bob") for item in ("hat", "belt")]
    strike = Strike(item_key("hat"), kind_code("view"), 5, 2, event_key("hat-1"))
    log += [striking("ana", strike, 9), log[0], Event("ana", "hat", "view", 5, "hat-2")]
    left = [(one.user_id, one.event_id) for one in trained_on(archived(log)) if one.kind == "view"]
    assert left == [("ana", "belt-1"), ("bob", "hat-1"), ("bob", "belt-1"), ("ana", "hat-2")]


def test_without_its_key_the_nearest_in_time_goes_and_a_strike_sent_twice_takes_one() -> None:
    log = [Event("ana", "hat", "view", minute * 60_000, f"hat-{minute}") for minute in range(4)]
    strike = Strike(item_key("hat"), kind_code("view"), 2 * 60_000 + 900, 1000, 0)
    log += [striking("ana", strike, 10**9)] * 2
    assert [one.event_id for one in trained_on(archived(log)) if one.kind == "view"] == ["hat-0", "hat-1", "hat-3"]


def test_an_event_of_another_log_at_the_same_place_stays() -> None:
    mine = archived([Event("ana", "hat", "view", 5, "a"), striking("ana", hat_struck(), 9)])
    before = archived([Event("ana", "belt", "view", 5, "a")]).set_column(2, "appended_ms", pa.array([1], pa.int64()))
    assert [one.item_id for one in trained_on(pa.concat_tables([mine, before]))] == ["", "belt"]


def hat_struck() -> Strike:
    return Strike(item_key("hat"), kind_code("view"), 5, 2, event_key("a"))


def test_a_strike_itself_weighs_nothing_whatever_settings_say() -> None:
    events = archived([Event("ana", "hat", "view", 5, "a"), striking("ana", hat_struck(), 9)])
    assert collect(events, Selection({"view": 1.0})).item_ids == ["hat"]


def test_records_made_anew_from_the_archive_heed_strikes() -> None:
    log = [Event("ana", "hat", "view", 5, "a"), Event("ana", "belt", "view", 6, "b"), striking("ana", hat_struck(), 9)]
    rows = [archive_row(0, offset, 1000 + offset, event) for offset, event in enumerate(log)]
    arrivals = Arrivals.of(columns_of(rows, 0, 3))
    _, (data,), _ = fold_batch(arrivals, Stored.of([b""]), 1, None, 50)
    assert [entry.item for entry in entries_of(data)] == [item_key("belt")]
