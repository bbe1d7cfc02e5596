"""A seeded world small enough to be trained in a moment: readers of a few tastes, an archive of hours, releases."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from store.archive import SCHEMA
from store.gate_reports import GateReport
from store.releases import Model, Releases
from stream.events import item_key, kind_code
from training.gate import Archived, GateSettings, examine
from training.interactions import Selection
from training.spectral import SpectralSettings
from training.survey import HOUR_MS
from training.train import TrainSettings, train

KINDS = {"view": 1.0, "sale": 3.0}
NOW_MS = 1_790_000_000_000
TASTES, PER_TASTE, READERS, EVENTS, HOURS, DIM = 20, 20, 400, 9000, 4, 16
SETTINGS = GateSettings(dim=DIM)


def archive(seed: int) -> pa.Table:
    """Events of readers who mostly keep to one taste; some items are far more popular. As `read_archive` gives them."""
    rng = np.random.default_rng(seed)
    readers = rng.integers(READERS, size=EVENTS)
    own = (TASTES * rng.random(READERS) ** 2).astype(np.int64)[readers]
    tastes = np.where(rng.random(EVENTS) < 0.6, own, (TASTES * rng.random(EVENTS) ** 2).astype(np.int64))
    items = tastes * PER_TASTE + (PER_TASTE * rng.random(EVENTS) ** 3).astype(np.int64)
    times_ms = NOW_MS - np.linspace(HOURS * HOUR_MS, 0, EVENTS).astype(np.int64)
    columns: dict[str, Any] = {
        "partition": readers % 4,
        "offset": np.arange(EVENTS),
        "appended_ms": times_ms,
        "user_id": [f"reader-{reader}" for reader in readers],
        "item_id": [f"item-{item}" for item in items],
        "kind": np.where(rng.random(EVENTS) < 0.9, "view", "sale"),
        "time_ms": times_ms,
        "event_id": [None] * EVENTS,
        "value": [None] * EVENTS,
        "context": [None] * EVENTS,
    }
    return pa.table({name: pa.array(columns[name], SCHEMA.field(name).type) for name in SCHEMA.names})


def model_of(events: pa.Table, *, dim: int = DIM, bias: float = 0.0) -> Model:
    """What training makes of these events."""
    spectral = SpectralSettings(dim=dim)
    return train(events, TrainSettings(Selection(KINDS), spectral, bias=bias, grid=None))


def before_the_last_hour(events: pa.Table) -> pa.Table:
    times_ms = events["time_ms"].to_numpy()
    return events.filter(pa.array(times_ms <= times_ms.max() - HOUR_MS))


class GatedWorld:
    """A folder of releases whose champion was trained an hour before the archive ends."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.events, self._numbers = folder, archive(seed), count()
        self.releases = Releases(folder, item_key, {kind: kind_code(kind) for kind in KINDS})
        self.champion = self.releases.publish(model_of(before_the_last_hour(self.events)), now_ms=NOW_MS - HOUR_MS)

    @cached_property
    def honest(self) -> str:
        """A release as training makes it now."""
        return self.publish(model_of(self.events))

    def publish(self, model: Model, now_ms: int = NOW_MS) -> str:
        return self.releases.publish(model, now_ms=now_ms)

    def poisoned(self, poison: Callable[[Path], object], *, right_checksums: bool = True) -> str:
        """A copy of the honest release with something wrong in it, described as if it had been meant."""
        version = f"{self.honest}-poisoned-{next(self._numbers)}"
        folder = self.folder / version
        shutil.copytree(self.folder / self.honest, folder)
        poison(folder)
        files = {p.name: [_sha256(p), p.stat().st_size] for p in folder.iterdir() if p.name != "release.json"}
        described(folder, lambda d: d.update(version=version, **({"files": files} if right_checksums else {})))
        return version

    def examine(self, version: str, *, champion: str | None = "the champion") -> GateReport:
        """What the gate says of it; `the champion` is the world's own."""
        champion = self.champion if champion == "the champion" else champion
        return examine(self.releases, version, champion, Archived(self.events), SETTINGS, now_ms=NOW_MS)


def described(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Alter the description."""
    description = json.loads((folder / "release.json").read_text())
    change(description)
    (folder / "release.json").write_text(json.dumps(description))


def rewritten(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """A poison: that array of the folder, changed."""

    def poison(folder: Path) -> None:
        array = np.load(folder / f"{name}.npy")
        np.save(folder / f"{name}.npy", change(array))

    return poison


def swapped(model: Model) -> Model:
    """Input and output embeddings in each other's place."""
    return replace(model, input_embeddings=model.output_embeddings, output_embeddings=model.input_embeddings)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
