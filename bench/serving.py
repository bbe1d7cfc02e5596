"""What `ledstream serve` answers: in a closed loop, at a given rate, and with far too many asking at once.

    python -m bench.serving --items 100000 --users 200000 --workers 2

Users of 1 to 100 events are in the store; each request asks for 20 items of a user drawn at random, seen items left
out. All load comes from h2load: in a closed loop, or at a rate, whether or not the requests before were answered. Then
only an answer slower than a connection's turn (`--rate-connections` / `--rate` seconds) hides a wait, and these are
counted. All of it runs on the same machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import islice
from pathlib import Path

import numpy as np

from bench.load import Load, at_rate, closed_loop, need
from bench.report import closing, opening
from bench.scraped import scraped
from bench.server import mapped_mb, serving
from bench.world import fill, histories, item_keys, model, servers, timeline_of
from led.ranking import with_bias
from ledstream import parts
from ledstream.own_system import free_port
from ledstream.settings import Settings, read_settings
from store.item_index import least_scores, measure_recall, use_threads
from store.profiles import profiles
from store.releases import Release
from stream.announcements import announce
from stream.topics import EVENTS

K = 20
USERS_AT_ONCE = 4000
MEASURED_USERS = 2000
SEARCHED_TOGETHER = 32


def main() -> None:
    chosen = _arguments()
    need("h2load")
    opening("bench.serving", vars(chosen))
    with servers(kafka=False) as (log_address, store_address, folder):
        flags = {"log": log_address, "store": store_address, "data_dir": folder, "timeline_events": 100}
        settings = read_settings(
            {}, flags | {"port": free_port("127.0.0.1", 0), "workers": chosen.workers, "pin_workers": chosen.pin}
        )
        release, users = prepare(settings, chosen)
        recall, search_us = _index_alone(settings, release, users[:MEASURED_USERS])
        uris = request_uris(settings, users, chosen.seed, folder / "uris")
        with serving(settings) as pid:
            closed_loop(pid, uris, connections=chosen.connections, requests=5000)
            most = [_most(pid, uris, chosen) for _ in range(chosen.runs)]
            _show_stages(settings)
            each, once = mapped_mb(pid, settings.data_dir.resolve())
            print(f"the release's files: {each:.0f} MB in all processes, {once:.0f} MB of memory", flush=True)
            steady = [_steady(pid, uris, chosen) for _ in range(chosen.rate_runs)]
            over = _over(pid, uris, chosen, statistics.median(run.good_per_s for run in most))
    mapped = {"mapped_mb": round(each), "mapped_once_mb": round(once)}
    closing(_figures(chosen, most, steady, recall, search_us) | over | mapped)


def _most(pid: int, uris: Path, chosen: argparse.Namespace) -> Load:
    run = closed_loop(pid, uris, connections=chosen.connections, requests=chosen.requests)
    print(f"closed loop: {run.good_per_s:,.0f} answers/s, {run.percentiles}", flush=True)
    return run


def _steady(pid: int, uris: Path, chosen: argparse.Namespace) -> Load:
    run = at_rate(pid, uris, per_s=chosen.rate, seconds=chosen.rate_s, connections=chosen.rate_connections)
    told = f"{run.percentiles}, {run.statuses}, {run.unanswered} unanswered, {run.delayed} delayed the next"
    print(f"at {chosen.rate:,}/s: {run.good_per_s:,.0f} answers/s, {told}", flush=True)
    return run


def _over(pid: int, uris: Path, chosen: argparse.Namespace, most_per_s: float) -> dict[str, object]:
    """Many times the connections that fill it, each asking again at once: what it still answers, how late, and how soon
    all is as before."""
    over = closed_loop(pid, uris, connections=chosen.over_connections, requests=4 * chosen.requests)
    told = f"{over.percentiles}, {over.statuses}, {over.unanswered} unanswered"
    print(f"{chosen.over_connections} connections: {over.good_per_s:,.0f} answers/s, {told}", flush=True)
    after = at_rate(pid, uris, per_s=chosen.rate, seconds=5, connections=chosen.rate_connections)
    print(f"after: {after.good_per_s:,.0f} answers/s, {after.percentiles}, {after.statuses}", flush=True)
    return {
        "over_connections": chosen.over_connections,
        "over_goodput": round(over.good_per_s / most_per_s, 3),
        "over_p99_ms": over.percentiles["p99_ms"],
        "after_refused": after.statuses.get("503", 0),
    }


def _show_stages(settings: Settings) -> None:
    """Where an answer's time went, in all workers."""
    shown = scraped(settings.port)
    answers = sum(sample.value for sample in shown if sample.name == "ledstream_batch_size_sum")
    batches = sum(sample.value for sample in shown if sample.name == "ledstream_batch_size_count")
    print(f"µs an answer, in batches of {answers / batches:.1f}:")
    of_stages: dict[str, float] = {}
    for one in shown:
        if one.name == "ledstream_answer_stage_seconds_total":
            of_stages[one.labels["stage"]] = of_stages.get(one.labels["stage"], 0.0) + one.value
    for stage, seconds in of_stages.items():
        print(f"  {stage:12}{seconds / answers * 1e6:8.1f}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--requests", type=int, default=30_000, help="in each run")
    parser.add_argument("--runs", type=int, default=3, help="the median of their figures is reported")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pin", action=argparse.BooleanOptionalAction, default=True, help="each worker to a core")
    parser.add_argument("--rate", type=int, default=3200, help="requests a second of the open loop")
    parser.add_argument("--rate-s", type=float, default=10)
    parser.add_argument("--rate-runs", type=int, default=5, help="the quietest, by p99, is reported")
    parser.add_argument("--rate-connections", type=int, default=64)
    parser.add_argument("--over-connections", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def prepare(settings: Settings, chosen: argparse.Namespace) -> tuple[Release, list[str]]:
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
    queries = profiles(found, release).queries
    use_threads(1)
    items = with_bias(np.asarray(release.output_embeddings), np.asarray(release.biases))
    recall = measure_recall(release.index, items, queries, least_scores(items, queries, K), K)
    started = time.process_time()
    for first in range(0, len(queries), SEARCHED_TOGETHER):
        release.index.search(queries[first : first + SEARCHED_TOGETHER], K)
    return recall, (time.process_time() - started) / len(queries) * 1e6


def request_uris(settings: Settings, users: list[str], seed: int, path: Path) -> Path:
    """A file of request URIs of users in random order, for h2load to go through again and again."""
    asked = np.random.default_rng(seed).integers(len(users), size=20_000)
    address = f"http://{settings.host}:{settings.port}/v1/recommendations"
    path.write_text("".join(f"{address}?user={users[number]}&k={K}\n" for number in asked))
    return path


def _figures(
    chosen: argparse.Namespace, most: list[Load], steady: list[Load], recall: float, search_us: float
) -> dict[str, object]:
    cpu_us = statistics.median(run.cpu_s / run.good * 1e6 for run in most)
    quietest = min(steady, key=lambda run: run.percentiles["p99_ms"])
    return {
        "items": chosen.items,
        "users": chosen.users,
        "workers": chosen.workers,
        "connections": chosen.connections,
        "answers_per_s": round(statistics.median(run.good_per_s for run in most)),
        "cpu_us_per_answer": round(cpu_us, 1),
        "cpu_us_search": round(search_us, 1),
        "overhead_us": round(cpu_us - search_us, 1),
        "index_recall20": round(recall, 4),
        "open_loop_per_s": round(quietest.good_per_s),
        "p50_ms": quietest.percentiles["p50_ms"],
        "p99_ms": quietest.percentiles["p99_ms"],
        "delayed": quietest.delayed,
        "failed": sum(sum(run.statuses.values()) - run.good + run.unanswered for run in most + steady),
    }


if __name__ == "__main__":
    main()
