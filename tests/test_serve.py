"""`ledstream serve` as a process: what a killed one leaves behind, and how several workers end."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ledstream import locks
from ledstream.process import check_free
from ledstream.settings import SettingsError
from store.embedded import EmbeddedStore
from tests.eventually import until
from tests.servers import free_ports

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_server_leaves_no_worker_behind_and_its_port_free(tmp_path: Path, workers: int) -> None:
    (port,) = free_ports(1)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LEDSTREAM_")}
    environ |= {"LEDSTREAM_DATA_DIR": str(tmp_path), "LEDSTREAM_PORT": str(port), "LEDSTREAM_WORKERS": str(workers)}
    with EmbeddedStore(tmp_path):
        with subprocess.Popen([sys.executable, "-m", "ledstream", "serve"], env=environ, cwd=ROOT) as server:
            try:
                until(lambda: _answers(port), 60)
            finally:
                server.send_signal(signal.SIGKILL)
        until(lambda: _is_free(port), 20)
        assert not _answers(port)


def without_ipv6() -> str:
    """Why this machine cannot listen on IPv6; nothing where it can."""
    try:
        with socket.socket(socket.AF_INET6) as one:
            one.bind(("::1", 0))
    except OSError as error:
        return f"no IPv6 here: {error}"
    return ""


@pytest.mark.skipif(bool(without_ipv6()), reason=without_ipv6())
@pytest.mark.parametrize(
    ("host", "workers", "reached", "not_reached"),
    [("::1", 2, ["[::1]"], ["127.0.0.1"]), ("::", 1, ["[::1]", "127.0.0.1"], []), ("localhost", 1, ["127.0.0.1"], [])],
)
def test_a_server_listens_on_either_version_of_ip(
    host: str, workers: int, reached: list[str], not_reached: list[str]
) -> None:
    (port,) = free_ports(1)
    at = f"{host!r}, {port}, workers={workers}"
    program = f"from serving.server import serve; serve('tests.test_serve:says_nothing', {at})"
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) as server:
        try:
            for address in reached:
                until(lambda address=address: _status(f"http://{address}:{port}/") == 204, 60)  # type: ignore[misc]
            assert [_status(f"http://{address}:{port}/") for address in not_reached] == [0] * len(not_reached)
            with pytest.raises(SettingsError, match=f"LEDSTREAM_PORT = {port}: not free on {host}: "):
                check_free(host, port)
        finally:
            server.terminate()
    until(lambda: _is_free(port), 20)
    check_free(host, port)


def test_a_host_that_is_not_there_is_named() -> None:
    for host in ("no-such-host.invalid", "192.0.2.1"):
        with pytest.raises(SettingsError, match=f"LEDSTREAM_PORT = 8080: not free on {host}: "):
            check_free(host, 8080)


def says_nothing() -> Callable[..., Any]:
    """An application that answers everybody with 204."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


def _status(url: str) -> int:
    """0 where nobody answers."""
    try:
        return httpx.get(url).status_code
    except httpx.TransportError:
        return 0


def cannot_start() -> Callable[..., Any]:
    """An application whose beginning fails."""

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "as it must"})

    return app


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_that_cannot_start_ends_and_says_so_to_whoever_started_it(workers: int) -> None:
    (port,) = free_ports(1)
    at = f"'127.0.0.1', {port}, workers={workers}"
    program = f"from serving.server import serve; serve('tests.test_serve:cannot_start', {at})"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, check=False).returncode == 3


def test_of_two_workers_a_killed_one_is_replaced_and_all_end_well_when_told(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LEDSTREAM_")}
    environ |= {"LEDSTREAM_DATA_DIR": str(tmp_path), "LEDSTREAM_PORT": str(port), "LEDSTREAM_WORKERS": "2"}
    environ["LEDSTREAM_PIN_WORKERS"] = "true"
    command = [sys.executable, "-m", "ledstream", "serve"]
    with EmbeddedStore(tmp_path), subprocess.Popen(command, env=environ, cwd=ROOT) as server:
        try:
            until(lambda: _answers(port), 60)
            killed = min(_workers(server.pid))
            os.kill(killed, signal.SIGKILL)
            until(lambda: len(_workers(server.pid) - {killed}) == 2, 60)
            until(lambda: _answers(port), 60)
            cores = [os.sched_getaffinity(worker) for worker in _workers(server.pid)]
            assert len(cores[0] | cores[1]) == min(2, len(os.sched_getaffinity(0)))
            until(lambda: _metrics(port)["ledstream_workers"] == [2], 60)
            for _ in range(20):
                assert httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
            for _ in range(6):
                shown = _metrics(port)
                assert shown["ledstream_workers"] == [2]
                assert sum(shown["ledstream_requests_total"]) == 20, "whoever is asked, which is not always the same"
                assert len(shown["ledstream_users"]) == 1, "what is the same for all of them is told once"
            server.terminate()
            assert server.wait(30) == 0
        finally:
            server.kill()
    until(lambda: _is_free(port), 20)
    assert not list(locks.folder().glob(f"port-{port}*"))


def test_who_opened_a_lock_before_its_file_was_removed_does_not_hold_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first = locks.hold("port-1")
    with pytest.raises(BlockingIOError):
        locks.hold("port-1")
    with Path(first.name).open("a") as early:
        Path(first.name).unlink()
        first.close()
        fcntl.flock(early, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of a file that is there no more
        with locks.hold("port-1"), pytest.raises(BlockingIOError):
            locks.hold("port-1")
    assert [path.name for path in locks.folder().iterdir()] == ["port-1.lock"]


def _metrics(port: int) -> dict[str, list[float]]:
    """Values by name; requests are those to /healthz."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    shown: dict[str, list[float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("endpoint", "/healthz") == "/healthz":
                shown.setdefault(sample.name, []).append(sample.value)
    return shown


def _workers(server: int) -> set[int]:
    """The worker processes of a server, as Linux tells them."""
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    return {int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()}


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _is_free(port: int) -> bool:
    try:
        check_free("127.0.0.1", port)
    except SettingsError:
        return False
    return True
