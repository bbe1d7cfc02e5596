"""A small seeded world with a visible answer: items of two tastes, and models that know them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from consumers.arrivals import Arrivals
from consumers.fold import fold_batch
from store.releases import Model, Release, Releases
from store.stored import Stored
from store.user_record import UserRecord, decode_record, source_of
from stream.decoding import Decoder
from stream.events import Event, encode_event, item_key, kind_code
from stream.log import Batch, Record

KINDS = ("view", "click", "sale")
NOW_MS = 1_790_000_000_000
TASTES = ("hat", "belt")


def item_ids(per_taste: int = 30) -> list[str]:
    """hat-00, hat-01, …, belt-00, …"""
    return [f"{taste}-{number:02}" for taste in TASTES for number in range(per_taste)]


def two_tastes(seed: int = 0, *, per_taste: int = 30, dim: int = 8, half_life_s: float | None = None) -> Model:
    """Hats near one axis, belts near another. Another seed gives another rotation, lengths and biases altogether."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.normal(size=(dim, dim)))[0][:2]
    n = 2 * per_taste
    embeddings = np.repeat(centres, per_taste, axis=0) + rng.normal(0, 0.15, (n, dim))
    return Model(
        item_ids=item_ids(per_taste),
        input_embeddings=embeddings.astype(np.float32),
        output_embeddings=(embeddings * rng.uniform(0.8, 1.2, (n, 1)) * (1 + seed)).astype(np.float32),
        biases=rng.normal(0, 0.05, n).astype(np.float32),
        popularity=rng.permutation(np.arange(1, n + 1)).astype(np.float32),
        kind_weights={"view": 1.0, "click": 2.0, "sale": 3.0},
        half_life_s=half_life_s,
        about={"seed": seed},
    )


def releases(folder: Path) -> Releases:
    return Releases(folder, item_key, {kind: kind_code(kind) for kind in KINDS})


def viewed(user: str, *items: str, at_ms: int = NOW_MS) -> list[Event]:
    """One view a second, the last one at at_ms."""
    return [
        Event(user, item, "view", at_ms - 1000 * (len(items) - 1 - place), f"{user}-{place}-{at_ms}")
        for place, item in enumerate(items)
    ]


def records(
    events: Mapping[str, Sequence[Event]], release: Release | None, *, first_offset: int = 0
) -> dict[str, UserRecord]:
    """What a consumer on that release makes of users' events, each user's counted from first_offset."""
    made = {}
    for user, of_user in events.items():
        log = [Record(first_offset + n, NOW_MS, b"", encode_event(event)) for n, event in enumerate(of_user)]
        columns, refused = Decoder().decode(Batch.of(0, log))
        assert not refused
        stored = Stored.of([b""])
        _, (data,), _ = fold_batch(Arrivals.of(columns), stored, source_of(1, 0), release, 50)
        made[user] = decode_record(data)
    return made


def expected_scores(release: Release, items: Sequence[str], answered: Sequence[str]) -> list[float]:
    """Scores of the answered items for a user who viewed these items: the sum written out, in float64."""
    known = [row for row in (row_of(release, item) for item in items) if row >= 0]
    vector = np.mean([np.asarray(release.input_embeddings[row], np.float64) for row in known], axis=0)
    rows = [row_of(release, item) for item in answered]
    return [float(release.output_embeddings[row].astype(np.float64) @ vector + release.biases[row]) for row in rows]


def row_of(release: Release, item: str) -> int:
    return int(release.rows(np.array([item_key(item)], np.uint64))[0])
