"""A real server around the HTTP interface, in a process of its own, whose store is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from store.embedded import EmbeddedStore
from tests.eventually import until
from tests.servers import free_ports
from tests.worlds import NOW_MS, releases, two_tastes

APPLICATION = """
import os
from pathlib import Path
from serving.app import create_app
from serving.parts import Parts
from store.connection import connect
from store.user_state import UserStates
from stream.backends import open_log
from stream.events import Border
from stream.topics import topics
from tests.records import lengths
from tests.worlds import KINDS, releases

def make():
    log = open_log(os.environ["ADDRESS"], "t")
    for topic, partitions in topics(2).items():
        log.create_topic(topic, partitions)
    states = UserStates(connect(os.environ["ADDRESS"], timeout_s=0.25), "t", lengths)
    return create_app(Parts(log, states, releases(Path(os.environ["RELEASES"])), Border(KINDS)))
"""
START = "import sys; from serving.server import serve; serve('application:make', '127.0.0.1', int(sys.argv[1]))"


def test_a_real_server_serves_degrades_when_its_store_is_killed_recovers_and_ends_cleanly(tmp_path: Path) -> None:
    (tmp_path / "application.py").write_text(APPLICATION)
    (port,) = free_ports(1)
    base = f"http://127.0.0.1:{port}"
    releases(tmp_path / "releases").publish(two_tastes(), now_ms=NOW_MS)
    with EmbeddedStore(tmp_path / "data", extra=("--save", "")) as store:
        path = os.pathsep.join([str(tmp_path), str(Path(__file__).parent.parent)])
        environ = {**os.environ, "ADDRESS": store.address, "RELEASES": str(tmp_path / "releases"), "PYTHONPATH": path}
        with subprocess.Popen([sys.executable, "-c", START, str(port)], env=environ) as server:
            try:
                until(lambda: httpx.get(f"{base}/readyz").json()["ready"])
                version = httpx.get(f"{base}/v1/releases").json()["releases"][0]["version"]
                assert httpx.post(f"{base}/v1/releases/{version}/activate").status_code == 200
                until(lambda: httpx.get(f"{base}/readyz").json()["release"] == version)
                posted = httpx.post(f"{base}/v1/events", json={"user_id": "ana", "item_id": "hat-01", "kind": "view"})
                assert posted.status_code == 202
                assert not httpx.get(f"{base}/v1/recommendations?user=ana").json()["degraded"]
                assert store.pid is not None
                os.kill(store.pid, signal.SIGKILL)
                store.stop()
                with httpx.Client(base_url=base) as client:
                    begun = time.monotonic()
                    away = [client.get("/v1/recommendations?user=ana").json() for _ in range(5)]
                    assert time.monotonic() - begun < 1.5
                assert [(answer["degraded"], answer["source"], len(answer["items"])) for answer in away] == [
                    (True, "popular", 20)
                ] * 5
                assert httpx.get(f"{base}/readyz").status_code == 503
                store.start()
                until(lambda: not httpx.get(f"{base}/v1/recommendations?user=ana").json()["degraded"])
            finally:
                server.terminate()
            assert server.wait(timeout=15) == 0
