"""What a release costs before it goes live: loading it with its checks, and the gate with a champion beside it.

    python -m bench.gate                         # 100k items
    python -m bench.gate --items 1000000

The champion is a copy of the release, an hour older. The last hour's events are those of users of the world's tastes.
CPU seconds are of this process, all its threads together.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from bench.report import closing, opening
from bench.world import histories, item_id, model
from led.encoder import I64
from store import soundness
from store.archive import SCHEMA
from store.item_index import use_threads
from store.releases import Releases
from stream.events import item_key, kind_code
from training.gate import Archived, GateSettings, examine
from training.survey import HOUR_MS

KINDS = {kind: kind_code(kind) for kind in ("view", "click", "sale")}
NOW_MS = 1_790_000_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=7)
    chosen = parser.parse_args()
    opening("bench.gate", vars(chosen))
    use_threads(1)
    with TemporaryDirectory(prefix="ledstream-bench-") as folder:
        figures = measure(Path(folder), chosen)
    closing(figures)


def measure(folder: Path, chosen: argparse.Namespace) -> dict[str, object]:
    releases = Releases(folder, item_key, KINDS)
    version = releases.publish(model(chosen.items, chosen.dim, chosen.seed), now_ms=NOW_MS)
    champion = copied(folder, version)
    events = last_hour_of(chosen.users, chosen.items, chosen.seed)
    settings = GateSettings(chosen.dim)
    loading = [timed(lambda: Releases(folder, item_key, KINDS).load(version)) for _ in range(3)]
    release = releases.load(version)
    checking = [
        timed(lambda: list(soundness.checks(release, item_key, soundness.read_probe(folder / version), every_id=False)))
        for _ in range(3)
    ]
    gate = timed(lambda: examine(releases, version, champion, Archived(events), settings, now_ms=NOW_MS))
    report = releases.reports.read(version)
    assert report is not None
    for line in report.lines():
        print(line)
    return {
        "items": chosen.items,
        "events": len(events),
        "load_s": min(loading),
        "checks_of_load_s": min(checking),
        "gate_s": gate,
        "passed": report.passed,
    }


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of CPU."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return round(time.perf_counter() - clock, 3), round(time.process_time() - cpu, 3)


def copied(folder: Path, version: str) -> str:
    """The same release under an older version."""
    older = f"{version}-older"
    shutil.copytree(folder / version, folder / older)
    description = json.loads((folder / older / "release.json").read_text())
    description |= {"version": older, "created_ms": NOW_MS - HOUR_MS}
    (folder / older / "release.json").write_text(json.dumps(description))
    return older


def last_hour_of(users: int, items: int, seed: int) -> pa.Table:
    """All users' histories of up to fifty events, spread over an hour, as `read_archive` gives them."""
    rows = list(histories(users, items, 50, seed))
    what: I64 = np.concatenate(rows)
    who = np.repeat(np.arange(users), [len(of_user) for of_user in rows])
    times_ms = NOW_MS - np.sort(np.random.default_rng(seed).integers(HOUR_MS, size=len(what)))[::-1]
    columns: dict[str, Any] = {
        "partition": who % 4,
        "offset": np.arange(len(what)),
        "appended_ms": times_ms,
        "user_id": [f"user-{user}" for user in who],
        "item_id": [item_id(int(row)) for row in what],
        "kind": ["view"] * len(what),
        "time_ms": times_ms,
    }
    nothing = [None] * len(what)
    return pa.table({name: pa.array(columns.get(name, nothing), SCHEMA.field(name).type) for name in SCHEMA.names})


if __name__ == "__main__":
    main()
