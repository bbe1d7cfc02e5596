"""Ours beside what a team would build otherwise: one machine, the same items, users and requests, in one run.

    python -m bench.peers --items 100000 --users 20000

`implicit` with users recalculated at each request, and Feast with faiss; each behind uvicorn with as many workers as
ours, its store a Valkey over TCP, and both ways: a call for each request, and one call for all requests that wait.
h2load asks: as fast as it is answered, then at a rate that all of them can hold. Then events are posted under
that rate, and timed until an answer changes. The peers come from the extra `peers`, in an environment that uv makes.

The peers write an event into their store within its request, which is the soonest there is; ours appends it to a log
first, which can be replayed, and a consumer applies it. The item factors of implicit are our output embeddings, so its
training is not part of this; Feast serves our model, from an index with inverted lists that passes the same gate.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench.peer_load import (
    K,
    Load,
    als_scores,
    background,
    closed_loop,
    freshness,
    led_scores,
    open_loop,
    rightness,
)
from bench.peer_processes import System, make_world, ours, peer, peers_python
from bench.peer_world import World, user_id
from bench.report import closing, opening, percentiles_ms

CHECKED_USERS = 200
BEST = {
    "answers_per_s": max,
    "failed": min,
    "p50_ms": min,
    "p99_ms": min,
    "cpu_us_per_answer": min,
    "fresh_p50_ms": min,
    "fresh_p99_ms": min,
    "bytes_per_user": min,
    "right": max,
}
WINS = {
    "ours": "events in a log that can be replayed, each applied once; releases swapped while it serves",
    "implicit": "exact search, nothing to build or tune; training, other models and explanations in one package; a GPU",
    "feast": "any feature of any entity, from any source; the same definitions for training and serving, right in time",
}
Figures = dict[str, float]


def main() -> None:
    chosen = _arguments()
    if shutil.which("h2load") is None:
        raise SystemExit("h2load is not on the PATH; on Debian and Ubuntu it comes with the package nghttp2-client")
    python = peers_python(chosen.python)
    opening("bench.peers", vars(chosen))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="ledstream-bench-")))
        made, world = make_world(chosen.items, chosen.dim, chosen.users, chosen.seed)
        systems = [stack.enter_context(ours(made, world, chosen.workers))]
        for name in ("implicit", "feast"):
            systems += stack.enter_context(peer(name, python, world, chosen.workers))
        figures, rate = _measured(systems, world, _uris(world, chosen.seed, folder / "uris"), chosen)
    _show(figures, rate)
    closing({"items": chosen.items, "users": chosen.users, "open_loop_per_s": rate, "systems": figures})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--for", dest="for_s", type=float, default=4.0, help="seconds of a run under load")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each system, in turn; the median is told")
    parser.add_argument("--probes", type=int, default=100, help="events timed until an answer changes")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--python", type=Path, help="interpreter with the extra `peers`; else uv makes one")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def _uris(world: World, seed: int, path: Path) -> Path:
    asked = np.random.default_rng(seed).integers(world.users, size=20_000)
    path.write_text("".join(f"/v1/recommendations?user={user_id(number)}&k={K}\n" for number in asked))
    return path


def _measured(
    systems: list[System], world: World, uris: Path, chosen: argparse.Namespace
) -> tuple[dict[str, Figures], float]:
    """Figures of each system, and the rate of the open loop: half of what the slowest one holds."""
    users = np.random.default_rng((chosen.seed, 1)).choice(world.users, CHECKED_USERS, replace=False).tolist()
    models = {"implicit": als_scores(world), "feast": led_scores(world), "ours": led_scores(world)}
    right = {system.label: rightness(system, world, users, models[system.name]) for system in systems}
    for system in systems:
        closed_loop(system, uris, 1)
    closed = _rounds(systems, lambda system: closed_loop(system, uris, chosen.for_s), chosen.rounds)
    rate = float(round(min(statistics.median(load.per_s for load in loads) for loads in closed.values()) / 2))
    opened = _rounds(systems, lambda system: open_loop(system, uris, chosen.for_s, rate), chosen.rounds)
    figures = {}
    for system in systems:
        with background(system, uris, rate):
            fresh = percentiles_ms(freshness(system, world, chosen.probes, np.random.default_rng(chosen.seed)))
        figures[system.label] = {
            **_figures(closed[system.label], opened[system.label]),
            "fresh_p50_ms": fresh["p50_ms"],
            "fresh_p99_ms": fresh["p99_ms"],
            "bytes_per_user": round(system.bytes_per_user),
            "right": round(right[system.label], 4),
        }
    return figures, rate


def _rounds(systems: list[System], run: Callable[[System], Load], rounds: int) -> dict[str, list[Load]]:
    """Runs of each system by its label, in turn, so that a disturbance of the machine meets all of them."""
    loads: dict[str, list[Load]] = {system.label: [] for system in systems}
    for _ in range(rounds):
        for system in systems:
            loads[system.label].append(run(system))
    for label, of_system in loads.items():
        told = [f"{load.per_s:,.0f}/s p99 {percentiles_ms(load.durations_s)['p99_ms']:g} ms" for load in of_system]
        print(f"{label}: {', '.join(told)}")
    load_1, load_5, _ = os.getloadavg()
    print(f"load of the machine: {load_1:.1f}, over five minutes {load_5:.1f}", flush=True)
    return loads


def _figures(closed: list[Load], opened: list[Load]) -> Figures:
    percentiles = [percentiles_ms(load.durations_s) for load in opened]
    return {
        "answers_per_s": round(statistics.median(load.per_s for load in closed)),
        "p50_ms": round(statistics.median(one["p50_ms"] for one in percentiles), 3),
        "p99_ms": round(statistics.median(one["p99_ms"] for one in percentiles), 3),
        "cpu_us_per_answer": round(statistics.median(load.cpu_us for load in closed), 1),
        "failed": sum(load.failed for load in (*closed, *opened)),
    }


def _show(figures: dict[str, Figures], rate: float) -> None:
    print(f"p50_ms and p99_ms: at {rate:g} requests/s to each; fresh: event posted to changed answer, at that rate too")
    print(f"{'':18}" + "".join(f"{name:>18}" for name in BEST))
    for label, of_system in figures.items():
        print(f"{label:18}" + "".join(f"{of_system[name]:>18,}" for name in BEST))
    for name, best in BEST.items():
        value = best(of_system[name] for of_system in figures.values())
        print(f"best {name}: {' and '.join(label for label, one in figures.items() if one[name] == value)}")
    for name, wins in WINS.items():
        print(f"{name} besides: {wins}")


if __name__ == "__main__":
    main()
