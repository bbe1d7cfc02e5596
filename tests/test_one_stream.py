"""One stream of events, read by consumers into records and by training into rows of weights: the same user vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from consumers.timelines import TimelineConsumer
from led.encoder import F32, I64, Encoder, Events, Newest, Sums, fold, head_terms
from store.profiles import profiles
from store.releases import Model, Release
from store.user_state import UserStates
from stream.events import Event, erasure, kind_code
from stream.topics import EVENTS
from tests.records import items, model, published
from tests.test_fold import reference
from tests.troubled_log import TroubledLog, consume
from training.encoded import timeline_rows
from training.spectral import averaged

USERS = [f"user-{n}" for n in range(4)]
CATALOGUE, STRANGERS = items(30), ["unknown-1", "unknown-2"]
MAX_EVENTS, DIM = 10, 16
HEADS = (3.9, 2.7)
# Of the mean length of what is averaged. Both sides add float32 products of the same weights, in another order: 3e-7
# seen. A record rounds its sums to 1/65534 of their largest component each time it is stored, until it is encoded anew:
# 1.3e-5 seen. And its times to a 4096th of a step, which is up to two hours here: 1.8 s, 7e-4 of a weight that decays
# by half in 1800 s.
SAME_NUMBERS, SAME_RECORDS, SAME_TIMES = 1e-5, 5e-5, 1e-3


def stream(seed: int, length: int) -> list[Event]:
    """With late events, items nobody knows, a kind that weighs nothing, and users who are forgotten."""
    rng = np.random.default_rng(seed)
    events, now_ms = [], 10**9
    for _ in range(length):
        now_ms += int(rng.exponential(60_000))
        at_ms = now_ms - int(rng.integers(7_200_000)) * (rng.random() < 0.2)
        user = USERS[rng.integers(len(USERS))]
        if rng.random() < 0.02:
            events.append(erasure(user, at_ms))
            continue
        item = str(rng.choice(CATALOGUE if rng.random() < 0.85 else STRANGERS))
        events.append(Event(user, item, str(rng.choice(["view", "click", "sale", "hover"])), at_ms))
    return events


def encoder_of(made: Model) -> Encoder:
    kinds = {kind_code(name): weight for name, weight in made.kind_weights.items()}
    return Encoder(kinds, made.half_life_s, made.head_weights)


def flat(events: Sequence[Event], users: Sequence[str], made: Model) -> Events:
    """Events as training numbers them: users and items by their places in lists of its own."""
    row = {item: place for place, item in enumerate(made.item_ids)}
    return Events(
        np.array([users.index(event.user_id) for event in events], np.int64),
        np.array([row.get(event.item_id, -1) for event in events], np.int64),
        np.array([kind_code(event.kind) for event in events], np.uint8),
        np.array([event.time_ms for event in events], np.int64),
    )


def trained_on(log: Sequence[Event], made: Model) -> F32:
    """User vectors as a trainer has them, of everything that lasts of the log."""
    timelines = reference(log, MAX_EVENTS)
    kept = flat([event for user in USERS for event in timelines[user]], USERS, made)
    rows = timeline_rows(encoder_of(made), kept, (len(USERS), len(made.item_ids)))
    vectors: F32 = averaged(rows) @ made.input_embeddings
    return vectors


@pytest.mark.parametrize("half_life_s", [None, 1800.0])
def test_what_is_served_is_what_was_trained_after_every_batch_and_every_swap(
    log: TroubledLog, states: UserStates, tmp_path: Path, half_life_s: float | None
) -> None:
    made = [
        model(CATALOGUE, dim=DIM, half_life_s=half_life_s, head_weights=HEADS),
        model(CATALOGUE[::-1][:25], seed=2, dim=DIM, half_life_s=half_life_s),
        model(CATALOGUE, seed=3, dim=DIM, half_life_s=half_life_s, head_weights=(0.5, 6.0, 1.0, 3.0)),
    ]
    releases = [published(tmp_path / str(number), one) for number, one in enumerate(made)]
    current: list[Release] = releases[:1]
    consumer = TimelineConsumer(states, lambda: current[0], log.identity(EVENTS), max_events=MAX_EVENTS)
    events = stream(seed=1, length=400)
    for start in range(0, len(events), 8):
        current[0] = releases[start // 100 % 3]
        log.send(*events[start : start + 8])
        consume(log, consumer)
        for one, release in zip(made, releases, strict=True):
            served = profiles(states.find(USERS), release).queries[:, :-1]
            trained = trained_on(events[: start + 8], one)
            bound = SAME_RECORDS if half_life_s is None else SAME_TIMES
            np.testing.assert_allclose(served, trained, atol=bound * np.sqrt(DIM))
    assert consumer.counts.erased > 3


@pytest.mark.parametrize("half_life_s", [None, 1800.0])
@pytest.mark.parametrize("head_weights", [(), HEADS, (0.5, 6.0, 1.0, 3.0)])
def test_sums_that_move_by_what_enters_and_leaves_are_the_rows_of_training_after_every_event(
    half_life_s: float | None, head_weights: tuple[float, ...]
) -> None:
    made = model(CATALOGUE, dim=DIM, half_life_s=half_life_s, head_weights=head_weights)
    encoder = encoder_of(made)
    log = [event for event in stream(seed=2, length=400) if event.kind != "erase"]
    timelines: dict[str, list[Event]] = {user: [] for user in USERS}
    sums = Sums.zeros(len(USERS), DIM)
    for place, event in enumerate(log):
        mine = timelines[event.user_id]
        left = mine[:1] if len(mine) == MAX_EVENTS else []
        timelines[event.user_id] = [*mine[len(left) :], event]
        sums = fold(encoder, made.input_embeddings, sums, flat([event], USERS, made), flat(left, USERS, made))
        whole = [flat(timelines[user], USERS, made) for user in USERS]
        totals, weights, _ = head_terms(encoder, made.input_embeddings, newest(whole, sums.at_ms))
        read = Sums(sums.totals + totals, sums.weights + weights, sums.at_ms, sums.masses).vectors()
        trained = trained_on(log[: place + 1], made)
        np.testing.assert_allclose(read, trained, atol=SAME_NUMBERS * np.sqrt(DIM))


def newest(timelines: Sequence[Events], at_ms: I64) -> Newest:
    """All events of timelines that are no longer than MAX_EVENTS."""
    rows = np.full((len(timelines), MAX_EVENTS), -1)
    kinds, times_ms = np.zeros(rows.shape, np.uint8), np.zeros(rows.shape, np.int64)
    for user, timeline in enumerate(timelines):
        if len(timeline.rows):
            at = slice(MAX_EVENTS - len(timeline.rows), None)
            rows[user, at], kinds[user, at], times_ms[user, at] = timeline.rows, timeline.kinds, timeline.times_ms
    return Newest(rows, kinds, at_ms[:, None] - times_ms)
