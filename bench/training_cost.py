"""What training costs as users, their events and the negatives become more: LED keeps nothing for a user.

    python -m bench.training_cost                          # prints, and draws docs/img/training_cost.png
    python -m bench.training_cost --users 10000 100000 --picture /tmp/cost.png

Users of T events each, on items drawn by Zipf's law. Seconds are of CPU, in one thread: of a whole epoch of fine-tuning
(BPR, N negatives, drawing of targets, masks and negatives with it), and of the closed form's SVD with what goes before
and after it. Every figure is of one run; the machine's caches and neighbours are in it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch

from bench.report import closing, opening
from led.encoder import I64
from training.finetune.run import Run
from training.finetune.settings import FinetuneSettings
from training.finetune.start import Start
from training.finetune.timelines import Timelines
from training.spectral import SpectralSettings, spectral_embeddings

LENGTHS = (5, 10, 20, 40, 80)
NEGATIVES = (10, 30, 100, 200)  # under items / 34: beyond, all items are scored at once, whatever N
FEW_USERS = 5000
PICTURE = Path(__file__).parents[1] / "docs" / "img" / "training_cost.png"


@dataclass(frozen=True)
class Cost:
    """Of users x length events. parameters: what an epoch trains; seconds, for each event and in the closed form."""

    users: int
    length: int
    negatives: int
    parameters: int
    epoch_s: float
    closed_s: float

    @property
    def events(self) -> int:
        return self.users * self.length


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[10_000, 30_000, 100_000, 300_000, 1_000_000])
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--picture", type=Path, default=Path(__file__).parents[1] / "docs" / "img" / "training_cost.png"
    )
    chosen = parser.parse_args()
    opening("bench.training_cost", vars(chosen))
    torch.set_num_threads(1)
    cost(World(1000, LENGTHS[0], chosen.items, chosen.seed), NEGATIVES[0], chosen.dim)  # what is loaded at first use

    def costs(worlds: Sequence[tuple[int, int, int]]) -> list[Cost]:
        return [cost(World(u, t, chosen.items, chosen.seed), n, chosen.dim) for u, t, n in worlds]

    by_users = costs([(users, LENGTHS[0], NEGATIVES[0]) for users in chosen.users])
    by_length = costs([(FEW_USERS, length, NEGATIVES[1]) for length in LENGTHS])
    by_negatives = costs([(FEW_USERS, LENGTHS[2], negatives) for negatives in NEGATIVES])
    for found in (*by_users, *by_length, *by_negatives):
        print_line(found)
    chosen.picture.parent.mkdir(parents=True, exist_ok=True)
    draw(chosen.picture, by_users, by_length, by_negatives)
    spread = [found.epoch_s / found.events for found in by_users]
    closing({"us_an_event": [round(1e6 * value, 2) for value in spread], "most_over_least": max(spread) / min(spread)})


@dataclass(frozen=True)
class World:
    users: int
    length: int
    items: int
    seed: int

    def rows(self) -> I64:
        """Item rows of all events, (users * length,)."""
        rng = np.random.default_rng(self.seed)
        shares = np.cumsum(1.0 / np.arange(1, self.items + 1))
        found: I64 = np.searchsorted(shares, rng.random(self.users * self.length) * shares[-1]).astype(np.int64)
        return found


def cost(world: World, negatives: int, dim: int) -> Cost:
    rows = world.rows()
    ends = np.arange(world.users + 1) * world.length
    ones, zeros = np.ones(len(rows), np.bool_), np.zeros(len(rows), np.int64)
    timelines = Timelines(ends, rows, zeros, np.arange(len(rows)), ones, world.items)
    table = np.random.default_rng(world.seed).normal(scale=0.1, size=(world.items, dim)).astype(np.float32)
    settings = FinetuneSettings(negatives=negatives, threads=1)
    run = Run(timelines, None, Start(table, table, np.zeros(world.items, np.float32)), settings)
    epoch_s = seconds(run.next_epoch)
    matrix = sp.csr_array((ones.astype(np.float32), rows, ends), shape=(world.users, world.items))
    matrix.sum_duplicates()
    closed_s = seconds(lambda: spectral_embeddings(matrix, SpectralSettings(dim, oversample=16)))
    trained = sum(values.numel() for values in run.network.parameters() if values.requires_grad)
    return Cost(world.users, world.length, negatives, trained, epoch_s, closed_s)


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def print_line(found: Cost) -> None:
    made = f"{found.users:>9,} users, T = {found.length:>2}, N = {found.negatives:>3}: {found.parameters:,} parameters"
    each, closed = (1e6 * value / found.events for value in (found.epoch_s, found.closed_s))
    per_user = 1e6 * found.epoch_s / found.users
    print(
        f"{made}, {each:6.2f} us an event, {per_user:8.1f} us a user; closed form {closed:6.2f} us an event", flush=True
    )


def draw(path: Path, by_users: Sequence[Cost], by_length: Sequence[Cost], by_negatives: Sequence[Cost]) -> None:
    """Three pictures side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    users, length, negatives = figure.subplots(1, 3)
    people = [found.users for found in by_users]
    users.plot(people, [1e6 * found.epoch_s / found.events for found in by_users], marker="o", label="an epoch")
    users.plot(people, [1e6 * found.closed_s / found.events for found in by_users], marker="s", label="the closed form")
    users.set(title="µs of CPU an event", xlabel=f"users, T = {LENGTHS[0]}", xscale="log", ylim=(0, None))
    users.legend()
    for place, costs, xs, name in (
        (length, by_length, [found.length for found in by_length], "T, events of a user"),
        (negatives, by_negatives, [found.negatives for found in by_negatives], "N, negatives of a user"),
    ):
        place.plot(xs, [1e6 * found.epoch_s / found.users for found in costs], marker="o")
        place.set(title="µs of CPU a user and epoch", xlabel=name, xlim=(0, None), ylim=(0, None))
    for place in (users, length, negatives):
        place.grid(alpha=0.3)
    figure.savefig(path, format="png", metadata={"Software": None})


if __name__ == "__main__":
    main()
