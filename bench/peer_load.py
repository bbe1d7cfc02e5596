"""What `bench.peers` asks of every system: load in a closed and an open loop, probes of freshness, right answers."""

from __future__ import annotations

import http.client
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson

from bench.peer_processes import HOST, System
from bench.peer_world import F32, I64, World, user_id
from bench.server import cpu_seconds

K = 20
CONNECTIONS = 32
OPEN_CONNECTIONS = 40
LONGEST_S = 10.0
TIE = 1e-4  # scores this close, relatively, are one score
REGULARIZATION = 0.01  # implicit's default


class Load(NamedTuple):
    """One run of h2load. failed: answers that were not 200, or none."""

    per_s: float
    durations_s: list[float]
    failed: int
    cpu_us: float  # of the serving processes, an answer


def closed_loop(system: System, uris: Path, seconds: float) -> Load:
    """Each connection asks again as soon as it is answered."""
    return _h2load(system, uris, [f"-c{CONNECTIONS}", f"-D{seconds:g}"])


def open_loop(system: System, uris: Path, seconds: float, per_s: float) -> Load:
    """Requests at a rate, from connections that start one after the other and ask in turn.

    A connection asks once in OPEN_CONNECTIONS / per_s seconds, so what waits less than that delays no other request.
    """
    each_s = OPEN_CONNECTIONS / per_s
    stagger = ["-r1", f"--rate-period={max(1, round(1000 * each_s / OPEN_CONNECTIONS))}ms"]
    count = [f"-c{OPEN_CONNECTIONS}", f"-n{round(seconds * per_s)}", f"--rps={1 / each_s:.4f}"]
    return _h2load(system, uris, [*count, *stagger])


@contextmanager
def background(system: System, uris: Path, per_s: float) -> Iterator[None]:
    """The rate, until left."""
    rps = f"--rps={per_s / OPEN_CONNECTIONS:.4f}"
    load = subprocess.Popen(_command(system, uris, [f"-c{OPEN_CONNECTIONS}", "-D600", rps]), stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        load.terminate()
        load.wait()


def _command(system: System, uris: Path, arguments: Sequence[str]) -> list[str]:
    return ["h2load", "--h1", "-t1", f"-Bhttp://{HOST}:{system.port}", f"-i{uris}", *arguments]


def _h2load(system: System, uris: Path, arguments: Sequence[str]) -> Load:
    log = uris.with_name("h2load.log")
    log.unlink(missing_ok=True)
    cpu_s = cpu_seconds(system.pid)
    command = [*_command(system, uris, arguments), f"--log-file={log}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    cpu_s = cpu_seconds(system.pid) - cpu_s
    if done.returncode:
        raise SystemExit(f"h2load ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    lines = np.array([line.split() for line in log.read_text().splitlines()], np.int64).reshape(-1, 3)
    starts_us, statuses, durations_us = lines.T
    good = durations_us[statuses == 200]
    seconds = ((starts_us + durations_us).max() - starts_us.min()) / 1e6
    return Load(len(good) / seconds, (good / 1e6).tolist(), len(lines) - len(good), cpu_s / len(good) * 1e6)


class Client:
    """One connection kept alive."""

    def __init__(self, system: System) -> None:
        self._connection = http.client.HTTPConnection(HOST, system.port, timeout=LONGEST_S)

    def recommended(self, user: str) -> list[tuple[str, float]]:
        """Items, best first, and their scores."""
        self._connection.request("GET", f"/v1/recommendations?user={user}&k={K}")
        answer = orjson.loads(self._connection.getresponse().read())
        return [(item["item_id"], item["score"]) for item in answer["items"]]

    def post(self, user: str, item_id: str) -> None:
        event = {"user_id": user, "item_id": item_id, "kind": "view"}
        self._connection.request("POST", "/v1/events", body=orjson.dumps(event))
        response = self._connection.getresponse()
        body = response.read()
        assert response.status == 202, body


def freshness(system: System, world: World, probes: int, rng: np.random.Generator) -> list[float]:
    """Seconds from posting an event of a known user to the end of the first answer that differs from the one before."""
    client, seconds = Client(system), []
    for number in rng.choice(world.users, probes, replace=False):
        user, item_id = user_id(int(number)), str(rng.choice(world.item_ids))
        before, posted = client.recommended(user), time.perf_counter()
        client.post(user, item_id)
        while client.recommended(user) == before:
            assert time.perf_counter() - posted < LONGEST_S, f"{system.label}: {user} has the same items as before"
            time.sleep(0.0005)
        seconds.append(time.perf_counter() - posted)
        time.sleep(0.02)
    return seconds


def rightness(system: System, world: World, users: Sequence[int], scores_of: Callable[[I64], F32]) -> float:
    """Share of the twenty places filled with an item that belongs among the best twenty of the system's own model."""
    client, good = Client(system), 0
    rows = {item: row for row, item in enumerate(world.item_ids.tolist())}
    for user in users:
        scores = scores_of(world.timeline(user))
        scores[world.timeline(user)] = -np.inf
        least = np.partition(scores, -K)[-K]
        shown = {rows[item] for item, _ in client.recommended(user_id(user))}
        good += sum(bool(scores[row] >= least - TIE * abs(least)) for row in shown)
    return good / (K * len(users))


def led_scores(world: World) -> Callable[[I64], F32]:
    """Scores of all items by the mean of those seen: what ours and the Feast glue serve."""
    return lambda seen: world.outputs @ world.inputs[seen].mean(axis=0) + world.biases


def als_scores(world: World) -> Callable[[I64], F32]:
    """Scores of all items by the factor that solves a user's least squares, as in the paper of implicit's ALS."""
    factors = world.outputs.astype(np.float64)
    gram = factors.T @ factors + REGULARIZATION * np.eye(factors.shape[1])

    def scores(seen: I64) -> F32:
        rows, confidence = np.unique(seen, return_counts=True)
        liked = factors[rows]
        user = np.linalg.solve(gram + liked.T @ ((confidence - 1)[:, None] * liked), liked.T @ confidence)
        return np.asarray(factors @ user, np.float32)

    return scores
