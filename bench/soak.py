"""Whether the servers are as quick and as small after millions of answers as they were at first.

    python -m bench.soak                                        # 5,000,000 requests: some eight minutes on two cores

A few connections, each asking again once it is answered, which keeps the servers busy and not full. The requests come
in windows with others in each: users drawn at random, a tenth of them never seen before, a tenth with an item excluded.
Of every window are taken percentiles of latency, CPU an answer, and the memory of every server process at its end: all
that is resident, and that of no file. Drift is the median of the last tenth of the windows against that of the
first, in percent, the warm-up left out: what else the machine does in a window or two changes neither. Exits 1 where
latency or the memory of a process rose by more than 5 %, or a request was not answered with 200.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from bench.ingest_world import fill, user_id
from bench.load import closed_loop, need
from bench.report import closing, opening
from bench.server import anonymous_mb, descendants, resident_mb, serving
from bench.world import announced, item_id

BAR_PERCENT = 5.0
WARM_UP = 0.1  # of the windows
ASKED_FOR = 10_000  # at most, different requests in a window
NEW_SHARE = EXCLUDING_SHARE = 0.1


class Window(NamedTuple):
    """What one window showed. memory_mb: of each process, by its place, what is resident and what is of no file."""

    percentiles: Mapping[str, float]
    cpu_us: float
    memory_mb: Mapping[str, float]
    failed: int

    def values(self) -> dict[str, float]:
        """All that may drift, by name."""
        return {**self.percentiles, "cpu_us": self.cpu_us, **self.memory_mb}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=5_000_000)
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    need("h2load")
    opening("bench.soak", vars(chosen))
    with announced(chosen) as (settings, release, states, sources):
        fill(states, release, chosen.users, chosen.seed, sources=sources, before_ms=release.info.created_ms)
        address = f"http://{settings.host}:{settings.port}/v1/recommendations"
        with serving(settings) as pid:
            windows = [_window(pid, address, settings.data_dir / "uris", chosen, n) for n in range(chosen.windows)]
    figures = figures_of(windows)
    closing({"requests": chosen.requests, "windows": chosen.windows} | figures)
    return 0 if figures["is_flat"] else 1


def _window(pid: int, address: str, uris: Path, chosen: argparse.Namespace, number: int) -> Window:
    asked = _asked(chosen, number)
    uris.write_text("".join(f"{address}?{query}\n" for query in asked))
    requests = chosen.requests // chosen.windows
    run = closed_loop(pid, uris, connections=chosen.connections, requests=requests)
    memory = {}
    for place, process in enumerate([pid, *sorted(child for child, _ in descendants(pid))]):
        memory[f"resident_{place}_mb"] = round(resident_mb(process), 1)
        memory[f"own_{place}_mb"] = round(anonymous_mb([process]), 1)
    window = Window(run.percentiles, round(run.cpu_s / run.good * 1e6, 1), memory, requests - run.good)
    print(f"{number}: {run.good_per_s:,.0f} answers/s, {window.values()}, {window.failed} failed", flush=True)
    return window


def _asked(chosen: argparse.Namespace, window: int) -> list[str]:
    """The query strings of a window."""
    random, asked = Random(f"{chosen.seed}-{window}"), []
    for place in range(min(ASKED_FOR, chosen.requests // chosen.windows)):
        is_new, excludes = random.random() < NEW_SHARE, random.random() < EXCLUDING_SHARE
        user = f"new-{window}-{place}" if is_new else user_id(random.randrange(chosen.users))
        more = f"&exclude={item_id(random.randrange(chosen.items))}" if excludes else ""
        asked.append(f"user={user}&k=20{more}")
    return asked


def figures_of(windows: Sequence[Window]) -> dict[str, object]:
    """first, last: the medians that are compared. spread_percent: the middle half of the windows, to judge them by."""
    counted = [window.values() for window in windows[int(WARM_UP * len(windows)) :]]
    tenth = max(1, len(counted) // 10)
    first, last = medians(counted[:tenth]), medians(counted[-tenth:])
    drifts = {name: round(100 * (last[name] / first[name] - 1), 2) for name in first}
    failed = sum(window.failed for window in windows)
    held_to = [drift for name, drift in drifts.items() if name.endswith(("_ms", "_mb"))]
    return {
        "first": first,
        "last": last,
        "drift_percent": drifts,
        "spread_percent": {name: _spread([values[name] for values in counted]) for name in first},
        "failed": failed,
        "is_flat": not failed and all(drift <= BAR_PERCENT for drift in held_to),
    }


def medians(windows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each figure. Those of a process that is not in all windows raise KeyError: it ended, or another one began."""
    return {name: round(statistics.median(values[name] for values in windows), 3) for name in windows[0]}


def _spread(values: Sequence[float]) -> float:
    low, median, high = statistics.quantiles(values, n=4)
    return round(100 * (high - low) / median, 2)


if __name__ == "__main__":
    sys.exit(main())
