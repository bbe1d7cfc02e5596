"""Memory of user records, measured on real servers and compared with the formula of `bench/sizing.py`.

    python -m bench.memory                                      # a million users, and three other shapes
    python -m bench.memory --users 200000 --events 80 --dim 100 --idle 0.5 --id-bytes 36

Records are made by the real encoder and stored under real keys, with expiry, by the consumer's own script. Idle users
are those whose record was written once, with one event. Bytes are `used_memory` less the empty server's.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench.report import closing, opening
from bench.sizing import SERVERS, Shape, predicted_bytes, record_bytes
from ledstream.parts import virtual_partitions
from store.connection import connect
from store.embedded import EmbeddedStore
from store.user_record import TIMELINE, Applied, UserRecord, encode_record
from store.user_state import NOTHING, UserStates
from tests.servers import RedisServer

BAR = Shape(1_000_000)
BAR_BYTES = 900
OTHERS = (
    Shape(300_000, events=10, dim=100),
    Shape(300_000, events=50, dim=128, idle=0.6, id_bytes=36),
    Shape(300_000, events=200, dim=64, idle=0.2),
)
AT_ONCE = 5000
TEMPLATES = 64
PROGRAMS = {"valkey": EmbeddedStore, "redis": RedisServer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", choices=sorted(PROGRAMS), help="one of them only")
    parser.add_argument("--users", type=int, help="one shape only, of so many users")
    parser.add_argument("--events", type=int, default=50)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--idle", type=float, default=0.0, help="share of users whose record holds one event")
    parser.add_argument("--id-bytes", type=int, default=16)
    chosen = parser.parse_args()
    opening("bench.memory", vars(chosen))
    own = Shape(chosen.users or 0, chosen.events, chosen.dim, chosen.idle, chosen.id_bytes)
    shapes = [own] if chosen.users else [BAR, *OTHERS]
    names = [chosen.server] if chosen.server else list(PROGRAMS)
    figures = [figure for name in names for figure in measure(name, shapes)]
    at_bar = {str(one["server"]): one["bytes_per_user"] for one in figures if one["shape"] == vars(BAR)}
    closing({"bytes_per_user_at_bar": at_bar, "bar": BAR_BYTES, "shapes": figures})


def measure(name: str, shapes: Sequence[Shape]) -> list[dict[str, object]]:
    """Of each shape, on a fresh server each: what it takes, and what the formula says. Nothing without the server."""
    if name == "redis" and shutil.which("redis-server") is None:
        print("redis: no redis-server here, left out")
        return []
    figures = []
    for shape in shapes:
        started = time.perf_counter()
        measured, predicted = measured_bytes(name, shape), predicted_bytes(shape, SERVERS[name])
        figure = {
            "server": name,
            "shape": vars(shape),
            "record_bytes": record_bytes(shape),
            "bytes_per_user": round(measured / shape.users, 1),
            "predicted_per_user": round(predicted / shape.users, 1),
            "predicted_to_measured": round(predicted / measured, 4),
        }
        print(f"{time.perf_counter() - started:5.1f} s {figure}", flush=True)
        figures.append(figure)
    return figures


def measured_bytes(name: str, shape: Shape) -> int:
    """`used_memory` that the shape's records add to a fresh server."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="ledstream-bench-")))
        # Without the file of changes, which takes no memory to speak of and a lot of disk.
        store = stack.enter_context(PROGRAMS[name](folder, extra=("--appendonly", "no")))
        empty = _used_memory(store.address)
        fill(store.address, shape)
        return _used_memory(store.address) - empty


def fill(address: str, shape: Shape, seed: int = 1) -> None:
    """Store the shape's users: one of a few records each, under keys of their own."""
    rng = np.random.default_rng(seed)
    active = [encode_record(made_up_record(shape.events, shape.dim, rng)) for _ in range(TEMPLATES)]
    idle = [encode_record(made_up_record(1, shape.dim, rng)) for _ in range(TEMPLATES)]
    with connect(address, timeout_s=60) as client:
        states = UserStates(client, "led", virtual_partitions)
        for first in range(0, shape.users, AT_ONCE):
            users = [f"{user:0{shape.id_bytes}d}" for user in range(first, min(first + AT_ONCE, shape.users))]
            are_idle = (rng.random(len(users)) < shape.idle).tolist()
            which = rng.integers(TEMPLATES, size=len(users)).tolist()
            records = [(idle if is_idle else active)[one] for is_idle, one in zip(are_idle, which, strict=True)]
            assert not states.replace(states.keys(users), [NOTHING] * len(users), records)


def made_up_record(events: int, dim: int, rng: np.random.Generator) -> UserRecord:
    """A user with so many events, of no particular items, half a minute apart on average."""
    timeline = np.zeros(events, TIMELINE)
    timeline["item"] = rng.integers(1 << 56, size=events)
    timeline["time_ms"] = 1_790_000_000_000 + np.cumsum(rng.exponential(30_000, size=events)).astype(np.int64)
    timeline["event"] = rng.integers(1, 1 << 32, size=events)
    total = rng.normal(size=dim).astype(np.float32)
    at_ms = int(timeline["time_ms"][-1])
    return UserRecord(Applied(1, 1), timeline, events, 1, total, float(events), at_ms, float(events))


def _used_memory(address: str) -> int:
    """With no connection but the one that asks."""
    time.sleep(0.3)  # buffers of connections that were closed are freed in between
    with connect(address) as client:
        return int(client.info("memory")["used_memory"])


if __name__ == "__main__":
    main()
