"""The systems that `bench.peers` compares, as processes: ours, and each peer in an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np

from bench.peer_world import LONGEST, USERS_AT_ONCE, World, user_id
from bench.server import serving
from bench.world import fill, histories, item_keys, model, servers, timeline_of
from ledstream import parts
from ledstream.own_system import free_port
from ledstream.settings import Settings, read_settings
from store.connection import connect
from store.releases import Model
from stream.announcements import announce
from stream.topics import EVENTS

ROOT = Path(__file__).parents[1]
READY_WITHIN_S = 60.0
HOST = "127.0.0.1"


class System(NamedTuple):
    """A server that answers. at_once: questions it may answer in one call."""

    name: str
    at_once: int
    port: int
    pid: int
    bytes_per_user: float

    @property
    def label(self) -> str:
        return f"{self.name} batched" if self.name != "ours" and self.at_once > 1 else self.name


def peers_python(given: Path | None) -> Path:
    """The interpreter that has the extra `peers`: the given one, or one of an environment that uv makes once.

    The environment is apart from ours because Feast wants another redis-py than we run with.
    """
    if given is not None:
        return given
    if (uv := shutil.which("uv")) is None:
        raise SystemExit("uv is not on the PATH: install '.[peers]' into an environment, and give its --python")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    python = cache / "ledstream" / f"peers-{sys.version_info.major}.{sys.version_info.minor}" / "bin" / "python"
    if not python.exists():
        subprocess.run([uv, "venv", "-q", "-p", sys.executable, str(python.parents[1])], check=True)
    wanted = ["-r", str(ROOT / "pyproject.toml"), "--extra", "peers"]
    subprocess.run([uv, "pip", "install", "-q", "-p", str(python), *wanted], check=True)
    return python


def make_world(items: int, dim: int, users: int, seed: int) -> tuple[Model, World]:
    """What a release of ours is made of, and the same as arrays for everybody."""
    made = model(items, dim, seed)
    timelines = list(islice(histories(users, items, LONGEST, seed), users))
    starts = np.cumsum([0, *map(len, timelines)])
    arrays = made.input_embeddings, made.output_embeddings, made.biases
    return made, World(np.array(made.item_ids), *arrays, np.concatenate(timelines), starts)


@contextmanager
def ours(made: Model, world: World, workers: int) -> Iterator[System]:
    """`ledstream serve` and `ledstream consume timelines`, log and user records in one Valkey."""
    with servers(kafka=False, tcp=True) as (log, store, folder):
        given = {"log": log, "store": store, "data_dir": folder, "timeline_events": LONGEST, "workers": workers}
        settings = read_settings({}, given | {"port": free_port(HOST, 0)})
        bytes_per_user = _fill_ours(settings, made, world)
        consume = [sys.executable, "-m", "ledstream", "consume", "timelines"]
        with _child(consume, settings.as_environ(), folder), serving(settings) as pid:
            yield System("ours", 64, settings.port, pid, bytes_per_user)


@contextmanager
def peer(name: str, python: Path, world: World, workers: int) -> Iterator[list[System]]:
    """A peer that answers one question a call, and one that answers those waiting in one call; on one store."""
    with servers(kafka=False, tcp=True) as (_, store, folder):
        world.save(folder)
        environ = {"PEER_FOLDER": str(folder), "PEER_STORE": store, "PYTHONPATH": str(ROOT)}
        environ |= {"OPENBLAS_NUM_THREADS": "1", "FEAST_USAGE": "False"}
        before = used_bytes(store)
        _filled(python, name, environ)
        bytes_per_user = (used_bytes(store) - before) / world.users
        with (
            _peer_server(python, name, environ, workers, at_once=1) as (port, pid),
            _peer_server(python, name, environ, workers, at_once=64) as (batched_port, batched_pid),
        ):
            one = System(name, 1, port, pid, bytes_per_user)
            yield [one, System(name, 64, batched_port, batched_pid, bytes_per_user)]


def used_bytes(store: str) -> int:
    with connect(store) as client:
        return int(client.info("memory")["used_memory"])


def _filled(python: Path, name: str, environ: dict[str, str]) -> None:
    command = [str(python), "-m", f"bench.peer_{name}"]
    done = subprocess.run(command, env=os.environ | environ, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")


@contextmanager
def _peer_server(
    python: Path, name: str, environ: dict[str, str], workers: int, *, at_once: int
) -> Iterator[tuple[int, int]]:
    """uvicorn, which our server runs on too, around the peer: its port and pid."""
    port = free_port(HOST, 0)
    command = [str(python), "-m", "uvicorn", f"bench.peer_{name}:create", "--factory"]
    command += ["--host", HOST, "--port", str(port), "--workers", str(workers), "--loop", "uvloop"]
    command += ["--http", "httptools", "--no-access-log", "--log-level", "warning", "--timeout-graceful-shutdown", "5"]
    folder = Path(environ["PEER_FOLDER"])
    given = environ | {"PEER_AT_ONCE": str(at_once)}
    with _child(command, given, folder) as child:
        _wait_until_ready(port, child, folder)
        yield port, child.pid


def _fill_ours(settings: Settings, made: Model, world: World) -> float:
    """A release announced and every user's record stored: bytes of the store a user."""
    now_ms = int(time.time() * 1000)
    log, releases = parts.open_log(settings), parts.releases(settings)
    version = releases.publish(made, now_ms=now_ms)
    announce(log, version, now_ms)
    release, keys = releases.load(version), item_keys(len(world.item_ids))
    states = parts.user_states(settings, parts.open_store(settings))
    before = used_bytes(settings.store)
    for first in range(0, world.users, USERS_AT_ONCE):
        some = range(first, min(world.users, first + USERS_AT_ONCE))
        timelines = {user_id(user): timeline_of(world.timeline(user), keys, now_ms - 200_000) for user in some}
        fill(states, release, timelines, log.identity(EVENTS))
    log.close()
    return (used_bytes(settings.store) - before) / world.users


@contextmanager
def _child(command: list[str], environ: dict[str, str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that writes to child.log of the folder and is asked to end on leaving."""
    with (folder / "child.log").open("ab") as out:
        child = subprocess.Popen(command, env=os.environ | environ, cwd=ROOT, stdout=out, stderr=out)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait_until_ready(port: int, child: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            with urlopen(f"http://{HOST}:{port}/readyz", timeout=2):
                return
        except (URLError, OSError):
            if child.poll() is not None or time.monotonic() > deadline:
                tail = (folder / "child.log").read_text()[-2000:]
                raise SystemExit(f"a peer's server did not get ready:\n{tail}") from None
            time.sleep(0.1)
