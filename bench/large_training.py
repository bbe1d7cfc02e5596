"""Training on more events than memory holds: what it takes, beside what was predicted.

    python -m bench.large_training --folder /tmp/large --events 100000000

Writes a seeded archive below the folder, trains on it from disk in a process of its own, publishes the release (index
and all), and prints seconds of CPU, the largest memory that process ever held, and the estimate made before. What it
wrote is deleted at the end. It takes 60 bytes of disk an event.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from bench.archived_world import KIND, write_archive
from bench.report import closing, opening
from store.archive import archive_batches
from store.releases import Releases
from stream.events import item_key, kind_code
from training.gate import COLUMNS as GATE_COLUMNS
from training.interactions import Selection
from training.memory import MIB, needed
from training.peak_memory import peak_mib
from training.spectral import SpectralSettings
from training.streamed import asked_about, train_streamed
from training.survey import survey
from training.train import TrainSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where to write; what is made there is deleted")
    parser.add_argument("--events", type=int, default=100_000_000)
    parser.add_argument("--users", type=int, default=5_000_000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--power-iterations", type=int, default=1)
    parser.add_argument("--limit-mb", type=float, default=8192, help="the most that may be held")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    opening("bench.large_training", vars(chosen))
    folder = chosen.folder / f"large-training-{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        started = time.process_time()
        size = write_archive(folder / "archive", chosen.events, chosen.users, chosen.items, seed=chosen.seed)
        print(f"{size / 1e6:,.0f} MB of Parquet in {time.process_time() - started:.0f} s of CPU", flush=True)
        figures = in_own_process(folder, chosen)
    finally:
        shutil.rmtree(folder)
    closing(figures | {"parquet_mb": round(size / 1e6)})
    assert figures["peak_mb"] <= chosen.limit_mb, f"more than {chosen.limit_mb} MiB"


def in_own_process(folder: Path, chosen: argparse.Namespace) -> dict[str, float]:
    """The figures of a training that starts with no memory but its program's."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    training = context.Process(target=train, args=(folder, chosen, theirs))
    training.start()
    theirs.close()
    try:
        figures: dict[str, float] = ours.recv()
    except EOFError:
        raise SystemExit("the training ended without a word: killed for its memory?") from None
    finally:
        training.join()
    return figures


def train(folder: Path, chosen: argparse.Namespace, told: Connection) -> None:
    """Survey, train, publish, and read what the gate would ask about."""
    spectral = SpectralSettings(chosen.dim, power_iterations=chosen.power_iterations, seed=chosen.seed)
    settings = TrainSettings(Selection({KIND: 1.0}), spectral, grid=None)
    stages = Stages()

    batches = partial(archive_batches, folder / "archive", GATE_COLUMNS)
    found = survey(batches(), [KIND])
    estimate = needed(found, spectral)
    print(f"{found}; needed MiB: {estimate.in_memory / MIB:,.0f} in memory, {estimate.from_disk / MIB:,.0f} from disk")
    stages.end("survey")
    (folder / "shards").mkdir()
    model = train_streamed(batches, settings, found, folder / "shards", stages.progress)
    stages.end("train")
    releases = Releases(folder / "releases", item_key, {KIND: kind_code(KIND)})
    version = releases.publish(model, now_ms=0)
    stages.end("publish")
    asked = asked_about(batches, found, [KIND])
    stages.end("gate")
    told.send(
        {
            "events": found.events,
            "cells": model.about["interactions"],
            "users": model.about["users"],
            "items": len(model.item_ids),
            "index_recall": releases.info(version).index["recall20"],
            "asked": len(asked),
            "peak_mb": round(peak_mib()),
            "estimate_mb": round(estimate.from_disk / MIB),
            "in_memory_estimate_mb": round(estimate.in_memory / MIB),
            "cpu_s": round(time.process_time()),
        }
        | stages.seconds
    )


class Stages:
    """Says what every stage took, as it ends."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.process_time()

    def end(self, name: str) -> None:
        took = time.process_time() - self._began
        self._began += took
        self.seconds[f"{name}_s"] = round(took, 1)
        print(f"{name}: {took:,.0f} s of CPU, at most {peak_mib():,.0f} MiB so far", flush=True)

    def progress(self, what: str, done: int, total: int) -> None:
        print(f"  {what} {done}/{total}, {time.process_time() - self._began:,.0f} s, {peak_mib():,.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
