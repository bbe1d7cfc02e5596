"""A struck event is as if it had never been sent: whatever came before and after, however the log is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.fold import Counts
from consumers.strikes import struck
from store.entries import Entry, entries_of, find
from store.profiles import profiles
from store.releases import Release
from store.user_record import IDS_KEPT, Applied, decode_record
from stream.events import DecodeError, Event, decode_event, encode_event, erasure, event_key, item_key, striking
from stream.strikes import STRIKE, Strike
from tests.records import items, model, published
from tests.test_fold import CATALOGUE, SOURCE, TOLERANCE, Folded, reference_vector

USER = "ana"
DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> list[Release]:
    """Plain; with a half-life; with heads over rows of very different lengths."""
    lengths = np.logspace(-2, 2, len(CATALOGUE), dtype=np.float32)
    made = [
        model(CATALOGUE),
        model(CATALOGUE[::-1][:15], seed=2, half_life_s=3600),
        model(CATALOGUE, seed=5, lengths=lengths, head_weights=(3.9, 2.7)),
    ]
    return [published(tmp_path_factory.mktemp("releases"), one) for one in made]


def strike_of(entry: Entry) -> Strike:
    return Strike(*entry[1:])


@dataclass
class Story:
    """What is sent, event by event; and what would have been, had the struck events never been sent."""

    max_events: int
    log: list[Event] = field(default_factory=list)
    never: list[Event] = field(default_factory=list)
    timeline: list[Event] = field(default_factory=list)
    strikes: list[Strike] = field(default_factory=list)
    short: int = 0  # by how many the timeline may be shorter than had they never been sent

    def __post_init__(self) -> None:
        self._folded = Folded(self.max_events)

    def send(self, event: Event) -> None:
        self._append(event)
        self.never.append(event)
        if event.event_id not in [one.event_id for one in self.timeline]:
            self.short = max(self.short - (len(self.timeline) < self.max_events), 0)
            self.timeline = [*self.timeline, event][-self.max_events :]

    def erase(self) -> None:
        self._append(erasure(USER, 0))
        self.never.append(erasure(USER, 0))
        self.timeline, self.short = [], 0

    def strike(self, place: int, *, twice: bool) -> None:
        entries = entries_of(self._folded.stored.get(USER, b""))
        if not entries:
            return
        place %= len(entries)
        strike = strike_of(entries[place])
        self.strikes.append(strike)
        self.short += len(self.timeline) == self.max_events or self.short > 0
        event = self.timeline.pop(place)
        for _ in range(1 + twice):
            self._append(striking(USER, strike, 5))
        if strike.event:  # sent again, it stays out
            self._append(event)
        self.never = [one for one in self.never if one.event_id != event.event_id or one.kind == "erase"]

    def _append(self, event: Event) -> None:
        self.log.append(event)
        self._folded.apply(self.log, len(self.log) - 1, len(self.log), None)


Step = tuple[str, int, int, int]


@st.composite
def steps(draw: st.DrawFn) -> list[Step]:
    step_ms = draw(st.sampled_from([1000, 60_000, DAY_MS]))
    what = st.sampled_from(["send"] * 10 + ["again", "strike", "strike", "strike twice", "erase"])
    step = st.tuples(what, st.integers(0, 99), st.integers(0, len(CATALOGUE)), st.integers(-step_ms // 9, step_ms))
    return draw(st.lists(step, min_size=3, max_size=60))


def told(chosen: Sequence[Step], max_events: int) -> Story:
    """What is chosen, as a story; each event with an id of its own, sent again at most while it is remembered."""
    story, at_ms = Story(max_events), 10**12
    for number, (what, place, item, step_ms) in enumerate(chosen):
        if what == "send":
            at_ms += step_ms
            kind = ("view", "click", "hover")[place % 3]
            story.send(Event(USER, [*CATALOGUE, "unknown"][item], kind, at_ms, f"event-{number}"))
        elif what == "again" and story.timeline:
            story.send(story.timeline[-1 - place % min(len(story.timeline), 5)])
        elif what == "erase":
            story.erase()
        elif what.startswith("strike"):
            story.strike(place, twice=what.endswith("twice"))
    return story


@given(
    chosen=steps(),
    max_events=st.integers(1, 25),
    number=st.integers(0, 2),
    cuts=st.lists(st.integers(1, 9), min_size=1),
)
@settings(max_examples=150, deadline=None)
def test_a_struck_event_is_as_if_it_had_never_been_sent(
    releases: list[Release], chosen: list[Step], max_events: int, number: int, cuts: list[int]
) -> None:
    story, release = told(chosen, max_events), releases[number]
    if not story.log:
        return
    folded, never = Folded(max_events), Folded(max_events)
    start = 0
    for turn in range(len(story.log)):
        end = min(start + cuts[turn % len(cuts)], len(story.log))
        folded.apply(story.log, max(start - 3, 0), end, release)  # the last few are handed out again
        start = end
    never.apply(story.never, 0, len(story.never), release)
    mine, wanted = folded.read(USER), never.read(USER)
    assert mine is not None
    assert mine.applied == (wanted.applied if wanted else 0)
    assert mine.timeline["item"].tolist() == [item_key(event.item_id) for event in story.timeline]
    if wanted is not None:
        length = len(mine.timeline)
        assert len(wanted.timeline) - story.short <= length
        for name in ("item", "kind"):
            assert mine.timeline[name].tolist() == wanted.timeline[name][len(wanted.timeline) - length :].tolist()
    check_kept(story, folded, release)


def check_kept(story: Story, folded: Folded, release: Release) -> None:
    """Times, ids and vector of what remains."""
    mine, timeline = folded.read(USER), story.timeline
    assert mine is not None
    off = np.abs(mine.timeline["time_ms"] - np.array([event.time_ms for event in timeline], np.int64))
    assert off.max(initial=0) <= 2 + 60 * DAY_MS // 2047
    keys = mine.timeline["event"].tolist()
    assert all(key in (0, event_key(event.event_id)) for key, event in zip(keys, timeline, strict=True))
    kept = [e._replace(time_ms=int(at)) for e, at in zip(timeline, mine.timeline["time_ms"], strict=True)]
    vector = profiles([folded.stored[USER]], release).queries[0, :-1]
    wanted, length = reference_vector(kept, release)
    assert np.abs(vector - wanted).max() <= TOLERANCE * length


@given(chosen=steps(), max_events=st.integers(1, 25), sizes=st.lists(st.integers(1, 20), min_size=1))
@settings(max_examples=60, deadline=None)
def test_how_the_log_is_cut_into_batches_and_replayed_changes_no_struck_timeline(
    chosen: list[Step], max_events: int, sizes: list[int]
) -> None:
    log = told(chosen, max_events).log
    if not log:
        return
    whole, cut = Folded(max_events), Folded(max_events)
    whole.apply(log, 0, len(log), None)
    start = 0
    for turn in range(len(log)):
        end = min(start + sizes[turn % len(sizes)], len(log))
        cut.apply(log, start, end, None)
        start = end
    assert whole.stored == cut.stored
    assert whole.counts == cut.counts
    before = dict(cut.stored)
    cut.apply(log, 0, len(log), None)
    assert cut.stored == before


def log_of(*item_ids: str, step_ms: int = 1000) -> list[Event]:
    return [Event(USER, item, "view", n * step_ms, f"event-{n}") for n, item in enumerate(item_ids)]


def after(log: Sequence[Event], max_events: int = 50) -> Folded:
    folded = Folded(max_events)
    folded.apply(log, 0, len(log), None)
    return folded


def items_of(folded: Folded) -> list[str]:
    record = folded.read(USER)
    assert record is not None
    names = {item_key(item): item for item in CATALOGUE}
    return [names[key] for key in record.timeline["item"].tolist()]


def test_a_struck_newest_event_leaves_the_time_of_the_one_before() -> None:
    log = log_of("item-1", "item-2")
    (_, newest) = entries_of(after(log).stored[USER])
    record = after([*log, striking(USER, strike_of(newest), 9)]).read(USER)
    assert record is not None
    assert (record.as_of, record.applied) == (0, 1)


def test_what_a_full_timeline_pushed_out_is_made_up_for_by_the_next_event() -> None:
    log = log_of("item-1", "item-2", "item-3")
    (_, newest) = entries_of(after(log, 2).stored[USER])
    log.append(striking(USER, strike_of(newest), 9))
    assert items_of(after(log, 2)) == ["item-2"], "item-1 had left, and is nowhere any more"
    log.append(Event(USER, "item-4", "view", 9000, "event-9"))
    assert items_of(after(log, 2)) == ["item-2", "item-4"]


def test_a_strike_sent_again_takes_no_other_event_of_the_same_item() -> None:
    """Twenty events ago no event key is kept: only the times tell one look from the next."""
    log = log_of(*["item-1"] * 3, *["item-2"] * 20, step_ms=1)
    first = strike_of(entries_of(after(log).stored[USER])[1])
    assert first.event == 0
    log += [striking(USER, first, 9)] * 3
    folded = after(log)
    assert items_of(folded) == ["item-1"] * 2 + ["item-2"] * 20
    assert folded.counts == Counts(applied=23, struck=3)


def test_a_strike_read_before_its_event_keeps_that_out() -> None:
    """As where partitions were added, and the log is read again from its beginning."""
    log = log_of("item-1", "item-2")
    strike = strike_of(entries_of(after(log).stored[USER])[0])
    assert items_of(after([striking(USER, strike, 9), *log])) == ["item-2"]


def test_the_newest_strikes_are_remembered_and_an_erasure_forgets_them() -> None:
    log = log_of(*[f"item-{n}" for n in range(20)])
    entries = entries_of(after(log).stored[USER])
    log += [striking(USER, strike_of(entry), 9) for entry in entries[-IDS_KEPT:]]
    assert items_of(after([*log, *log[5:20]])) == [f"item-{n}" for n in range(5)]
    assert items_of(after([*log, erasure(USER, 10), log[19]])) == ["item-19"]


def test_a_strike_from_another_partition_keeps_the_position_in_the_first(releases: list[Release]) -> None:
    folded = after(log_of("item-1", "item-2"))
    strike = strike_of(entries_of(folded.stored[USER])[0])
    record = decode_record(struck(folded.stored[USER], strike, Applied(7, 3), releases[0]))
    assert (record.position, record.earlier, record.struck) == (Applied(7, 3), (Applied(SOURCE, 1),), (strike.mark,))
    assert record.timeline["item"].tolist() == [item_key("item-2")]


def test_ids_of_entries_stay_while_events_come_and_go() -> None:
    log = log_of(*items(9), step_ms=DAY_MS)
    ids: dict[str, str] = {}
    for length in range(1, 10):
        for item, entry in zip(
            items_of(after(log[:length], 5)), entries_of(after(log[:length], 5).stored[USER]), strict=True
        ):
            assert ids.setdefault(item, entry.id) == entry.id


def test_an_id_of_before_a_strike_still_finds_its_event_and_no_other() -> None:
    log = log_of(*items(9), step_ms=DAY_MS)
    before = entries_of(after(log).stored[USER])
    log.append(striking(USER, strike_of(before[4]), 9))
    entries = entries_of(after(log).stored[USER])
    found = [find(entries, entry.id) for entry in before]
    assert [one and one.item for one in found] == [entry.item if n != 4 else None for n, entry in enumerate(before)]


def test_equal_events_have_ids_of_their_own() -> None:
    log = [Event(USER, "item-1", "view", 5, f"event-{n}") for n in range(3)]
    entries = entries_of(after(log).stored[USER])
    assert len({entry.id for entry in entries}) == 3
    chosen = find(entries, entries[1].id)
    assert chosen is not None
    assert chosen.event == event_key("event-1")


@pytest.mark.parametrize("text", ["", "x", "é", "A" * 22, "A" * 1000, "====", "a/b"])
def test_a_text_that_is_no_id_finds_nothing(text: str) -> None:
    assert find(entries_of(after(log_of("item-1")).stored[USER]), text) is None


def test_a_strike_travels_as_an_event_without_an_item_and_says_which() -> None:
    strike = Strike(item_key("hat"), 7, -3, 12, 2**32 - 1)
    event = decode_event(encode_event(striking(USER, strike, 9)))
    assert (event.item_id, event.kind, Strike.of(event.context)) == ("", STRIKE, strike)


@pytest.mark.parametrize("context", [None, {}, {"item": "x"}, {"item": "1", "kind": "256"}, {"item": "9" * 25}])
def test_a_strike_that_says_nothing_is_no_event(context: dict[str, str] | None) -> None:
    with pytest.raises(DecodeError, match="context"):
        decode_event(encode_event(Event(USER, "", STRIKE, 1, context=context)))


def test_a_strike_that_knows_the_key_of_its_event_takes_no_event_without_one() -> None:
    log = [Event(USER, "item-1", "view", 5), Event(USER, "item-1", "view", 5, "event-1")]
    strike = strike_of(entries_of(after(log).stored[USER])[1])
    folded = after([*log, striking(USER, strike, 9), striking(USER, strike, 9), log[1]])
    assert items_of(folded) == ["item-1"]
    assert items_of(after([log[0], striking(USER, strike, 9)])) == ["item-1"]
