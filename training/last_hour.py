"""What was held out of training, or the archive's last hour, as questions: what did a user do next, and what would a
release have shown just before?

A question is one event; what is known is the user's timeline before it, as a consumer would have stored it. A release
answers as a server does: the timeline encoded, the index searched, items already in the timeline left out, the most
popular items for whoever has no vector. Users who asked to be forgotten are left out altogether.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from led.encoder import F32, I64, U8, Bool, Events, encode
from led.metrics import hits
from led.ranking import with_one
from store.releases import U64, Release
from stream.events import ERASE, item_keys, kind_code
from training.interactions import codes
from training.survey import HOUR_MS

LAST_HOUR, NEWEST, HELD_OUT = "the last hour", "the newest events", "events held out of training"
FEWEST_EVENTS = 2000  # an hour of fewer is made longer: a hundred questions decide nothing
MOST_QUESTIONS = 10_000
AT_ONCE = 1000


@dataclass(frozen=True)
class Questions:
    """users: (n,) who each question is of, a number. targets: (n,) uint64 keys of the items that came next.

    places: (m,) question of each timeline event, rising; keys, kinds, times_ms: (m,) these events, oldest first.
    events: how many were drawn, questions or not. drawn_from: what they were drawn from, in words.
    """

    users: I64
    targets: U64
    places: I64
    keys: U64
    kinds: U8
    times_ms: I64
    events: int = 0
    drawn_from: str = LAST_HOUR

    def __len__(self) -> int:
        return len(self.users)


def ask(events: pa.Table, kinds: Collection[str], timeline_events: int, held_out: Bool | None = None) -> Questions:
    """Questions of events that were held out of training, at most MOST_QUESTIONS, drawn with a seed.

    events: a table as `store.archive.read_archive` gives it. kinds: those that count. held_out: which events, (n,);
    where there are none, those of the newest hour. Events without anything before them and on items that are in the
    timeline already are no questions: no answer could be right.
    """
    users, _ = codes(events["user_id"])
    counting = _counting(events, users, kinds)
    times_ms = events["time_ms"].to_numpy()
    if held_out is not None and held_out.any():
        asked, drawn_from = _drawn(np.flatnonzero(held_out & counting)), HELD_OUT
    else:
        asked, drawn_from = _newest(times_ms, counting)
    concerned = np.zeros(users.max(initial=0) + 1, np.bool_)
    concerned[users[asked]] = True
    of_these = np.flatnonzero(counting & concerned[users])
    order = _log_order(events, users, of_these)
    is_asked = np.zeros(len(users), np.bool_)
    is_asked[asked] = True
    found = _questions(
        events.select(["item_id", "kind", "time_ms"]).take(order), users[order], is_asked[order], timeline_events
    )
    return replace(found, events=len(asked), drawn_from=drawn_from)


def rank(release: Release, questions: Questions, k: int) -> I64:
    """Rows of the k items the release would have shown at each question, best first, (n, k); -1 where it has fewer."""
    return np.concatenate(
        [np.empty((0, k), np.int64)]
        + [_rank(release, _part(questions, at), k) for at in range(0, len(questions), AT_ONCE)]
    )


def vectors(release: Release, questions: Questions) -> F32:
    """The user's vector at each question, (n, dim)."""
    rows = release.rows(questions.keys)
    timelines = Events(questions.places, rows, questions.kinds, questions.times_ms)
    return encode(release.encoder, release.input_embeddings, len(questions), timelines).vectors()


def first_of_each_user(questions: Questions, most: int) -> Questions:
    """At most so many questions, each of another user."""
    return _only(questions, np.sort(np.unique(questions.users, return_index=True)[1])[:most])


def _counting(events: pa.Table, users: I64, kinds: Collection[str]) -> Bool:
    """Which events may be asked for or lie in a timeline, (n,)."""
    of_kind, names = codes(events["kind"])
    weighs = np.array([*(name in kinds for name in names), False])[of_kind]  # the last is of a kind of null, -1
    erases = np.array([*(name == ERASE for name in names), False])[of_kind]
    forgotten = np.zeros(users.max(initial=0) + 1, np.bool_)
    forgotten[users[erases & (users >= 0)]] = True
    known = (users >= 0) & events["item_id"].is_valid().to_numpy()
    return np.asarray(weighs & known & ~forgotten[users])


def _newest(times_ms: I64, counting: Bool) -> tuple[I64, str]:
    """Rows drawn of the newest hour's events, or of the newest FEWEST_EVENTS; and which of the two."""
    rows = np.flatnonzero(counting)
    of_hour = rows[times_ms[rows] > times_ms[rows].max(initial=0) - HOUR_MS]
    is_hour = len(of_hour) >= min(FEWEST_EVENTS, len(rows))
    if not is_hour:
        of_hour = rows[np.argsort(times_ms[rows], kind="stable")[-FEWEST_EVENTS:]]
    return _drawn(of_hour), LAST_HOUR if is_hour else NEWEST


def _drawn(rows: I64) -> I64:
    return rows[np.sort(np.random.default_rng(0).permutation(len(rows))[:MOST_QUESTIONS])]


def _log_order(events: pa.Table, users: I64, rows: I64) -> I64:
    """The rows by user and then as a consumer met them, an event that was read from two places once."""
    columns = [events[name].to_numpy()[rows] for name in ("offset", "partition", "appended_ms")]
    order = np.lexsort([*columns, users[rows]])
    ordered = np.stack([users[rows], *columns])[:, order]
    is_new = np.ones(len(order), np.bool_)
    is_new[1:] = (ordered[:, 1:] != ordered[:, :-1]).any(axis=0)
    return np.asarray(rows[order[is_new]])


def _questions(events: pa.Table, users: I64, is_asked: Bool, timeline_events: int) -> Questions:
    """events: of the users concerned, ordered by user; is_asked: which of them are to be foretold."""
    items, ids = codes(events["item_id"])
    kinds, names = codes(events["kind"])
    first = np.searchsorted(users, users)
    asked = np.flatnonzero(is_asked)
    starts = np.maximum(first[asked], asked - timeline_events)
    lengths = asked - starts
    places = np.repeat(np.arange(len(asked)), lengths)
    events_of = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths) + starts[places]
    repeated = np.zeros(len(asked), np.bool_)
    repeated[places[items[events_of] == items[asked][places]]] = True
    keys = item_keys(ids)
    kind_codes = np.array([kind_code(name) for name in names], np.uint8)
    everything = Questions(
        users=users[asked],
        targets=keys[items[asked]],
        places=places,
        keys=keys[items[events_of]],
        kinds=kind_codes[kinds[events_of]],
        times_ms=events["time_ms"].to_numpy()[events_of],
    )
    return _only(everything, np.flatnonzero((lengths > 0) & ~repeated))


def _rank(release: Release, questions: Questions, k: int) -> I64:
    known = release.rows(questions.keys)
    seen = [of_question[of_question >= 0] for of_question in _by_question(known, questions)]
    most = max((len(of_question) for of_question in seen), default=0)
    asking = vectors(release, questions)
    fetch = min(k + most, release.items)
    found = release.index.search(with_one(asking), fetch)
    popular = release.most_popular[:fetch]
    found[~asking.any(axis=1)] = np.pad(popular, (0, fetch - len(popular)), constant_values=-1)
    hidden = hits(found, seen) | (found < 0)
    order = np.argsort(hidden, axis=1, kind="stable")[:, :k]
    shown = np.where(np.take_along_axis(hidden, order, axis=1), -1, np.take_along_axis(found, order, axis=1))
    return np.pad(shown, ((0, 0), (0, k - shown.shape[1])), constant_values=-1)


def _by_question(values: npt.NDArray[np.int64], questions: Questions) -> list[I64]:
    return np.split(values, np.searchsorted(questions.places, np.arange(1, len(questions))))


def _part(questions: Questions, start: int) -> Questions:
    return _only(questions, np.arange(start, min(start + AT_ONCE, len(questions))))


def _only(questions: Questions, chosen: I64) -> Questions:
    """The chosen questions, rising, with their timelines."""
    new_place = np.full(len(questions), -1)
    new_place[chosen] = np.arange(len(chosen))
    kept = new_place[questions.places] >= 0
    return replace(
        questions,
        users=questions.users[chosen],
        targets=questions.targets[chosen],
        places=new_place[questions.places[kept]],
        keys=questions.keys[kept],
        kinds=questions.kinds[kept],
        times_ms=questions.times_ms[kept],
    )
