"""What head weights cost a request: records to vectors, in batches as requests come, with and without them.

    python -m bench.recency --items 100000 --dim 64

CPU time of `store.profiles.profiles` a user; medians over rounds in which all kinds of release take turns, so that
ratios hold on a busy machine. One set of tables serves all of them: only their encoders differ.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench.report import closing, opening
from bench.world import histories, item_id, model
from store.profiles import profiles
from store.releases import Release
from store.user_record import encode_record
from stream.events import Event
from tests.worlds import NOW_MS, records, releases

EVENTS, USERS, ROUNDS = 50, 1000, 15
BATCHES = (1, 8, 32, 128)
KINDS = {
    "no head weights": (None, ()),
    "two": (None, (3.9, 2.7)),
    "eight": (None, (3.9, 2.7, 1.5, 1.4, 1.3, 1.2, 1.1, 1.05)),
    "two, half-life": (3600.0, (3.9, 2.7)),
}


def stored(release: Release, items: int, seed: int) -> list[bytes]:
    """Records of users with EVENTS events at most, as a consumer on the release makes them."""
    rng, timelines = np.random.default_rng(seed), {}
    for number, rows in enumerate(histories(USERS, items, EVENTS, seed)):
        times = NOW_MS + np.cumsum(rng.integers(1000, 600_000, len(rows)))
        seen = zip(rows.tolist(), times.tolist(), strict=True)
        timelines[f"user-{number}"] = [Event(f"user-{number}", item_id(row), "view", at) for row, at in seen]
    return [encode_record(record) for record in records(timelines, release).values()]


def cost_us(release: Release, found: Sequence[bytes], batch: int) -> float:
    """CPU microseconds a user."""
    parts = [found[start : start + batch] for start in range(0, len(found) - batch + 1, batch)]
    started = time.process_time_ns()
    for part in parts:
        profiles(part, release)
    return (time.process_time_ns() - started) / 1000 / (batch * len(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    opening("recency", vars(chosen))
    with TemporaryDirectory() as folder:
        there = releases(Path(folder))
        version = there.publish(model(chosen.items, chosen.dim, chosen.seed), now_ms=NOW_MS)
        world = {}
        for name, (half_life_s, head_weights) in KINDS.items():
            release = there.load(version, with_index=False)
            release.encoder = replace(release.encoder, half_life_s=half_life_s, head_weights=head_weights)
            world[name] = (release, stored(release, chosen.items, chosen.seed))
        print("| users a batch |" + "".join(f" {name} |" for name in KINDS) + "\n|" + " --- |" * (1 + len(KINDS)))
        figures: dict[str, list[float]] = {}
        for batch in BATCHES:
            rounds = [[cost_us(*of_kind, batch) for of_kind in world.values()] for _ in range(ROUNDS)]
            figures[str(batch)] = np.round(np.median(rounds, axis=0), 2).tolist()
            print(f"| {batch} | " + " | ".join(f"{cost:.1f}" for cost in figures[str(batch)]) + " |", flush=True)
    closing({"us_a_user": figures})


if __name__ == "__main__":
    main()
