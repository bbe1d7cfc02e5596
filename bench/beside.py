"""What serving loses while a training runs beside it on the same cores, and what the training loses by giving way.

    python -m bench.beside                                   # at the niceness that is the default
    python -m bench.beside --nice 0 10 19                    # by niceness

In every round the server is asked alone, and beside trainings of each niceness in turn: as fast as it answers, and at
a rate. Trainings are `ledstream train` on an archive of their own, again and again while requests come; what they
publish is not served. Ratios are of figures of one round, so that what else the machine does meets both; their medians
are told.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple

from bench.archived_world import KIND, write_archive
from bench.load import at_rate, closed_loop, need
from bench.report import closing, opening
from bench.server import cpu_seconds, serving
from bench.serving import prepare, request_uris
from bench.world import servers
from ledstream.own_system import free_port
from ledstream.settings import PREFIX, Settings, read_settings

WARM_UP_S = 3.0  # imports are over, and the training works
ALONE = "alone"


class Figures(NamedTuple):
    """Of one part of a round. train_cpu_s: what trainings got of the processor, a second."""

    answers_per_s: float
    p50_ms: float
    p99_ms: float
    failed: int
    train_cpu_s: float


def main() -> None:
    chosen = _arguments()
    need("h2load")
    opening("bench.beside", vars(chosen))
    with servers(kafka=False) as (log_address, store_address, folder):
        flags = {"log": log_address, "store": store_address, "data_dir": folder, "timeline_events": 100}
        settings = read_settings(
            {}, flags | {"port": free_port("127.0.0.1", 0), "workers": chosen.workers, "pin_workers": chosen.pin}
        )
        _, users = prepare(settings, chosen)
        uris = request_uris(settings, users, chosen.seed, folder / "uris")
        trained = _trained_settings(settings, chosen)
        with serving(settings) as pid:
            closed_loop(pid, uris, connections=chosen.connections, requests=5000)
            rounds = [_round(pid, uris, trained, chosen, number) for number in range(chosen.rounds)]
    closing(_ratios(rounds))


def _round(pid: int, uris: Path, trained: Settings, chosen: argparse.Namespace, number: int) -> dict[str, Figures]:
    """Alone and beside a training of each niceness, in an order drawn anew."""
    order = [ALONE, *map(str, chosen.nice)]
    Random(chosen.seed + number).shuffle(order)
    found = {}
    for name in order:
        if name == ALONE:
            found[name] = _measured(pid, uris, chosen, None)
        else:
            with training(trained.model_copy(update={"train_nice": int(name)})) as trainings:
                found[name] = _measured(pid, uris, chosen, trainings)
        print(f"round {number}, {name if name == ALONE else 'nice ' + name}: {found[name]}", flush=True)
    return found


def _measured(pid: int, uris: Path, chosen: argparse.Namespace, trainings: Trainings | None) -> Figures:
    started, before_s = time.monotonic(), trainings.cpu_s() if trainings else 0.0
    most = closed_loop(pid, uris, connections=chosen.connections, requests=chosen.requests)
    steady = at_rate(pid, uris, per_s=chosen.rate, seconds=chosen.rate_s, connections=chosen.rate_connections)
    spent_s = trainings.cpu_s() - before_s if trainings else 0.0
    failed = sum(sum(run.statuses.values()) - run.good + run.unanswered for run in (most, steady))
    percentiles = steady.percentiles
    trained_s = round(spent_s / (time.monotonic() - started), 3)
    return Figures(round(most.good_per_s), percentiles["p50_ms"], percentiles["p99_ms"], failed, trained_s)


class Trainings:
    """`ledstream train` again and again, from `start` until `stop`."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._stop = settings, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ended_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when the first one works."""
        self._thread.start()
        time.sleep(WARM_UP_S)

    def stop(self) -> None:
        """Ends the one that runs. Raises RuntimeError where one failed by itself."""
        failed = not self._thread.is_alive()
        self._stop.set()
        if self._process is not None:
            self._process.terminate()
        self._thread.join()
        if failed:
            raise RuntimeError(f"a training ended; see {self._log}")

    def cpu_s(self) -> float:
        """Seconds of CPU of all trainings so far, but for the last moments of each."""
        process = self._process
        return self._ended_s + (cpu_seconds(process.pid) if process is not None else 0.0)

    @property
    def _log(self) -> Path:
        return self._settings.data_dir / "train.log"

    def _run(self) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        command = [sys.executable, "-m", "ledstream", "train"]
        with self._log.open("ab") as out:
            while not self._stop.is_set():
                self._process = subprocess.Popen(
                    command, env=environ | self._settings.as_environ(), stdout=out, stderr=out, start_new_session=True
                )
                while self._process.poll() is None:
                    last_s = cpu_seconds(self._process.pid)
                    time.sleep(0.05)
                self._ended_s += last_s
                if self._process.returncode and not self._stop.is_set():
                    return


@contextmanager
def training(settings: Settings) -> Iterator[Trainings]:
    """Trainings of these settings at work, until this is left."""
    trainings = Trainings(settings)
    trainings.start()
    try:
        yield trainings
    finally:
        trainings.stop()


def _trained_settings(settings: Settings, chosen: argparse.Namespace) -> Settings:
    """An archive, and what trains on it: nothing of it is served."""
    folder = settings.data_dir / "trained"
    write_archive(folder / "archive", chosen.events, chosen.event_users, chosen.items, seed=chosen.seed)
    changes = {"namespace": "beside", "data_dir": folder, "dim": chosen.dim, "kinds": {KIND: 1.0}, "train_days": 3000}
    return settings.model_copy(update=changes)


def _ratios(rounds: list[dict[str, Figures]]) -> dict[str, object]:
    """Medians of the rounds: of figures alone, and of ratios to them for each niceness."""
    told: dict[str, object] = {"rounds": len(rounds)}
    for name in ("answers_per_s", "p50_ms", "p99_ms"):
        told[f"{name}_{ALONE}"] = round(statistics.median(getattr(one[ALONE], name) for one in rounds), 3)
    for nice in sorted(rounds[0].keys() - {ALONE}, key=int):
        for name in ("answers_per_s", "p50_ms", "p99_ms"):
            ratios = [getattr(one[nice], name) / getattr(one[ALONE], name) for one in rounds]
            told[f"{name}_ratio_nice{nice}"] = round(statistics.median(ratios), 3)
        told[f"train_cpu_nice{nice}"] = round(statistics.median(one[nice].train_cpu_s for one in rounds), 3)
    return told | {"failed": sum(figures.failed for one in rounds for figures in one.values())}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nice", type=int, nargs="+", default=[Settings.model_fields["train_nice"].get_default()])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--users", type=int, default=200_000, help="in the store")
    parser.add_argument("--events", type=int, default=3_000_000, help="trained on")
    parser.add_argument("--event-users", type=int, default=200_000, help="trained on")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--requests", type=int, default=30_000, help="as fast as they are answered, in each part")
    parser.add_argument("--rate", type=int, default=1500, help="requests a second of the open loop")
    parser.add_argument("--rate-s", type=float, default=10)
    parser.add_argument("--rate-connections", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pin", action=argparse.BooleanOptionalAction, default=True, help="each worker to a core")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
