"""Small releases and user records for tests: a few items, a few dimensions, everything visible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from led.encoder import F32, NEVER_MS
from store.releases import Model, Release, Releases
from store.user_record import NO_RELEASE, TIMELINE, Applied, Timeline, UserRecord, encode_record, source_of
from store.user_state import UserStates
from stream.events import event_key, item_key, kind_code

NOW = 1_700_000_000_000
KINDS = {"view": 1.0, "click": 2.0, "sale": 5.0, "hover": 0.0}
LOG = 0xFEDCBA9876543210


def items(how_many: int) -> list[str]:
    return [f"item-{n}" for n in range(how_many)]


def model(
    ids: Sequence[str],
    *,
    seed: int = 1,
    dim: int = 4,
    lengths: F32 | None = None,
    kind_weights: Mapping[str, float] = KINDS,
    half_life_s: float | None = None,
    head_weights: tuple[float, ...] = (),
) -> Model:
    """Random embeddings, rows scaled by lengths; popularity falls with the place in ids."""
    rng = np.random.default_rng(seed)
    n = len(ids)
    scale = np.ones(n, np.float32) if lengths is None else lengths
    return Model(
        item_ids=ids,
        input_embeddings=rng.standard_normal((n, dim), dtype=np.float32) * scale[:, None],
        output_embeddings=rng.standard_normal((n, dim), dtype=np.float32) * scale[:, None],
        biases=rng.standard_normal(n, dtype=np.float32),
        popularity=np.arange(n, 0, -1, dtype=np.float32),
        kind_weights=kind_weights,
        half_life_s=half_life_s,
        about={"seed": seed},
        head_weights=head_weights,
    )


def releases_in(folder: Path) -> Releases:
    return Releases(folder, item_key, {name: kind_code(name) for name in (*KINDS, "gift")})


def published(folder: Path, made: Model, *, now_ms: int = NOW) -> Release:
    """The model, published and loaded again."""
    releases = releases_in(folder)
    return releases.load(releases.publish(made, now_ms=now_ms))


def timeline(*events: tuple[str, int] | tuple[str, int, str]) -> Timeline:
    """Views of (item, time) or (item, time, event id), oldest first."""
    rows = [
        (item_key(event[0]), event[1], event_key(event[2] if len(event) > 2 else None), kind_code("view"))
        for event in events
    ]
    return np.array(rows, TIMELINE)


def record(
    *events: tuple[str, int] | tuple[str, int, str], offset: int, partition: int = 0, log: int = LOG
) -> UserRecord:
    """A record without a vector, up to an offset."""
    entries = timeline(*events)
    position = Applied(source_of(log, partition), offset)
    return UserRecord(position, entries, len(entries), NO_RELEASE, np.empty(0, np.float32), 0.0, NEVER_MS)


def same(one: UserRecord, other: UserRecord) -> bool:
    """Whether two records are the same to the last bit."""
    return (
        (one.position, one.applied, one.release, one.at_ms, one.earlier, one.struck)
        == (other.position, other.applied, other.release, other.at_ms, other.earlier, other.struck)
        and np.array([one.weight, one.mass]).tobytes() == np.array([other.weight, other.mass]).tobytes()
        and one.total.tobytes() == other.total.tobytes()
        and one.timeline.tobytes() == other.timeline.tobytes()
    )


def lengths(users: Sequence[bytes]) -> list[int]:
    """Hash tags that a test can foresee."""
    return list(map(len, users))


def put(states: UserStates, records: Mapping[str, UserRecord]) -> None:
    """Store the records, whatever was there."""
    keys = states.keys(list(records))
    old, _ = states.read_bytes(keys, 0)
    assert states.replace(keys, old, [encode_record(one) for one in records.values()]) == []
