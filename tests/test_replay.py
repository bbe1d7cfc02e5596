"""Replay: which files are understood, in which order their events come, and when they happen."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream.events import Event
from stream.replay import ReplayError, as_now, read_parquet, spaced

Columns = dict[str, list[int] | list[str] | list[int | None]]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return tmp_path / "events.parquet"


def replayed(path: Path, columns: Columns, *, rows_per_group: int = 2) -> list[Event]:
    pq.write_table(pa.table(columns), path, row_group_size=rows_per_group)
    return list(read_parquet(path))


def test_a_file_with_our_own_names_is_read_as_it_is(written: Path) -> None:
    columns: Columns = {
        "user_id": ["ana", "bob", "ana"],
        "item_id": ["hat", "hat", "belt"],
        "kind": ["view", "click", "gift"],
        "time_ms": [5, 6, 7],
    }
    assert replayed(written, columns) == [
        Event("ana", "hat", "view", 5),
        Event("bob", "hat", "click", 6),
        Event("ana", "belt", "gift", 7),
    ]


def test_times_are_milliseconds_or_seconds_by_the_name_of_their_column(written: Path) -> None:
    assert replayed(written, {"user": [1], "item": [2], "ts_ms": [3000]}) == [Event("1", "2", "view", 3000)]
    assert replayed(written, {"user": [1], "item": [2], "ts": [3]}) == [Event("1", "2", "view", 3000)]


def test_event_codes_become_view_click_for_a_cart_and_sale(written: Path) -> None:
    events = replayed(written, {"user": [1, 1, 1], "item": [2, 2, 2], "ts": [1, 2, 3], "event": [0, 1, 2]})
    assert [event.kind for event in events] == ["view", "click", "sale"]


def test_sessions_stand_for_users_and_positions_for_times_where_there_is_nothing_else(written: Path) -> None:
    columns: Columns = {"seq": [0, 1], "period": [0, 0], "session": [4, 5], "item": [2, 3]}
    assert replayed(written, columns) == [Event("4", "2", "view", 0), Event("5", "3", "view", 1000)]
    with_both = replayed(written, {"ts_ms": [1], "user": [7], "item": [2], "session": [4]})
    assert with_both == [Event("7", "2", "view", 1)]


def test_sales_are_sales_without_returns_and_without_unknown_customers(written: Path) -> None:
    columns: Columns = {
        "ts": [1, 2, 3],
        "user": [4, 4, None],
        "item": [5, 6, 7],
        "quantity": [2, -2, 1],
        "invoice": [10, 11, 12],
    }
    assert replayed(written, columns) == [Event("4", "5", "sale", 1000)]


def test_a_file_sorted_by_user_comes_in_time_order_and_keeps_its_order_among_equal_times(written: Path) -> None:
    columns: Columns = {"user": [1, 1, 2, 2, 3], "item": [1, 2, 3, 4, 5], "ts": [10, 20, 10, 15, None]}
    assert [(event.user_id, event.item_id) for event in replayed(written, columns)] == [
        ("1", "1"),
        ("2", "3"),
        ("2", "4"),
        ("1", "2"),
    ]


@pytest.mark.parametrize(
    ("columns", "missing"),
    [
        ({"item": [1], "ts": [1]}, "no user column .user_id, user, session.; it has item, ts"),
        ({"user": [1], "ts": [1]}, "no item column .item_id, item."),
        ({"user": [1], "item": [1], "split": [0]}, "no time column .time_ms, ts_ms, ts_est, ts, seq."),
    ],
)
def test_a_missing_column_is_named_before_anything_is_sent(written: Path, columns: Columns, missing: str) -> None:
    pq.write_table(pa.table(columns), written)
    with pytest.raises(ReplayError, match=missing):
        read_parquet(written)


def test_an_unknown_event_code_is_named(written: Path) -> None:
    with pytest.raises(ReplayError, match="kind = 9"):
        replayed(written, {"user": [1], "item": [1], "ts": [1], "event": [9]})


def test_times_that_are_no_numbers_are_refused_before_anything_is_sent(written: Path) -> None:
    pq.write_table(pa.table({"user": [1], "item": [1], "ts": ["noon"]}), written)
    with pytest.raises(ReplayError, match="column ts is string, a number is needed"):
        read_parquet(written)


def test_a_file_that_is_no_parquet_is_refused(written: Path) -> None:
    written.write_text("user,item,ts\n1,2,3\n")
    with pytest.raises(ReplayError, match=r"events\.parquet is not a Parquet file"):
        read_parquet(written)


def test_a_night_without_events_is_not_replayed(written: Path) -> None:
    events = replayed(written, {"user": [1, 2, 3], "item": [4, 5, 6], "ts": [0, 1, 50_000]})
    assert [event.time_ms for event in spaced(events, start_ms=1_000, per_s=20)] == [1_000, 1_050, 1_100]


def test_a_replay_as_fast_as_it_goes_happens_when_it_is_read(written: Path) -> None:
    clock = iter([70, 80])
    events = replayed(written, {"user": [1, 2], "item": [4, 5], "ts": [0, 1]})
    assert [event.time_ms for event in as_now(events, lambda: next(clock))] == [70, 80]
