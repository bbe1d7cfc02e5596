"""Whether an answer takes longer for users with a long history, or where there are many users.

    python -m bench.flat                                            # --users 10000 200000 2000000 is the long form

Histories: records made by the consumer's own fold of so many events, behind the cap of 50. Numbers of users: a store
and servers for each, all running; users are asked for at random. Everything is measured in rounds, each in an order of
its own, so that what else the machine does meets all alike; medians of the rounds count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np

from bench.asking import asking, read_answers
from bench.ingest_world import LONGEST, as_before, fill, some_items, user_id
from bench.load import closed_loop, need
from bench.report import closing, opening, percentiles_ms
from bench.server import serving
from bench.world import announced, item_keys
from consumers.arrivals import Arrivals
from consumers.fold import fold_batch
from ledstream.settings import Settings
from store.releases import Release
from store.stored import Stored
from store.user_record import decode_record
from store.user_state import NOTHING, UserStates
from stream.events import kind_code

ASKED_FOR = 20_000  # at most, of the users there are
OF_A_LENGTH = 1000  # users
FOLDED_AT_ONCE = 50  # events of each user
SPACING_MS = 1000


class Asked(NamedTuple):
    """Those who are asked for: the server's pid and port, the paths, and a folder with these as URIs."""

    pid: int
    port: int
    paths: Sequence[str]
    folder: Path

    @property
    def uris(self) -> Path:
        return self.folder / "uris"


class Round(NamedTuple):
    """CPU µs an answer in a closed loop, and the median latency at a rate."""

    cpu_us: float
    p50_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--histories", type=int, nargs="*", default=[10, 50, 100, 1000, 10_000], help="in events")
    parser.add_argument("--users", type=int, nargs="*", default=[10_000, 200_000])
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--requests", type=int, default=6000, help="of the closed loop, in each round")
    parser.add_argument("--rate", type=float, default=500.0, help="requests a second of the open loop")
    parser.add_argument("--rate-s", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    need("h2load")
    opening("bench.flat", vars(chosen))
    figures: dict[str, object] = {}
    with ExitStack() as stack:
        figures |= measure("history", _of_histories(stack, chosen), chosen)
    with ExitStack() as stack:
        figures |= measure("users", {users: _among(stack, users, chosen) for users in chosen.users}, chosen)
    closing(figures)


def measure(what: str, asked: Mapping[int, Asked], chosen: argparse.Namespace) -> dict[str, object]:
    """Of each of these the medians, and for both figures how far the largest is above the smallest."""
    found: dict[int, list[Round]] = {number: [] for number in asked}
    random = Random(chosen.seed)
    for one in asked.values():
        _round(one, chosen)  # what is made at the first request
    for _ in range(chosen.rounds):
        for number in random.sample(list(asked), len(asked)):
            found[number].append(_round(asked[number], chosen))
    medians = {number: Round(*map(statistics.median, zip(*rounds, strict=True))) for number, rounds in found.items()}
    for number, median in medians.items():
        each = [round(one.cpu_us) for one in found[number]]
        print(f"{what} {number:,}: {median.cpu_us:.1f} µs of CPU, of {each}; p50 {median.p50_ms:.3f} ms", flush=True)
    figures: dict[str, object] = {
        what: {
            number: {"cpu_us": round(one.cpu_us, 1), "p50_ms": round(one.p50_ms, 3)} for number, one in medians.items()
        }
    }
    for field in Round._fields:
        values = [getattr(median, field) for median in medians.values()]
        figures[f"{what}_{field}_spread"] = round(max(values) / min(values), 3) if values else None
    return figures


def _round(asked: Asked, chosen: argparse.Namespace) -> Round:
    run = closed_loop(asked.pid, asked.uris, connections=chosen.connections, requests=chosen.requests)
    assert run.good == chosen.requests, f"{run.good} of {chosen.requests} were answered: {run.statuses}"
    with asking("127.0.0.1", asked.port, chosen.rate, asked.paths, asked.folder) as answers:
        time.sleep(chosen.rate_s)
    return Round(run.cpu_s / run.good * 1e6, percentiles_ms([one.seconds for one in read_answers(answers)])["p50_ms"])


def _of_histories(stack: ExitStack, chosen: argparse.Namespace) -> dict[int, Asked]:
    """One server with users of every length."""
    if not chosen.histories:
        return {}
    settings, release, states, sources = stack.enter_context(announced(chosen))
    rng = np.random.default_rng((chosen.seed, 2))
    names = {events: [f"{events}-events-{user}" for user in range(OF_A_LENGTH)] for events in chosen.histories}
    for events, users in names.items():
        fill_long(states, release, users, events, source=sources[0], rng=rng)
    pid = stack.enter_context(serving(settings))
    return {events: _asked(settings, pid, users, str(events), chosen.seed) for events, users in names.items()}


def _among(stack: ExitStack, users: int, chosen: argparse.Namespace) -> Asked:
    """A server with so many users in its store."""
    settings, release, states, sources = stack.enter_context(announced(chosen))
    fill(states, release, users, chosen.seed, sources=sources, before_ms=int(time.time() * 1000))
    some = np.random.default_rng((chosen.seed, 3)).choice(users, min(users, ASKED_FOR), replace=False)
    pid = stack.enter_context(serving(settings))
    return _asked(settings, pid, [user_id(number) for number in some.tolist()], "users", chosen.seed)


def fill_long(
    states: UserStates, release: Release, users: Sequence[str], events: int, *, source: int, rng: np.random.Generator
) -> None:
    """Records of these users after so many events each, folded some at a time as a consumer does."""
    records, keys = [NOTHING] * len(users), item_keys(release.items)
    start_ms = int(time.time() * 1000) - SPACING_MS * events
    for first in range(0, events, FOLDED_AT_ONCE):
        each = min(FOLDED_AT_ONCE, events - first)
        n = each * len(users)
        arrivals = Arrivals(
            users,
            np.repeat(np.arange(len(users)), each),
            first * len(users) + np.arange(n),
            np.tile(start_ms + SPACING_MS * np.arange(first, first + each), len(users)),
            keys[some_items(rng, n, release.items)],
            np.full(n, kind_code("view"), np.uint8),
            rng.integers(1, 1 << 32, n).astype(np.uint32),
            np.zeros(n, np.bool_),
        )
        _, records, _ = fold_batch(arrivals, Stored.of(records), 0, release, LONGEST)
    applied = decode_record(records[0]).applied
    assert applied == events, f"{applied} events took effect, not {events}"
    stored = [as_before(source, record) for record in records]
    assert not states.replace(states.keys(users), [NOTHING] * len(users), stored), "the store is not empty"


def _asked(settings: Settings, pid: int, users: Sequence[str], name: str, seed: int) -> Asked:
    folder = settings.data_dir / f"asked-{name}"
    folder.mkdir()
    drawn = Random(seed).choices(users, k=ASKED_FOR)
    asked = Asked(pid, settings.port, [f"/v1/recommendations?user={user}&k=20" for user in drawn], folder)
    asked.uris.write_text("".join(f"http://{settings.host}:{settings.port}{path}\n" for path in asked.paths))
    return asked


if __name__ == "__main__":
    main()
