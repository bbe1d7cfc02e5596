"""`ledstream serve` as a process: what a killed one leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

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
