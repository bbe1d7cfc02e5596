"""The encoder: a user is a weighted average of item embeddings (LED, arXiv 2101.00870, Algorithm 1).

    u = sum_t w_t e[i_t] / sum_t w_t,    w_t = weight(kind_t) * 2 ** (-(now - time_t) / half_life) * head(rank_t)

The paper's encoder is the case of equal weights. `encode` is the slow, obvious way; `fold` moves the same
two sums from one timeline to the next by touching only what entered and what left.

Decay stays incremental because it cancels: both sums are kept as seen from one reference time `at_ms` (the newest
event that counts so far). A newer event moves the reference and scales both sums by one factor, a late one enters
already decayed, and the ratio, the user vector, does not depend on the reference at all.

Position stays incremental because only a few newest events, the head, weigh otherwise than the tail. The running sums
hold every event at the tail's weight, whatever its position, and `head_terms` is what a reader adds to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]

# Stored sums are rounded to about 3e-5 of themselves a step (`store/user_record.py`), and what was rounded at their
# largest stays when most of them is gone. A tenth of the mass left keeps that at a thousandth, while fifty unrelated
# directions of equal length, just encoded, still leave a seventh.
LEFT_TO_TRUST = 0.1
RANKS_TOGETHER = 8
MOST_HEADS = 8
# Running sums hold the newest events at the tail's weight: where a factor takes most of it away, their rounding stays.
LEAST_HEAD = 0.1
NEVER_MS = np.iinfo(np.int64).min // 4  # reference time of a sum that holds nothing yet


@dataclass(frozen=True)
class Encoder:
    """How much each event counts. Part of a release: state made under one encoder is not read under another.

    kind_weights: event kind code (0..255) -> weight, 0 or 1e-6..1e6 (sums are float32). An absent code weighs nothing.
    half_life_s: age at which an event counts half; None for no decay.
    head_weights: factors of the newest event that counts, the second newest and so on, at most MOST_HEADS; 0.1..1e6.
    All older ones, the tail, have factor 1. Newest is what was applied last, whatever its time.
    """

    kind_weights: Mapping[int, float]
    half_life_s: float | None = None
    head_weights: tuple[float, ...] = ()
    _table: F64 = field(init=False, repr=False, compare=False)
    _heads: F64 = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        table = np.zeros(256)
        for code, weight in self.kind_weights.items():
            if not (0 <= code <= 255 and (weight == 0 or 1e-6 <= weight <= 1e6)):
                raise ValueError(f"kind_weights[{code}] = {weight}: codes are 0..255, weights 0 or 1e-6..1e6")
            table[code] = weight
        if self.half_life_s is not None and not 0 < self.half_life_s < np.inf:
            raise ValueError(f"half_life_s = {self.half_life_s}: must be a number above 0, or None")
        if len(self.head_weights) > MOST_HEADS:
            raise ValueError(f"head_weights holds {len(self.head_weights)} factors: at most {MOST_HEADS} are possible")
        for place, factor in enumerate(self.head_weights):
            if not LEAST_HEAD <= factor <= 1e6:
                raise ValueError(f"head_weights[{place}] = {factor}: factors are {LEAST_HEAD}..1e6, the tail's being 1")
        object.__setattr__(self, "_table", table)
        object.__setattr__(self, "_heads", np.array([*self.head_weights, 1.0]))

    @property
    def tail(self) -> Encoder:
        """The same without head weights: whose sums are the running ones."""
        return replace(self, head_weights=())

    @property
    def has_recency(self) -> bool:
        """Whether age or position matters."""
        return self.half_life_s is not None or bool(self.head_weights)

    def kind_weight(self, kinds: U8) -> F64:
        """Weight of each kind before any decay. Shape of kinds."""
        return self._table[kinds]

    def least_weight(self) -> float:
        """The smallest weight above 0 that a kind has; 0 if no kind counts."""
        counting = self._table[self._table > 0]
        return float(counting.min()) if len(counting) else 0.0

    def decay(self, age_ms: I64) -> F64:
        """What remains of a weight after age_ms milliseconds: 1 without a half-life. Shape of age_ms."""
        if self.half_life_s is None:
            return np.ones(np.shape(age_ms))
        return np.exp2(-np.asarray(age_ms, dtype=np.float64) / (1000.0 * self.half_life_s))

    def head_factor(self, ranks: I64) -> F64:
        """Factor of an event that so many counting ones came after, 1 in the tail. Shape of ranks."""
        return self._heads[np.minimum(ranks, len(self.head_weights))]

    def weights(self, kinds: U8, times_ms: I64, at_ms: I64) -> F64:
        """Weight of each event in the tail, as seen from at_ms. All of one shape."""
        return self.kind_weight(kinds) * self.decay(at_ms - times_ms)


@dataclass
class Sums:
    """Two sums of many users, whose ratio is the user vector: running ones, which `fold` moves, or those of `encode`.

    totals: (users, dim) float32, weighted sums of item embeddings.
    weights: (users,) float64, sums of the weights of the events that had an embedding.
    at_ms: (users,) int64, reference times the sums are expressed at; NEVER_MS where nothing was summed yet.
    masses: (users,) float64, sums of weight * row length of all that entered and, unlike the others, never left:
    what the rounding in totals is in proportion to.
    """

    totals: F32
    weights: F64
    at_ms: I64
    masses: F64

    @classmethod
    def zeros(cls, users: int, dim: int) -> Sums:
        return cls(
            np.zeros((users, dim), np.float32), np.zeros(users), np.full(users, NEVER_MS, np.int64), np.zeros(users)
        )

    def put(self, users: I64, others: Sums) -> None:
        """Replace these users' sums by others, one for one."""
        self.totals[users], self.weights[users] = others.totals, others.weights
        self.at_ms[users], self.masses[users] = others.at_ms, others.masses

    def vectors(self) -> F32:
        """User vectors (users, dim); the zero vector for a user none of whose events has an embedding."""
        safe = np.where(self.weights > 0, self.weights, 1.0)
        return np.where(self.weights[:, None] > 0, self.totals / safe[:, None], 0.0).astype(np.float32)


@dataclass(frozen=True)
class Events:
    """Events of many users, flat. Order inside a user is the order of application.

    users: (n,) int64, which user each event belongs to, 0..users-1.
    rows: (n,) int64, item rows of one release; -1 for an item the release does not know (it weighs nothing).
    kinds: (n,) uint8 kind codes. times_ms: (n,) int64.
    """

    users: I64
    rows: I64
    kinds: U8
    times_ms: I64


@dataclass(frozen=True)
class Newest:
    """Events that users' timelines end with, as many of each, oldest first. Arrays (users, events), events above 0.

    rows: as in Events, and -1 where a timeline has not as many. ages_ms: as seen from the reference time of the sums.
    Where rows are -1, the others are anything; ages_ms are so everywhere without a half-life.
    """

    rows: I64
    kinds: U8
    ages_ms: I64


def fold(encoder: Encoder, embeddings: F32, sums: Sums, entered: Events, left: Events) -> Sums:
    """The running sums after `entered` joined the timelines and `left` was evicted from them. Returns new arrays.

    embeddings: (items, dim) float32 input embeddings of the release that `sums` belongs to.
    Applying the same events twice counts them twice: who calls this keeps the log offset beside the sums.
    Taking away is only as exact as float32: where the result is `worn`, encode afresh.
    """
    entered, left = _counting(encoder, entered), _counting(encoder, left)
    at_ms = sums.at_ms.copy()
    np.maximum.at(at_ms, entered.users, entered.times_ms)
    was_empty = sums.at_ms == NEVER_MS
    factor = np.where(was_empty, 0.0, encoder.decay(np.where(was_empty, 0, at_ms - sums.at_ms)))
    totals = sums.totals * factor[:, None].astype(np.float32)
    weights, masses = sums.weights * factor, sums.masses * factor
    for events, sign in ((entered, 1.0), (left, -1.0)):
        if not len(events.users):
            continue
        w = sign * encoder.weights(events.kinds, events.times_ms, at_ms[events.users])
        contributions = embeddings[events.rows] * w[:, None].astype(np.float32)
        _add_by_user(totals, events.users, contributions)
        np.add.at(weights, events.users, w)
        if events is entered:
            np.add.at(masses, events.users, np.sqrt(np.einsum("ij,ij->i", contributions, contributions)))
    return Sums(totals, np.maximum(weights, 0.0), at_ms, masses)


def encode(encoder: Encoder, embeddings: F32, users: int, events: Events) -> Sums:
    """The sums of whole timelines by definition, head weights included: what every incremental way is tested against.

    The running sums of `fold` are those of `encoder.tail`.
    """
    events, w = weighed(encoder, events)
    sums = Sums.zeros(users, embeddings.shape[1])
    np.maximum.at(sums.at_ms, events.users, events.times_ms)
    np.add.at(sums.weights, events.users, w)
    contributions = embeddings[events.rows] * w[:, None].astype(np.float32)
    _add_by_user(sums.totals, events.users, contributions)
    np.add.at(sums.masses, events.users, np.sqrt(np.einsum("ij,ij->i", contributions, contributions)))
    return sums


def weighed(encoder: Encoder, events: Events) -> tuple[Events, F64]:
    """Those of whole timelines' events that count, and the weight of each, as seen from its user's newest time."""
    events = _counting(encoder, events)
    return events, encoder.kind_weight(events.kinds) * recency(encoder, events.users, events.times_ms)


def recency(encoder: Encoder, users: I64, times_ms: I64) -> F64:
    """What age and position leave of the weight of each event, (n,): its factor beside that of its kind.

    users: (n,) whose it is, 0 or above, each one's events in the order of application; all of them count.
    Age is as seen from the user's newest time.
    """
    if not encoder.has_recency:
        return np.ones(len(users))
    order = np.argsort(users, kind="stable")
    starts = np.flatnonzero(np.diff(users[order], prepend=-1))
    counts = np.diff(starts, append=len(users))
    factors = np.ones(len(users))
    if len(users):
        newest = np.repeat(np.maximum.reduceat(times_ms[order], starts), counts)
        factors[order] = encoder.decay(newest - times_ms[order])
    factors[order] *= encoder.head_factor(np.repeat(starts + counts, counts) - 1 - np.arange(len(users)))
    return factors


def head_terms(encoder: Encoder, embeddings: F32, newest: Newest) -> tuple[F32, F64, I64]:
    """What users' head weights add to running sums: to totals (users, dim) and to weights (users,).

    Third, how many events counted among the newest (users,): the terms are whole where these are at least as many as
    head weights, or all that there are.
    """
    w = encoder.kind_weight(newest.kinds)
    w[newest.rows < 0] = 0
    counts = w > 0
    places = counts[:, ::-1].cumsum(axis=1)[:, ::-1]  # from 1, the newest that counts
    w *= encoder.head_factor(places - 1) - 1
    if encoder.half_life_s is not None:
        w *= encoder.decay(np.where(counts, newest.ages_ms, 0))
    totals = np.matmul(w[:, None].astype(np.float32), embeddings[newest.rows])[:, 0]
    return totals, w.sum(axis=1), places[:, 0]


def worn(encoder: Encoder, sums: Sums) -> Bool:
    """Users (users,) in whose sums rounding may show, because little is left of what went in.

    Either less weight than one event at the reference time has: the newest event in time was evicted before older
    ones, or nothing that counts is left. Or little of the mass: long rows or heavy kinds were there and went, all at
    once or one after the other.
    """
    light = (sums.at_ms != NEVER_MS) & (sums.weights < 0.5 * encoder.least_weight())
    return np.asarray(light | (np.linalg.norm(sums.totals, axis=1) < LEFT_TO_TRUST * sums.masses))


def _counting(encoder: Encoder, events: Events) -> Events:
    """Only the events that weigh something. The others must not move the reference time either: a user
    whose newest event is an unknown item would see all that is known decay to nothing."""
    counts = (events.rows >= 0) & (encoder.kind_weight(events.kinds) > 0)
    return Events(events.users[counts], events.rows[counts], events.kinds[counts], events.times_ms[counts])


def _add_by_user(totals: F32, users: I64, vectors: F32) -> None:
    """totals[users] += vectors, users in any order and repeated. First vectors of all users together, then second ones
    and so on, which NumPy does many times faster than np.add.at; the long rest of a few users by one sum each."""
    order = np.argsort(users, kind="stable")
    users = users[order]
    starts = np.flatnonzero(np.r_[True, users[1:] != users[:-1]][: len(users)])
    counts = np.diff(np.r_[starts, len(users)])
    for rank in range(min(int(counts.max(initial=0)), RANKS_TOGETHER)):
        place = starts[counts > rank] + rank
        totals[users[place]] += vectors[order[place]]
    for start, count in zip(starts[counts > RANKS_TOGETHER], counts[counts > RANKS_TOGETHER], strict=True):
        rest = order[start + RANKS_TOGETHER : start + count]
        totals[users[start]] += vectors[rest].sum(axis=0)
