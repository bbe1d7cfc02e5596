"""The simulated shop: what its stream must look like for the demo and the load tests to mean something."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from itertools import islice, takewhile

import pytest

from stream.events import Event
from stream.simulator import Simulator, SimulatorSettings

K = 20

GOLDEN = [
    ("shopper-00002", "item-00017", "view", 18),
    ("shopper-00002", "item-00019", "view", 189),
    ("shopper-00002", "item-00011", "view", 338),
    ("shopper-00001", "item-00008", "view", 502),
    ("shopper-00002", "item-00014", "view", 588),
    ("shopper-00001", "item-00008", "click", 652),
]


def first_events(count: int, settings: SimulatorSettings | None = None) -> list[Event]:
    return list(islice(Simulator(settings or SimulatorSettings()).events(), count))


@pytest.fixture(scope="module")
def stream() -> list[Event]:
    return first_events(60_000)


def test_the_same_seed_makes_the_same_stream_and_another_seed_another() -> None:
    assert first_events(2_000) == first_events(2_000)
    assert first_events(2_000) != first_events(2_000, SimulatorSettings(seed=2))


def test_the_first_events_are_these_whatever_the_python() -> None:
    settings = SimulatorSettings(seed=7, items=20, tastes=2, shoppers=3, events_per_s=10.0)
    assert [tuple(event)[:4] for event in first_events(6, settings)] == GOLDEN


def test_reading_in_two_goes_makes_the_same_stream_as_in_one() -> None:
    simulator = Simulator(SimulatorSettings())
    assert list(islice(simulator.events(), 500)) + list(islice(simulator.events(), 500)) == first_events(1_000)


def test_events_come_in_time_order_from_the_start_at_the_rate_asked_for() -> None:
    events = list(islice(Simulator(SimulatorSettings(events_per_s=200.0), start_ms=5_000_000).events(), 20_000))
    times = [event.time_ms for event in events]
    assert times == sorted(times)
    assert 5_000_000 <= times[0] < 5_001_000
    assert 170 < 1000 * len(times) / (times[-1] - times[0]) < 230


def test_every_click_follows_a_view_and_every_sale_a_click_of_that_item_by_that_shopper(stream: list[Event]) -> None:
    before = {"click": "view", "sale": "click"}
    last: dict[str, Event] = {}
    for event in stream:
        if event.kind != "view":
            assert last[event.user_id].kind == before[event.kind]
            assert last[event.user_id].item_id == event.item_id
        last[event.user_id] = event
    kinds = Counter(event.kind for event in stream)
    assert kinds["view"] > 2 * kinds["click"] > 4 * kinds["sale"] > 0


def test_shoppers_churn_and_who_was_away_for_longer_than_the_longest_absence_never_returns(stream: list[Event]) -> None:
    settings = SimulatorSettings()
    half = len(stream) // 2
    early, late = ({event.user_id for event in part} for part in (stream[:half], stream[half:]))
    assert len(early - late) > settings.shoppers / 2, "leave for good"
    assert len(late - early) > settings.shoppers / 2, "come for the first time"
    last_ms: dict[str, int] = {}
    absences = []
    for event in stream:
        absences.append((event.time_ms - last_ms.get(event.user_id, event.time_ms)) / 1000)
        last_ms[event.user_id] = event.time_ms
    returns = [absence for absence in absences if absence > 2 * settings.think_s]
    assert len(returns) > settings.shoppers, "return"
    assert max(absences) <= settings.longest_absence_s


def test_the_catalogue_drifts_slowly_and_what_is_retired_is_not_looked_at_again() -> None:
    settings = SimulatorSettings(item_life_s=300.0)
    events = list(takewhile(lambda event: event.time_ms < 300_000, Simulator(settings).events()))
    items = [
        {event.item_id for event in events if start <= event.time_ms / 1000 < start + 60} for start in (0, 60, 240)
    ]
    assert 0.05 < len(items[1] - items[0]) / len(items[1]) < 0.4, "mostly the same a minute later"
    assert len(items[2] - items[0]) / len(items[2]) > 0.4, "mostly others some minutes later"
    assert len({event.item_id for event in events}) > settings.items


def test_popularity_is_worth_something_and_a_shoppers_own_taste_is_worth_far_more() -> None:
    simulator = Simulator(SimulatorSettings())
    views: Counter[str] = Counter()
    viewed: dict[str, set[str]] = {}
    asked = own = popular = 0
    for number, event in enumerate(islice(simulator.events(), 12_000)):
        seen = viewed.setdefault(event.user_id, set())
        if number > 6_000 and number % 3 == 0 and event.item_id not in seen:
            asked += 1
            popular += event.item_id in first_unseen([item for item, _ in views.most_common(200)], seen)
            with suppress(KeyError):  # that was the shopper's last event: counted as a miss
                own += event.item_id in first_unseen(simulator.likely_items(event.user_id), seen)
        views[event.item_id] += 1
        seen.add(event.item_id)
    assert asked > 500
    assert 0.1 < popular / asked < 0.25
    assert own / asked > 2 * popular / asked


def first_unseen(ranking: list[str], seen: set[str]) -> list[str]:
    return [item for item in ranking if item not in seen][:K]


def test_only_a_shopper_who_may_return_has_likely_items() -> None:
    simulator = Simulator(SimulatorSettings())
    assert len(simulator.likely_items("shopper-00000")) >= 10
    with pytest.raises(KeyError, match="shopper-99999"):
        simulator.likely_items("shopper-99999")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("items", 0),
        ("items", 1001),
        ("shoppers", 0),
        ("events_per_s", 0.0),
        ("click_share", 1.5),
        ("item_life_s", -1.0),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name_and_value(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} = {value}"):
        SimulatorSettings(**{field: value})  # type: ignore[arg-type]
