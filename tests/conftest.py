"""Fixtures that are real servers. A missing one skips its tests on a laptop and fails them in CI."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import settings

from store.connection import Client, connect
from store.embedded import EmbeddedStore
from store.user_state import UserStates
from tests.records import lengths
from tests.servers import KafkaCluster, KafkaServer, RedisServer, ServerMissing, has_container_engine
from tests.troubled_log import TroubledLog

# A busy machine is no failure: examples may take as long as they need.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def missing(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def namespace() -> str:
    """A prefix nobody else uses, so that tests can share a server."""
    return f"test-{secrets.token_hex(6)}"


@pytest.fixture(scope="session")
def redis_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey for the whole session: LEDSTREAM_TEST_REDIS, or the embedded one."""
    if address := os.environ.get("LEDSTREAM_TEST_REDIS"):
        yield address
        return
    with EmbeddedStore(tmp_path_factory.mktemp("valkey")) as store:
        yield store.address


@pytest.fixture
def redis_client(redis_address: str) -> Iterator[Client]:
    """A client of bytes. The server is shared: keep to the `namespace`."""
    with connect(redis_address) as client:
        yield client


@pytest.fixture
def log() -> TroubledLog:
    """In memory, of two partitions; modules about other logs have a `log` of their own."""
    return TroubledLog(partitions=2)


@pytest.fixture
def states(redis_client: Client, namespace: str) -> UserStates:
    """Of users that nobody has seen yet."""
    return UserStates(redis_client, namespace, lengths)


@pytest.fixture(scope="session")
def original_redis_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis, not a Valkey: in a container, or the machine's own redis-server."""
    if has_container_engine():
        from testcontainers.redis import RedisContainer

        with RedisContainer("redis:7-alpine") as container:
            yield f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}/0"
        return
    if shutil.which("redis-server") is None:
        missing("no Redis: neither a container engine nor redis-server")
    with RedisServer(tmp_path_factory.mktemp("redis")) as store:
        yield store.address


@contextmanager
def broker(folder: Path) -> Iterator[KafkaServer]:
    """One that runs."""
    try:
        server = KafkaServer(folder)
    except ServerMissing as error:
        missing(str(error))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def mortal_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """Starting it again takes the longer the more topics it has."""
    with broker(tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture
def kafka_server(mortal_kafka: KafkaServer) -> Iterator[KafkaServer]:
    """A broker that tests may kill, if they start it again; one that failed in between takes no other along."""
    yield mortal_kafka
    if not mortal_kafka.is_running():
        mortal_kafka.start()


@pytest.fixture(scope="module")
def kafka_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """Three brokers that tests may kill, if they start them again."""
    try:
        cluster = KafkaCluster(tmp_path_factory.mktemp("kafka-cluster"))
    except ServerMissing as error:
        missing(str(error))
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def kafka_bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a broker for the whole session, which nobody kills."""
    if address := os.environ.get("LEDSTREAM_TEST_KAFKA"):
        yield address
    elif has_container_engine():
        from testcontainers.kafka import KafkaContainer

        with KafkaContainer("confluentinc/cp-kafka:8.1.0").with_kraft() as container:
            yield container.get_bootstrap_server()
    else:
        with broker(tmp_path_factory.mktemp("kafka")) as server:
            yield server.bootstrap
