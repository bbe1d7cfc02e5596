from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from training.interactions import Interactions, Selection, collect, without_times

Told = tuple[str | None, str | None, str, int]

DAY_MS = 86_400_000
WEIGHTS = {"view": 1.0, "click": 2.0, "sale": 5.0}


def table(*events: Told) -> pa.Table:
    users, items, kinds, times = zip(*events, strict=True) if events else ((), (), (), ())
    strings = pa.string()
    columns = {
        "user_id": pa.array(users, strings),
        "item_id": pa.array(items, strings),
        "kind": pa.array(kinds, strings),
        "time_ms": pa.array(times, pa.int64()),
    }
    return pa.table(columns)


def cells(interactions: Interactions) -> dict[tuple[str, str], float]:
    rows, columns = interactions.matrix.nonzero()
    values = interactions.matrix.data.tolist()
    users, items = interactions.user_ids, interactions.item_ids
    return {(users[u], items[i]): value for u, i, value in zip(rows, columns, values, strict=True)}


def test_a_cell_is_the_strongest_event_of_a_user_on_an_item_and_the_time_of_the_newest() -> None:
    events = table(
        ("ana", "hat", "view", 1), ("ana", "hat", "sale", 2), ("bob", "hat", "click", 3), ("ana", "hat", "view", 9)
    )
    found = collect(events, Selection(WEIGHTS))
    assert cells(found) == {("ana", "hat"): 5.0, ("bob", "hat"): 2.0}
    assert found.times_ms is not None
    assert found.times_ms.tolist() == [9, 3]
    assert found.matrix.dtype == np.float32


def test_kinds_without_weight_and_events_without_ids_are_left_out() -> None:
    events = table(
        ("ana", "hat", "view", 1),
        ("ana", "belt", "impression", 1),
        (None, "hat", "view", 1),
        ("bob", None, "view", 1),
    )
    assert cells(collect(events, Selection(WEIGHTS))) == {("ana", "hat"): 1.0}


def test_an_erasure_takes_what_its_user_did_up_to_it_and_nothing_else() -> None:
    events = table(
        ("ana", "hat", "view", 1),
        ("ana", "belt", "view", 2),
        ("bob", "hat", "view", 1),
        ("ana", "", "erase", 2),
        ("ana", "scarf", "view", 3),
    )
    assert cells(collect(events, Selection(WEIGHTS))) == {("bob", "hat"): 1.0, ("ana", "scarf"): 1.0}


def test_an_event_stored_before_an_erasure_is_forgotten_even_if_its_clock_ran_ahead() -> None:
    events = table(("ana", "hat", "view", 99), ("ana", "", "erase", 2), ("ana", "scarf", "view", 100))
    events = events.append_column("appended_ms", pa.array([0, 1, 2], pa.int64()))
    assert cells(collect(events, Selection(WEIGHTS))) == {("ana", "scarf"): 1.0}


def test_an_erasure_weighs_nothing_even_where_settings_give_it_a_weight() -> None:
    events = table(("ana", "", "erase", 2), ("ana", "hat", "view", 3))
    assert cells(collect(events, Selection({**WEIGHTS, "erase": 1.0}))) == {("ana", "hat"): 1.0}


def test_the_window_ends_at_the_newest_event_that_counts() -> None:
    events = table(("ana", "hat", "view", 0), ("ana", "belt", "view", 5_000), ("ana", "hat", "noise", 99_000))
    assert cells(collect(events, Selection(WEIGHTS, window_s=4.0))) == {("ana", "belt"): 1.0}


def test_an_event_one_half_life_old_counts_half() -> None:
    events = table(("ana", "hat", "view", 0), ("bob", "belt", "sale", DAY_MS))
    assert cells(collect(events, Selection(WEIGHTS, half_life_s=86400.0))) == {
        ("ana", "hat"): 0.5,
        ("bob", "belt"): 5.0,
    }


def test_items_of_too_few_distinct_users_are_left_out() -> None:
    events = table(
        ("ana", "hat", "view", 1), ("ana", "hat", "view", 2), ("ana", "belt", "view", 3), ("bob", "belt", "view", 4)
    )
    found = collect(events, Selection(WEIGHTS, min_item_users=2))
    assert found.item_ids == ["belt"]
    assert cells(found) == {("ana", "belt"): 1.0, ("bob", "belt"): 1.0}


def test_popularity_counts_users_by_weight_and_forgets_by_half_lives() -> None:
    events = table(("ana", "hat", "view", 0), ("bob", "hat", "sale", DAY_MS), ("bob", "belt", "click", DAY_MS))
    found = collect(events, Selection(WEIGHTS))
    assert dict(zip(found.item_ids, found.popularity(None).tolist(), strict=True)) == {"hat": 6.0, "belt": 2.0}
    assert dict(zip(found.item_ids, found.popularity(86400.0).tolist(), strict=True)) == {"hat": 5.5, "belt": 2.0}


def test_no_events_give_no_users_and_no_items() -> None:
    for events in (table(), table(("ana", "hat", "noise", 1))):
        found = collect(events, Selection(WEIGHTS))
        assert found.user_ids == found.item_ids == []
        assert found.matrix.shape == (0, 0)


def test_chunks_and_dictionaries_of_strings_make_no_difference() -> None:
    first, second = table(("ana", "hat", "view", 1), ("bob", "belt", "sale", 2)), table(("cy", "hat", "click", 3))
    whole = pa.concat_tables([first, second])
    encoded = pa.table(
        {name: whole[name].dictionary_encode() if name != "time_ms" else whole[name] for name in whole.column_names}
    )
    assert cells(collect(encoded, Selection(WEIGHTS))) == cells(collect(whole, Selection(WEIGHTS)))
    assert cells(collect(whole, Selection(WEIGHTS))) == cells(collect(whole.combine_chunks(), Selection(WEIGHTS)))


def test_random_events_agree_with_a_dictionary_filled_one_by_one() -> None:
    rng = np.random.default_rng(4)
    kinds = ["view", "click", "sale", "noise", "erase"]
    drawn = zip(
        rng.integers(9, size=500),
        rng.integers(7, size=500),
        rng.choice(5, 500, p=[0.5, 0.2, 0.1, 0.17, 0.03]),
        strict=True,
    )
    events = [(f"u{u}", "" if kinds[k] == "erase" else f"i{i}", kinds[k], at) for at, (u, i, k) in enumerate(drawn)]
    expected: dict[tuple[str, str], float] = {}
    for user, item, kind, _ in events:
        if kind == "erase":
            expected = {pair: weight for pair, weight in expected.items() if pair[0] != user}
        elif kind in WEIGHTS:
            expected[user, item] = max(expected.get((user, item), 0.0), WEIGHTS[kind])
    assert cells(collect(table(*events), Selection(WEIGHTS))) == expected


def test_numbered_pairs_become_interactions_of_equal_weight() -> None:
    found = without_times(np.array([1, 0, 1]), np.array([2, 0, 0]))
    assert found.matrix.toarray().tolist() == [[1, 0, 0], [1, 0, 1]]
    assert found.popularity(60.0).tolist() == [2, 0, 1]


@pytest.mark.parametrize("bad", [{"kind_weights": {"view": -1.0}}, {"window_s": 0.0}, {"half_life_s": float("nan")}])
def test_a_selection_without_meaning_is_refused_by_name_and_value(bad: dict[str, object]) -> None:
    name = next(iter(bad))
    with pytest.raises(ValueError, match=name):
        Selection(**{"kind_weights": WEIGHTS, **bad})  # type: ignore[arg-type]
