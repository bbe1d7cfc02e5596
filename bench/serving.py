"""Recommendations per second of one `ledstream serve`, and their latency, in a closed loop over HTTP keep-alive.

    python -m bench.serving --items 100000 --users 200000

Users of 1 to 100 events are in the store; each request asks for 20 items of a user drawn at random, seen items left
out. The load comes from h2load, which costs little beside the server; it runs on the same machine.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from bench.report import closing, opening, percentiles_ms
from bench.server import cpu_seconds, serving
from bench.world import fill, histories, item_keys, model, servers, timeline_of
from led.ranking import with_bias, with_one
from ledstream import parts
from ledstream.own_system import free_port
from ledstream.settings import Settings, read_settings
from store.item_index import least_scores, measure_recall, use_threads
from store.releases import Release
from store.stored import Stored
from stream.announcements import announce
from stream.topics import EVENTS

K = 20
USERS_AT_ONCE = 4000
MEASURED_USERS = 2000
SEARCHED_TOGETHER = 32


@dataclass(frozen=True)
class Load:
    """One run of h2load: answers, how long it took, the server's CPU, and each request's duration."""

    seconds: float
    cpu_s: float
    durations_s: list[float]
    failed: int

    @property
    def per_s(self) -> float:
        return len(self.durations_s) / self.seconds


def main() -> None:
    chosen = _arguments()
    if shutil.which("h2load") is None:
        raise SystemExit("h2load is not on the PATH; on Debian and Ubuntu it comes with the package nghttp2-client")
    opening("bench.serving", vars(chosen))
    with servers(kafka=False) as (log_address, store_address, folder):
        flags = {"log": log_address, "store": store_address, "data_dir": folder, "timeline_events": 100}
        settings = read_settings({}, flags | {"port": free_port("127.0.0.1", 0), "workers": chosen.workers})
        release, users = _prepare(settings, chosen)
        recall, search_us = _index_alone(settings, release, users[:MEASURED_USERS])
        uris = _uris(settings, users, chosen.seed, folder / "uris")
        with serving(settings) as pid:
            _load(pid, uris, chosen, requests=2000)
            runs = [_load(pid, uris, chosen, requests=chosen.requests) for _ in range(chosen.runs)]
    for run in runs:
        print(f"{run.per_s:,.0f} answers/s, {percentiles_ms(run.durations_s)}")
    closing(_figures(runs, chosen, recall, search_us))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--requests", type=int, default=30_000, help="in each run")
    parser.add_argument("--runs", type=int, default=3, help="the median of their figures is reported")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def _prepare(settings: Settings, chosen: argparse.Namespace) -> tuple[Release, list[str]]:
    """A release announced, and every user's record in the store."""
    now_ms = int(time.time() * 1000)
    log = parts.open_log(settings)
    releases = parts.releases(settings)
    version = releases.publish(model(chosen.items, chosen.dim, chosen.seed), now_ms=now_ms)
    announce(log, version, now_ms)
    release, keys = releases.load(version), item_keys(chosen.items)
    states = parts.user_states(settings, parts.open_store(settings))
    users = [f"user-{number}" for number in range(chosen.users)]
    rows = histories(chosen.users, chosen.items, 100, chosen.seed)
    for first in range(0, chosen.users, USERS_AT_ONCE):
        some = zip(users[first : first + USERS_AT_ONCE], islice(rows, USERS_AT_ONCE), strict=True)
        timelines = {user: timeline_of(of_user, keys, now_ms - 200_000) for user, of_user in some}
        fill(states, release, timelines, log.identity(EVENTS))
    log.close()
    return release, users


def _index_alone(settings: Settings, release: Release, users: list[str]) -> tuple[float, float]:
    """recall@20 of the index on stored users' vectors, and microseconds of CPU a bare search takes for one."""
    found = parts.user_states(settings, parts.open_store(settings)).find(users)
    queries = with_one(Stored.of(found).vectors(release))
    use_threads(1)
    items = with_bias(np.asarray(release.output_embeddings), np.asarray(release.biases))
    recall = measure_recall(release.index, items, queries, least_scores(items, queries, K), K)
    started = time.process_time()
    for first in range(0, len(queries), SEARCHED_TOGETHER):
        release.index.search(queries[first : first + SEARCHED_TOGETHER], K)
    return recall, (time.process_time() - started) / len(queries) * 1e6


def _uris(settings: Settings, users: list[str], seed: int, path: Path) -> Path:
    """A file of request URIs of users in random order, for h2load to go through again and again."""
    asked = np.random.default_rng(seed).integers(len(users), size=20_000)
    address = f"http://{settings.host}:{settings.port}/v1/recommendations"
    path.write_text("".join(f"{address}?user={users[number]}&k={K}\n" for number in asked))
    return path


def _load(pid: int, uris: Path, chosen: argparse.Namespace, *, requests: int) -> Load:
    log = uris.with_name("h2load.log")
    log.unlink(missing_ok=True)
    command = ["h2load", "--h1", f"-c{chosen.connections}", "-t1", f"-n{requests}", f"-i{uris}", f"--log-file={log}"]
    cpu = cpu_seconds(pid)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    cpu = cpu_seconds(pid) - cpu
    if done.returncode:
        raise SystemExit(f"h2load ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    lines = [line.split() for line in log.read_text().splitlines()]
    starts_us, durations_us = [int(line[0]) for line in lines], [int(line[2]) for line in lines]
    end_us = max(start + duration for start, duration in zip(starts_us, durations_us, strict=True))
    good = [duration / 1e6 for line, duration in zip(lines, durations_us, strict=True) if line[1] == "200"]
    return Load((end_us - min(starts_us)) / 1e6, cpu, good, requests - len(good))


def _figures(runs: list[Load], chosen: argparse.Namespace, recall: float, search_us: float) -> dict[str, object]:
    percentiles = [percentiles_ms(run.durations_s) for run in runs]
    return {
        "items": chosen.items,
        "users": chosen.users,
        "connections": chosen.connections,
        "answers_per_s": round(statistics.median(run.per_s for run in runs)),
        **{name: statistics.median(one[name] for one in percentiles) for name in percentiles[0]},
        "index_recall20": round(recall, 4),
        "failed": sum(run.failed for run in runs),
        "cpu_us_per_answer": round(statistics.median(run.cpu_s / len(run.durations_s) * 1e6 for run in runs), 1),
        "cpu_us_search": round(search_us, 1),
    }


if __name__ == "__main__":
    main()
