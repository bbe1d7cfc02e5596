"""From archived events to a model that sessions made: events, sessions, prefixes, a table, what a release holds."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa

from led.encoder import F32, I64, Encoder, Events, encode
from store.releases import Model
from training.curves import Curve
from training.interactions import SelectedEvents, Selection, interactions_of, select
from training.progress import Progress, silent
from training.sessions.learner import Learner, Recipe
from training.sessions.prefixes import Sessions
from training.sessions.quality import Scorer, recall, unit
from training.sessions.teaching import Judge, Schedule, Taught, teach
from training.story import drawn, told
from training.train import SAMPLE_VECTORS, Counts


@dataclass(frozen=True)
class SessionSettings:
    """kinds: of events that make sessions, all counting the same. session_gap_s: a longer pause begins another session.

    held_out_share: of the new sessions, the last, which are not taught: each pass is judged on them by recall@20, and
    the best kept (`Schedule.patience`). popularity_half_life_s: how soon the list of popular items forgets.
    One seed and the same events make the same model.
    """

    kinds: tuple[str, ...] = ("view",)
    session_gap_s: float = 1800.0
    recipe: Recipe = field(default_factory=Recipe)
    schedule: Schedule = field(default_factory=Schedule)
    held_out_share: float = 0.0
    popularity_half_life_s: float | None = 86400.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.kinds:
            raise ValueError("kinds = (): at least one kind of event is needed")
        if not self.session_gap_s > 0:
            raise ValueError(f"session_gap_s = {self.session_gap_s}: must be above 0")
        if not 0 <= self.held_out_share < 1:
            raise ValueError(f"held_out_share = {self.held_out_share}: must be at least 0 and below 1")
        if self.popularity_half_life_s is not None and not self.popularity_half_life_s > 0:
            raise ValueError(f"popularity_half_life_s = {self.popularity_half_life_s}: must be above 0")
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed}: must be at least 0")


def train_sessions(
    events: pa.Table, settings: SessionSettings, progress: Progress = silent, *, before: Model | None = None
) -> Model:
    """A model of archived events (columns of `training.interactions.collect`). Raises TooFewEvents.

    before: an earlier model of such training to go on from, by item id: sessions that ended until its about["to_ms"]
    are replayed, later ones are new. Its dimension and number of head weights must be those of the recipe.
    """
    began = time.process_time()
    selected = select(events, Selection(dict.fromkeys(settings.kinds, 1.0)))
    interactions = interactions_of(selected)
    Counts(*interactions.matrix.shape, interactions.matrix.nnz).check()
    sessions, ends_ms = sessions_of(selected, settings.session_gap_s)
    learner = Learner(0, settings.recipe, np.random.default_rng(settings.seed))
    learner.grow(len(selected.item_ids))
    olds = 0
    if before is not None:
        adopt(learner, selected.item_ids, before)
        olds = int(np.searchsorted(ends_ms, _until_ms(before), side="right"))
    held_out = int(settings.held_out_share * (len(sessions) - olds))
    old, new = sessions.part(0, olds), sessions.part(olds, len(sessions) - held_out)
    judge = by_recall(sessions.part(len(sessions) - held_out, len(sessions)), settings) if held_out else None
    taught = teach(learner, new, old, settings.schedule, progress, judge=judge)
    embeddings = learner.table.numpy().copy()
    model = Model(
        item_ids=selected.item_ids,
        input_embeddings=embeddings,
        output_embeddings=unit(embeddings),
        biases=np.zeros(len(embeddings), np.float32),
        popularity=interactions.popularity(settings.popularity_half_life_s),
        kind_weights=dict.fromkeys(settings.kinds, 1.0),
        head_weights=learner.head_weights(),
        sample_vectors=last_users(learner, embeddings, sessions),
        about=_about(selected, sessions, settings, taught, olds),
    )
    return _told(model, settings, taught, time.process_time() - began)


def _told(model: Model, settings: SessionSettings, taught: Taught, cpu_seconds: float) -> Model:
    """With learning curves and a JSON of what made it."""
    numbers = list(range(1, len(taught.losses) + 1))
    curves = [Curve("training loss", "pass", numbers, taught.losses)]
    if taught.judgements:
        best = int(np.argmax(taught.judgements)) + 1
        curves.append(Curve("recall@20 of held-out sessions", "pass", numbers, taught.judgements, best))
    return told(drawn(model, curves), {"settings": asdict(settings), "cpu_seconds": cpu_seconds})


def sessions_of(events: SelectedEvents, gap_s: float) -> tuple[Sessions, I64]:
    """Sessions of users, cut where a user pauses for longer, in the order they end; and their ends, ms, (sessions,)."""
    order = np.lexsort((events.times_ms, events.users))
    users, times_ms = events.users[order], events.times_ms[order]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = (np.diff(users) != 0) | (np.diff(times_ms) > 1000 * gap_s)
    by_time = np.argsort(times_ms, kind="stable")
    sessions = Sessions.of(np.cumsum(begins, dtype=np.int64)[by_time], events.items[order][by_time])
    return sessions, np.sort(times_ms[np.flatnonzero(np.append(begins[1:], True))])


def by_recall(sessions: Sessions, settings: SessionSettings) -> Judge:
    """The judge that looks for what came next in these sessions among the best 20 of all items."""

    prefixes = sessions.prefixes(settings.schedule.longest)

    def judge(learner: Learner) -> float:
        encoder = Encoder({0: 1.0}, head_weights=learner.head_weights())
        everything = np.ones(len(learner.table), np.bool_)
        return recall(Scorer(encoder, learner.table.numpy(), everything).ranks(prefixes), 20)

    return judge


def adopt(learner: Learner, item_ids: list[str], before: Model) -> None:
    """Begin where an earlier model is: its rows, for items it has, and its head weights."""
    dim, heads = before.input_embeddings.shape[1], len(before.head_weights)
    if (dim, heads) != (learner.recipe.dim, learner.recipe.heads):
        raise ValueError(
            f"the model before has dim = {dim} and {heads} head weights: "
            f"the recipe says {learner.recipe.dim} and {learner.recipe.heads}"
        )
    row_of = {item_id: row for row, item_id in enumerate(before.item_ids)}
    rows = np.array([row_of.get(item_id, -1) for item_id in item_ids], np.int64)
    known = np.flatnonzero(rows >= 0)
    learner.put(known, np.asarray(before.input_embeddings)[rows[known]], before.head_weights)


def last_users(learner: Learner, embeddings: F32, sessions: Sessions) -> F32:
    """Vectors of the newest sessions (sessions, dim), as serving encodes them."""
    newest = sessions.part(max(len(sessions) - SAMPLE_VECTORS, 0), len(sessions))
    owners = np.repeat(np.arange(len(newest)), np.diff(newest.starts))
    zeros = np.zeros(len(owners), np.int64)
    encoder = Encoder({0: 1.0}, head_weights=learner.head_weights())
    return encode(
        encoder, embeddings, len(newest), Events(owners, newest.rows, zeros.astype(np.uint8), zeros)
    ).vectors()


def _until_ms(before: Model) -> int:
    until = before.about.get("to_ms")
    if isinstance(until, int):
        return until
    raise ValueError(f'about["to_ms"] = {until} of the model before: it must say until when it has seen events')


def _about(
    events: SelectedEvents, sessions: Sessions, settings: SessionSettings, taught: Taught, olds: int
) -> dict[str, object]:
    return {
        "interactions": len(events.users),
        "users": len(events.user_ids),
        "items": len(events.item_ids),
        "from_ms": int(events.times_ms.min()),
        "to_ms": int(events.times_ms.max()),
        "sessions": {
            **{"sessions": len(sessions), "replayed": olds, "session_gap_s": settings.session_gap_s},
            **{"recipe": asdict(settings.recipe), "schedule": asdict(settings.schedule), "seed": settings.seed},
            **{"prefixes": taught.prefixes, "losses": list(taught.losses), "recall@20": list(taught.judgements)},
        },
    }
