"""Out of memory, out of disk: each consumer pauses, the server says so, and all goes on by itself. Real processes."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import OutOfMemoryError

from store.archive import read_archive
from store.connection import Client, connect
from store.embedded import EmbeddedStore
from tests.eventually import until
from tests.servers import free_ports
from tests.small_disk import disk

ROOT = Path(__file__).parents[1]
USERS = 40
pytestmark = pytest.mark.slow


class System:
    """A server and consumers on a log and a store of their own, each in a process."""

    def __init__(self, folder: Path, *, is_one_server: bool = False) -> None:
        self.data_dir = folder / "data"
        self.log = EmbeddedStore(folder / "log")
        self.store = self.log if is_one_server else EmbeddedStore(folder / "store")
        port, *metrics_ports = free_ports(3)
        self._metrics_ports = dict(zip(("timelines", "archive"), metrics_ports, strict=True))
        self.address = f"http://127.0.0.1:{port}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith("LEDSTREAM_")} | {
            "LEDSTREAM_LOG": self.log.address,
            "LEDSTREAM_STORE": self.store.address,
            "LEDSTREAM_DATA_DIR": str(self.data_dir),
            "LEDSTREAM_PORT": str(port),
            "LEDSTREAM_ARCHIVE_FLUSH_S": "0.3",
            "LEDSTREAM_SPOOL_MB": "0",  # what the log does not take is refused, and seen
            "LEDSTREAM_PROBE_EVERY_S": "0",  # records are counted here
        }

    def __enter__(self) -> System:
        with ExitStack() as stack:
            stack.enter_context(self.log)
            if self.store is not self.log:
                stack.enter_context(self.store)
            stack.callback(self._end)
            self.start("serve", "serve")
            self.start("timelines", "consume", "timelines")
            self.start("archive", "consume", "archive")
            until(lambda: self.states() == {"timelines": "running", "archive": "running"})
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, name: str, *words: str) -> None:
        command = [sys.executable, "-m", "ledstream", *words]
        environ = self._environ | {"LEDSTREAM_METRICS_PORT": str(self._metrics_ports.get(name, 0))}
        self.processes[name] = subprocess.Popen(command, env=environ, cwd=ROOT, start_new_session=True)

    def end(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        process = self.processes.pop(name)
        process.send_signal(how)
        process.wait(timeout=20)

    def ready(self) -> dict[str, Any]:
        answer = httpx.get(f"{self.address}/readyz")
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def consumer(self, group: str) -> dict[str, Any]:
        entry: dict[str, Any] = self.ready()["consumers"][group]
        return entry

    def is_waiting(self, group: str) -> bool:
        """What the consumer's own metrics say."""
        text = httpx.get(f"http://127.0.0.1:{self._metrics_ports[group]}/metrics").text
        return f'ledstream_consumer_waiting{{group="{group}"}} 1.0' in text

    def states(self) -> dict[str, str]:
        return {group: entry["state"] for group, entry in self.ready()["consumers"].items()}

    def send(self, item: str) -> None:
        """One event of every user."""
        events = [{"user_id": f"user-{n}", "item_id": item, "kind": "view"} for n in range(USERS)]
        assert httpx.post(f"{self.address}/v1/events", json=events).json()["accepted"] == USERS

    def applied(self) -> Counter[int]:
        """How many users have how many events."""
        answers = [httpx.get(f"{self.address}/v1/users/user-{n}") for n in range(USERS)]
        return Counter(answer.json()["events"] if answer.status_code == 200 else 0 for answer in answers)

    def archived(self) -> Counter[tuple[str, str]]:
        rows = read_archive(self.data_dir / "archive").to_pylist()
        return Counter((row["user_id"], row["item_id"]) for row in rows)

    def _end(self) -> None:
        for name in list(self.processes):
            self.end(name)


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    with System(tmp_path) as system:
        yield system


def every(*items: str) -> Counter[tuple[str, str]]:
    return Counter((f"user-{n}", item) for n in range(USERS) for item in items)


def test_a_store_out_of_memory_is_waited_for_and_named_and_every_event_counts_once_in_the_end(system: System) -> None:
    system.send("hat")
    until(lambda: system.applied() == {1: USERS})
    with connect(system.store.address) as client:
        fill(client)
        keys = keys_of(client)
        asked_ms = time.time() * 1000
        system.send("belt")
        system.send("scarf")
        until(lambda: system.states()["timelines"] == "waiting")
        entry, ready = system.consumer("timelines"), system.ready()
        assert entry["for"].startswith("OutOfMemoryError: command not allowed when used memory > 'maxmemory'")
        assert asked_ms <= entry["since"] <= time.time() * 1000
        assert (entry["processes"], ready["ready"], ready["degraded"], ready["store"]) == (1, True, True, "ok")
        assert "ledstream_consumer_groups_troubled 1.0" in httpx.get(f"{system.address}/metrics").text
        assert (system.is_waiting("timelines"), system.is_waiting("archive")) == (True, False)
        assert not httpx.get(f"{system.address}/v1/recommendations?user=user-1").json()["degraded"]
        assert system.applied() == {1: USERS}, "what was stored is still read"
        assert ready["consumers"]["archive"]["state"] == "running"
        until(lambda: system.archived() == every("hat", "belt", "scarf"))
        client.config_set("maxmemory", "0")
        until(lambda: system.applied() == {3: USERS})
        until(lambda: not system.ready()["degraded"])
        assert keys_of(client) == keys
        assert not system.is_waiting("timelines")
    timeline = httpx.get(f"{system.address}/v1/users/user-7").json()["timeline"]
    assert len(timeline) == 3


def test_a_consumer_started_while_its_one_server_is_out_of_memory_waits_too(tmp_path: Path) -> None:
    with System(tmp_path, is_one_server=True) as system, connect(system.store.address) as client:
        system.send("hat")
        until(lambda: system.applied() == {1: USERS})
        system.end("timelines", signal.SIGKILL)
        system.send("belt")
        fill(client)
        assert httpx.post(f"{system.address}/v1/events", json={"user_id": "u", "item_id": "i", "kind": "view"}).is_error
        system.start("timelines", "consume", "timelines")
        until(lambda: system.states()["timelines"] == "waiting")
        until(lambda: system.archived() == every("hat", "belt"))
        assert system.applied() == {1: USERS}
        client.config_set("maxmemory", "0")
        until(lambda: system.applied() == {2: USERS})
        system.send("scarf")
        until(lambda: system.applied() == {3: USERS} and system.archived() == every("hat", "belt", "scarf"))
        until(lambda: not system.ready()["degraded"])


def keys_of(client: Client) -> set[bytes]:
    """All but counts of popularity, which come when they come."""
    return {key for key in client.scan_iter(count=1000) if b":popularity" not in key}


def fill(client: Client) -> None:
    """A small limit of memory, filled until the server refuses a byte more."""

    def write_on() -> None:
        for n in range(10_000):
            client.set(f"ballast-{n}", b"x" * 4096)

    client.config_set("maxmemory", str(client.info()["used_memory"] + 1_000_000))
    with pytest.raises(OutOfMemoryError):
        write_on()
    client.config_set("maxmemory", str(client.info()["used_memory"] - 200_000))


@pytest.mark.parametrize("how", ["a full disk", "a limit of file sizes"])
def test_an_archive_without_room_is_waited_for_and_named_and_holds_every_event_once_in_the_end(
    tmp_path: Path, how: str
) -> None:
    with ExitStack() as stack:
        if how == "a full disk":
            stack.enter_context(disk(tmp_path / "data" / "archive", kilobytes=64))
        system = stack.enter_context(System(tmp_path))
        system.send("hat")
        until(lambda: system.archived() == every("hat"))
        give_back = take_room(system, how)
        system.send("belt")
        system.send("scarf")
        until(lambda: system.states()["archive"] == "waiting")
        entry = system.consumer("archive")
        assert ("No space left" if how == "a full disk" else "File too large") in entry["for"]
        assert system.is_waiting("archive")
        until(lambda: system.applied() == {3: USERS})  # the timelines go on meanwhile
        assert system.ready()["ready"]
        assert system.archived() == every("hat")
        give_back()
        until(lambda: system.archived() == every("hat", "belt", "scarf"))
        until(lambda: not system.ready()["degraded"])
        assert not list((system.data_dir / "archive").rglob(".*"))


def take_room(system: System, how: str) -> Callable[[], object]:
    """Leave the archive no room; returns how to give it back."""
    if how == "a full disk":
        ballast = system.data_dir / "archive" / "ballast"
        with pytest.raises(OSError, match="No space left"):
            ballast.write_bytes(b"x" * 64 * 1024)
        return ballast.unlink
    pid, which = system.processes["archive"].pid, resource.RLIMIT_FSIZE
    before = resource.prlimit(pid, which, (100, resource.RLIM_INFINITY))
    return lambda: resource.prlimit(pid, which, before)


def test_consumers_that_are_gone_are_named_until_they_are_back(system: System) -> None:
    system.end("archive")
    entry = system.consumer("archive")
    assert (entry["state"], entry["for"], entry["processes"]) == ("stopped", None, 0)
    system.end("timelines", signal.SIGKILL)
    system.send("hat")
    until(lambda: system.states()["timelines"] == "silent")
    entry, ready = system.consumer("timelines"), system.ready()
    assert entry["for"].startswith("no heartbeat for 1")
    assert entry["lag"] == USERS, "what the log says was not committed"
    assert (ready["ready"], ready["degraded"]) == (True, True)
    system.start("timelines", "consume", "timelines")
    until(lambda: system.applied() == {1: USERS})
    until(lambda: system.states() == {"timelines": "running", "archive": "stopped"})


def test_health_and_readiness_answer_a_head_as_a_get_without_a_body(system: System) -> None:
    for path in ("/healthz", "/readyz"):
        got, head = httpx.get(system.address + path), httpx.head(system.address + path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == got.headers["content-type"]
        assert abs(int(head.headers["content-length"]) - len(got.content)) < 20
        assert whole_answer(system, f"HEAD {path}").partition(b"\r\n\r\n")[2] == b"", "not a byte behind the head"
    assert httpx.head(f"{system.address}/v1/releases").status_code == 405
    system.store.stop()
    assert httpx.head(f"{system.address}/readyz").status_code == 503
    assert httpx.get(f"{system.address}/readyz").json()["consumers"]["timelines"]["state"] == "unknown"
    system.store.start()


def whole_answer(system: System, request: str) -> bytes:
    host, _, port = system.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: connection.recv(4096), b""))
