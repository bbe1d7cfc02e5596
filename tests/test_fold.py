"""The batch fold against the obvious way: a list per user and a fresh average, on every prefix of random streams."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.arrivals import Arrivals
from consumers.fold import Counts, fold_batch
from led.encoder import F64
from store.profiles import profiles
from store.releases import Release
from store.stored import Stored
from store.user_record import IDS_KEPT, STRUCK_KEPT, UserRecord, decode_record, head_of, source_of
from stream.decoding import Decoder
from stream.events import Event, encode_event, erasure, event_key, item_key, kind_code
from stream.log import Batch, Record
from stream.strikes import STRIKE, Strike, mark_of
from tests.records import KINDS, LOG, items, model, published

SOURCE = source_of(LOG, 0)
CATALOGUE = items(20)
STRANGERS = ["unknown-1", "unknown-2"]
HOUR_MS = 3_600_000
# A stored sum is good to 1/65534 of its largest component; the running one gathers such errors over at most max_events
# steps, each made while a tenth of the mass stays. Times good to a 2048th add less. Ordinary streams stay ten times
# below this; these are made to hurt.
TOLERANCE = 5e-3


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> list[Release]:
    """Plain; with a half-life; with rows of very different lengths; both, under other kind weights. Then with heads:
    as sessions teach them; with a half-life; lighter than the tail, over rows of very different lengths.
    """
    lengths = np.logspace(-3, 3, len(CATALOGUE), dtype=np.float32)
    steep = {"view": 1e-3, "click": 1.0, "sale": 1e3, "hover": 0.0}
    made = [
        model(CATALOGUE),
        model(CATALOGUE[::-1][:15], seed=2, half_life_s=3600),
        model(CATALOGUE, seed=3, lengths=lengths),
        model(CATALOGUE, seed=4, lengths=lengths[::-1].copy(), half_life_s=60, kind_weights=steep),
        model(CATALOGUE, seed=5, head_weights=(3.9, 2.7)),
        model(CATALOGUE[::-1][:15], seed=6, half_life_s=3600, head_weights=(3.9, 0.5, 20.0)),
        model(CATALOGUE, seed=7, lengths=lengths, kind_weights=steep, head_weights=(0.1, 0.3, 1.0, 1e3)),
    ]
    return [published(tmp_path_factory.mktemp("releases"), one) for one in made]


@dataclass
class Folded:
    """What a consumer keeps: records as bytes, written only over a lower offset; and the counts of all batches."""

    max_events: int
    stored: dict[str, bytes] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)

    def apply(self, log: Sequence[Event], start: int, stop: int, release: Release | None) -> None:
        if start == stop:
            return
        records = [Record(offset, 0, b"", encode_event(log[offset])) for offset in range(start, stop)]
        arrivals = Arrivals.of(Decoder().decode(Batch.of(0, records))[0])
        stored = Stored.of([self.stored.get(user, b"") for user in arrivals.users])
        changed, new, counts = fold_batch(arrivals, stored, SOURCE, release, self.max_events)
        self.counts.add(counts)
        for user, data in zip(changed.tolist(), new, strict=True):
            head_of(data)
            before = self.read(arrivals.users[user])
            assert before is None or before.position.offset < decode_record(data).position.offset
            self.stored[arrivals.users[user]] = data

    def read(self, user: str) -> UserRecord | None:
        return decode_record(self.stored[user]) if user in self.stored else None


def reference(log: Sequence[Event], max_events: int) -> dict[str, list[Event]]:
    """Newest events by user, oldest first: the whole rule of the timeline. Strikes name events by their ids."""
    timelines: dict[str, list[Event]] = defaultdict(list)
    struck: dict[str, list[int]] = defaultdict(list)
    for event in log:
        mine, marks = timelines[event.user_id], struck[event.user_id]
        if event.kind == "erase":
            mine.clear()
            marks.clear()
        elif event.kind == STRIKE:
            mark = Strike.of(event.context).mark
            mine[:] = [one for one in mine if mark_of_event(one) != mark]
            marks[:] = [mark, *(one for one in marks if one != mark)][:STRUCK_KEPT]
        elif event.event_id is not None and mark_of_event(event) in marks:
            pass
        elif event.event_id is None or identity(event) not in map(identity, mine[-IDS_KEPT:]):
            mine.append(event)
            del mine[:-max_events]
    return timelines


def mark_of_event(event: Event) -> int:
    return mark_of(item_key(event.item_id), kind_code(event.kind), event_key(event.event_id))


def identity(event: Event) -> tuple[str, str, str | None]:
    return event.item_id, event.kind, event.event_id


def reference_vector(timeline: Sequence[Event], release: Release) -> tuple[F64, float]:
    """The weighted average in float64, and the average length of what went into it."""
    info = release.info
    rows = release.rows(np.array([item_key(event.item_id) for event in timeline], np.uint64))
    known = [
        (release.input_embeddings[row].astype(np.float64), info.kind_weights[event.kind], event.time_ms)
        for row, event in zip(rows, timeline, strict=True)
        if row >= 0 and info.kind_weights[event.kind] > 0
    ]
    if not known:
        return np.zeros(release.dim), 0.0
    newest = max(time_ms for _, _, time_ms in known)
    positions = [*info.head_weights, *[1.0] * len(known)][: len(known)][::-1]
    weights = [
        weight * at_position * (2.0 ** ((time_ms - newest) / 1000 / info.half_life_s) if info.half_life_s else 1.0)
        for (_, weight, time_ms), at_position in zip(known, positions, strict=True)
    ]
    vectors = np.array([vector for vector, _, _ in known])
    mean_length = float(np.average(np.linalg.norm(vectors, axis=1), weights=weights))
    return np.average(vectors, axis=0, weights=weights), mean_length


def check(folded: Folded, log: Sequence[Event], release: Release | None) -> None:
    """Everything stored is what the obvious way gives for this log."""
    times = [event.time_ms for event in log]
    span_ms = max(times) - min(times)
    for user, timeline in reference(log, folded.max_events).items():
        record = folded.read(user)
        assert record is not None
        assert record.timeline["item"].tolist() == [item_key(event.item_id) for event in timeline]
        assert record.timeline["kind"].tolist() == [kind_code(event.kind) for event in timeline]
        assert record.timeline["event"][-IDS_KEPT:].tolist() == [event_key(e.event_id) for e in timeline[-IDS_KEPT:]]
        check_times(record, [event.time_ms for event in timeline], span_ms)
        kept = [e._replace(time_ms=int(at)) for e, at in zip(timeline, record.timeline["time_ms"], strict=True)]
        if release is None or record.release != release.key:
            assert release is None or record.release == 0 or record.total.shape == (record.total.size,)
        if release is not None:
            vector = profiles([folded.stored[user]], release).queries[0, :-1]
            wanted, length = reference_vector(kept, release)
            assert np.abs(vector - wanted).max() <= TOLERANCE * length, (user, timeline)


def check_times(record: UserRecord, times_ms: Sequence[int], span_ms: int) -> None:
    """Each good to a 2048th of the step into it (span_ms: the longest there may be); the newest exact."""
    times = np.array(times_ms, np.int64)
    off = np.abs(record.timeline["time_ms"] - times)
    assert (off <= span_ms / 2047).all()
    # A step is made from the time before as it was kept, which is off itself.
    steps = np.abs(np.diff(times)) + off[:-1]
    assert (off[1:] <= steps / 2047).all()
    assert record.as_of == (times_ms[-1] if times_ms else None)


def events(users: int = 3) -> st.SearchStrategy[Event]:
    times = st.integers(0, 400 * HOUR_MS) | st.integers(0, 50).map(lambda n: n * 60_000)
    happened = st.builds(
        Event,
        st.integers(1, users).map("user-{}".format),
        st.sampled_from(CATALOGUE * 3 + STRANGERS),
        st.sampled_from(sorted(KINDS)),
        times,
        st.none() | st.none() | st.sampled_from(["a", "b"]),
        st.none(),
        st.none(),
    )
    erasures = st.builds(erasure, st.just("user-1"), times)
    # A strategy named twice in one_of counts once.
    return st.integers(0, 15).flatmap(lambda number: happened if number else erasures)


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[Event], list[tuple[int, int]]]:
    """A log, and the stretches of it that are read: on from the furthest, after a step back of any length."""
    log = draw(st.lists(events(), min_size=1, max_size=60))
    stretches, end = [], 0
    while end < len(log):
        start = draw(st.integers(0, end)) if draw(st.integers(0, 3)) == 0 else end
        end = max(end, draw(st.integers(start + 1, min(len(log), start + 15))))
        stretches.append((start, end))
    return log, stretches


@given(run=runs(), max_events=st.integers(1, 12), number=st.integers(0, 6))
@settings(max_examples=150)
def test_timelines_and_vectors_are_those_of_the_obvious_way_after_every_batch(
    releases: list[Release], run: tuple[list[Event], list[tuple[int, int]]], max_events: int, number: int
) -> None:
    log, stretches = run
    folded = Folded(max_events)
    for start, end in stretches:
        folded.apply(log, start, end, releases[number])
        check(folded, log[:end], releases[number])


@given(run=runs(), max_events=st.integers(1, 12), numbers=st.lists(st.integers(-1, 6), min_size=1))
@settings(max_examples=60)
def test_a_change_of_release_at_any_batch_leaves_every_user_as_freshly_encoded(
    releases: list[Release], run: tuple[list[Event], list[tuple[int, int]]], max_events: int, numbers: list[int]
) -> None:
    log, stretches = run
    folded = Folded(max_events)
    for place, (start, end) in enumerate(stretches):
        number = numbers[place * len(numbers) // len(stretches)]
        release = releases[number] if number >= 0 else None
        folded.apply(log, start, end, release)
        for serving in releases:  # a server may be on any release, whatever the consumer encodes under
            check(folded, log[:end], serving)
        check(folded, log[:end], release)


@given(
    log=st.lists(events(), max_size=60), max_events=st.integers(1, 8), sizes=st.lists(st.integers(1, 20), min_size=1)
)
def test_how_the_log_is_cut_into_batches_changes_neither_timelines_nor_counts(
    releases: list[Release], log: list[Event], max_events: int, sizes: list[int]
) -> None:
    whole, cut, single = Folded(max_events), Folded(max_events), Folded(max_events)
    whole.apply(log, 0, len(log), releases[0])
    for start, end in stretches_of(len(log), sizes):
        cut.apply(log, start, end, releases[0])
    for offset in range(len(log)):
        single.apply(log, offset, offset + 1, releases[0])
    assert whole.counts == cut.counts == single.counts
    assert sum((whole.counts.applied, whole.counts.duplicates, whole.counts.erased)) == len(log)
    for user in whole.stored:
        records = [folded.read(user) for folded in (whole, cut, single)]
        assert len({record and (record.timeline.tobytes(), record.position, record.applied) for record in records}) == 1


def stretches_of(length: int, sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    start, place = 0, 0
    while start < length:
        end = min(length, start + sizes[place % len(sizes)])
        yield start, end
        start, place = end, place + 1


def one_by_one(release: Release, log: Sequence[Event], max_events: int) -> None:
    folded = Folded(max_events)
    for offset in range(len(log)):
        folded.apply(log, offset, offset + 1, release)
        check(folded, log[: offset + 1], release)


@pytest.mark.parametrize("step_s", [1, 50, 60, 200, 3600])
def test_events_that_arrive_newest_first_decay_without_leaving_noise(releases: list[Release], step_s: int) -> None:
    log = [Event("ana", CATALOGUE[n % 20], "click", 10**10 - n * step_s * 1000) for n in range(250)]
    for release in (releases[1], releases[3]):
        one_by_one(release, log, 50)


def test_long_rows_that_leave_take_their_rounding_with_them(releases: list[Release]) -> None:
    """From the longest row to the shortest, each a little shorter than the last: no step by itself looks harmful."""
    falling = [Event("ana", item, "view", n) for n, item in enumerate(CATALOGUE[::-1])]
    short = [Event("ana", item, "view", 100 + n) for n, item in enumerate(CATALOGUE[:3] * 10)]
    for max_events in (2, 3, 5, 10, 12, 16, 19, 25):
        one_by_one(releases[2], falling + short + falling, max_events)
        one_by_one(releases[2], falling[:max_events] + short, max_events)


def test_what_carried_nearly_all_the_weight_leaves_nothing_behind(releases: list[Release]) -> None:
    log = [Event("ana", CATALOGUE[0], "sale", 0)] + [Event("ana", CATALOGUE[1 + n % 19], "view", n) for n in range(120)]
    for release in releases:
        one_by_one(release, log, 50)


@pytest.mark.parametrize("idle_s", [10, 3600, 86400, 365 * 86400, 10**9])
def test_a_returning_user_is_what_came_since_and_a_little_of_before(releases: list[Release], idle_s: int) -> None:
    before = [Event("ana", CATALOGUE[n % 20], "click", n * 1000) for n in range(12)]
    after = [Event("ana", CATALOGUE[5 + n], "click", (idle_s + n) * 1000) for n in range(12)]
    late = [Event("ana", CATALOGUE[n], "sale", n * 1000) for n in range(12)]
    for release in releases:
        one_by_one(release, before + after + late, 10)


def test_items_nobody_knows_keep_their_place_and_weigh_nothing(releases: list[Release]) -> None:
    log = [Event("ana", "item-3", "view", 1), *[Event("ana", "unknown-1", "sale", 10**12)] * 3]
    for release in releases[:2]:
        one_by_one(release, log, 3)


def test_a_repeat_of_what_left_the_timeline_is_an_event_of_its_own_in_one_batch_as_in_many() -> None:
    first = Event("ana", "item-1", "view", 1, "a")
    log = [first, *[Event("ana", f"item-{n}", "view", n) for n in range(2, 6)], first, first]
    whole, single = Folded(3), Folded(3)
    whole.apply(log, 0, len(log), None)
    for offset in range(len(log)):
        single.apply(log, offset, offset + 1, None)
    assert whole.stored == single.stored
    assert (whole.counts.applied, whole.counts.duplicates) == (6, 1)
    check(whole, log, None)


def test_a_smaller_cap_cuts_longer_timelines_at_the_next_event(releases: list[Release]) -> None:
    log = [Event("ana", CATALOGUE[n % 20], "view", n) for n in range(30)]
    folded = Folded(20)
    folded.apply(log, 0, 25, releases[0])
    folded.max_events = 4
    folded.apply(log, 25, 26, releases[0])
    check(folded, log[:26], releases[0])


def test_an_erased_user_keeps_only_a_position_and_a_replay_brings_nothing_back(releases: list[Release]) -> None:
    log = [Event("ana", "item-1", "view", 1), erasure("ana", 2)]
    folded = Folded(5)
    for _ in range(2):
        folded.apply(log, 0, 2, releases[0])
        record = folded.read("ana")
        assert record is not None
        assert (len(record.timeline), record.applied, record.weight, record.as_of) == (0, 0, 0.0, None)
        assert record.position.offset == 1
    assert (folded.counts.applied, folded.counts.erased, folded.counts.replayed) == (1, 1, 2)
