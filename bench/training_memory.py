"""What trainings take of memory, beside what was foretold: some sizes, in memory and from disk, a process each.

    python -m bench.training_memory

The peak is of the whole training, the questions of the gate and the building of the index included.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from functools import partial
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from bench.archived_world import KIND, write_archive
from bench.report import closing, opening
from store.archive import archive_batches
from store.releases import Releases
from stream.events import item_key, kind_code
from training.gate import COLUMNS, GateSettings, examine
from training.interactions import Selection
from training.learning import learn_from_disk, learn_in_memory
from training.memory import MIB, needed
from training.peak_memory import peak_mib
from training.progress import silent
from training.spectral import SpectralSettings
from training.survey import survey
from training.train import TrainSettings

WAYS = ("in_memory", "from_disk")


class Size(NamedTuple):
    """Of an archive, and of the embeddings trained on it."""

    events: int
    users: int
    items: int
    dim: int


SIZES = (
    Size(200_000, 20_000, 5_000, 64),
    Size(1_000_000, 50_000, 10_000, 64),
    Size(1_000_000, 300_000, 10_000, 32),
    Size(1_000_000, 50_000, 100_000, 64),
    Size(4_000_000, 300_000, 30_000, 64),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=range(len(SIZES)), help="which of the sizes, by number")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    chosen = parser.parse_args()
    opening("bench.training_memory", vars(chosen))
    ratios = []
    for number, way in product(chosen.sizes, chosen.ways):
        peak, estimate, cpu_s = measured(SIZES[number], way)
        ratios.append(estimate / peak)
        told = f"peak {peak:,.0f} MiB, foretold {estimate:,.0f} ({ratios[-1]:.2f})"
        print(f"{SIZES[number]} {way}: {told}, {cpu_s:.0f} s of CPU", flush=True)
    closing({"lowest": round(min(ratios), 3), "highest": round(max(ratios), 3)})


def measured(size: Size, way: str) -> tuple[float, float, float]:
    """Peak and estimate in MiB, and seconds of CPU, of a training in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    with TemporaryDirectory(prefix="training-memory-") as folder:
        write_archive(Path(folder) / "archive", size.events, size.users, size.items)
        training = context.Process(target=_train, args=(Path(folder), size, way, theirs))
        training.start()
        theirs.close()
        try:
            figures: tuple[float, float, float] = ours.recv()
        finally:
            training.join()
    return figures


def _train(folder: Path, size: Size, way: str, told: Connection) -> None:
    spectral = SpectralSettings(size.dim, power_iterations=1)
    settings = TrainSettings(Selection({KIND: 1.0}), spectral, grid=None)
    batches = partial(archive_batches, folder / "archive", COLUMNS)
    found = survey(batches(), [KIND])
    estimate = needed(found, spectral)
    if way == "in_memory":
        model, archived = learn_in_memory(batches, settings, found, silent)
    else:
        (folder / "shards").mkdir()
        model, archived = learn_from_disk(batches, settings, found, silent, folder=folder / "shards")
    releases = Releases(folder / "releases", item_key, {KIND: kind_code(KIND)})
    version = releases.publish(model, now_ms=0)
    examine(releases, version, None, archived, GateSettings(size.dim), now_ms=0)
    told.send((peak_mib(), getattr(estimate, way) / MIB, time.process_time()))


if __name__ == "__main__":
    main()
