"""Real servers for tests: where an address in the environment or a container engine offers none, started here."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from store.embedded import EmbeddedStore

KAFKA_VERSION = "4.3.1"
KAFKA_CLUSTER = "bGVkc3RyZWFtLXRlc3RzAA"
START_TIMEOUT_S = 60.0

_SERVER_PROPERTIES = """
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor={copies}
default.replication.factor={copies}
min.insync.replicas={in_sync}
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={in_sync}
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr={in_sync}
group.initial.rebalance.delay.ms=0
num.network.threads=1
num.io.threads=2
log.segment.bytes=67108864
log.retention.check.interval.ms=500
log.initial.task.delay.ms=500
log.cleaner.dedupe.buffer.size=4194304
"""

_LOG4J = """<Configuration status="warn"><Appenders>
  <Console name="out"><PatternLayout pattern="%d %p %m (%c)%n"/></Console>
</Appenders><Loggers><Root level="warn"><AppenderRef ref="out"/></Root></Loggers></Configuration>
"""


class ServerMissing(Exception):
    """This machine cannot start the server; the sentence says what it lacks."""


class KafkaServer:
    """One broker on loopback. It can be killed and started again on the same data and the same port.

    node, controllers: its number, and the controllers' ports by number where it is one of several.
    """

    def __init__(self, folder: Path, *, node: int = 1, controllers: Mapping[int, int] | None = None) -> None:
        self._folder, self._libs = folder, kafka_libs()
        self._process: subprocess.Popen[bytes] | None = None
        port, controller_port = free_ports(2)
        controllers = controllers or {node: controller_port}
        self.node, self.bootstrap = node, f"127.0.0.1:{port}"
        folder.mkdir(parents=True, exist_ok=True)
        properties = _SERVER_PROPERTIES.format(
            port=port,
            controller_port=controllers[node],
            node=node,
            voters=",".join(f"{number}@127.0.0.1:{at}" for number, at in controllers.items()),
            copies=len(controllers),
            in_sync=len(controllers) // 2 + 1,
            data=folder / "data",
        )
        if len(controllers) == 1:  # nobody else could lead, so it may as well be missed soon
            properties += "broker.session.timeout.ms=2000\nbroker.heartbeat.interval.ms=500\n"
        (folder / "server.properties").write_text(properties)
        (folder / "log4j2.xml").write_text(_LOG4J)
        atexit.register(self.kill)

    def start(self) -> None:
        """Returns when the broker answers. Raises RuntimeError with the last lines of its log if it does not."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """The process, which takes a while until it answers."""
        properties = str(self._folder / "server.properties")
        with (self._folder / "broker.log").open("ab") as out:
            if not (self._folder / "data").exists():
                storage = ["kafka.tools.StorageTool", "format", "-t", KAFKA_CLUSTER, "-c", properties]
                subprocess.run(self._java(*storage), stdout=out, stderr=out, check=True)
            # A group of its own: Ctrl-C reaches the tests first, which then stop it.
            command = self._java("kafka.Kafka", properties)
            self._process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)

    def wait(self) -> None:
        """As `start`, for a broker that was launched."""
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                tail = (self._folder / "broker.log").read_text(errors="replace").splitlines()[-10:]
                raise RuntimeError("the Kafka broker did not start:\n" + "\n".join(tail))
            time.sleep(0.2)

    def is_running(self) -> bool:
        return self._process is not None

    def stop(self) -> None:
        """A clean end: SIGTERM, then wait. Harmless when not running."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """The crash: SIGKILL. Harmless when not running."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """It takes connections and says nothing any more, until `resume`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on where it was. Harmless when not running."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        self.kill()
        self.start()

    def forget(self, topic: str, partition: int) -> None:
        """The disk loses the partition's records, while the broker is down. The topic stays the one it was."""
        assert self._process is None
        for path in (self._folder / "data" / f"{topic}-{partition}").iterdir():
            if path.name != "partition.metadata":
                path.unlink()

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _answers(self) -> bool:
        host, _, port = self.bootstrap.rpartition(":")
        try:
            # Where nobody listens, each client that is tried leaves a thread and its sockets behind.
            socket.create_connection((host, int(port)), timeout=1.0).close()
            KafkaAdminClient(bootstrap_servers=self.bootstrap, bootstrap_timeout_ms=1_000).close()
        except (KafkaError, OSError):
            return False
        return True

    def _java(self, *command: str) -> list[str]:
        memory = ["-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true"]
        logging = f"-Dlog4j2.configurationFile=file:{self._folder / 'log4j2.xml'}"
        return ["java", *memory, logging, "-cp", f"{self._libs}/*", *command]


class KafkaCluster:
    """Three brokers, each a controller too: replication 3, two of them in sync, the brokers' own timeouts."""

    def __init__(self, folder: Path) -> None:
        controllers = dict(zip((1, 2, 3), free_ports(3), strict=True))
        self._servers = {
            node: KafkaServer(folder / str(node), node=node, controllers=controllers) for node in controllers
        }

    @property
    def brokers(self) -> list[str]:
        """host:port of each, running or not."""
        return [server.bootstrap for server in self._servers.values()]

    def start(self) -> None:
        """Returns when all three answer and every replica is in sync."""
        for server in self._servers.values():
            server.launch()
        for server in self._servers.values():
            server.wait()
        self.wait_until_whole()

    def stop(self) -> None:
        """The end, without ceremony."""
        for server in self._servers.values():
            server.kill()

    def kill(self, node: int) -> None:
        """SIGKILL for one of them."""
        self._servers[node].kill()

    def restart(self, node: int) -> None:
        """Returns when the broker answers and every replica is in sync."""
        self._servers[node].start()
        self.wait_until_whole()

    def leader(self, topic: str, partition: int) -> int:
        """Node that leads the partition; topic: its name on the brokers."""
        with self._administration() as admin:
            (found,) = admin.describe_topics([topic])
        return next(int(one["leader_id"]) for one in found["partitions"] if one["partition_index"] == partition)

    def controller(self) -> int:
        """Node of the active controller."""
        with self._administration() as admin:
            quorum = admin.describe_metadata_quorum()
        return int(quorum["topics"][0]["partitions"][0]["leader_id"])

    def wait_until_whole(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_whole():
            if time.monotonic() > deadline:
                raise RuntimeError(f"not every replica is in sync after {START_TIMEOUT_S:g} s")
            time.sleep(0.2)

    def _is_whole(self) -> bool:
        try:
            with self._administration() as admin:
                partitions = [one for topic in admin.describe_topics() for one in topic["partitions"]]
                brokers = admin.describe_cluster()["brokers"]
        except KafkaError:
            return False
        return len(brokers) == 3 and all(len(one["isr_nodes"]) == len(one["replica_nodes"]) for one in partitions)

    @contextmanager
    def _administration(self) -> Iterator[Any]:
        client: Any = KafkaAdminClient(bootstrap_servers=self.brokers, bootstrap_timeout_ms=10_000)
        try:
            yield client
        finally:
            client.close()


class RedisServer(EmbeddedStore):
    """The machine's own `redis-server`, run the way the embedded Valkey is."""

    def _command(self) -> list[str]:
        return ["redis-server", *super()._command()[1:]]


def kafka_libs() -> Path:
    """The broker's jars, in the user's cache; fetched with Maven when they are not there."""
    cache_dir = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    libs = cache_dir / "ledstream" / f"kafka-{KAFKA_VERSION}"
    if shutil.which("java") is None:
        raise ServerMissing("no Kafka: neither LEDSTREAM_TEST_KAFKA, nor a container engine, nor Java")
    if libs.exists():
        return libs
    if shutil.which("mvn") is None:
        raise ServerMissing(f"no Kafka: no Maven to fill {libs}")
    libs.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=libs.parent) as unfinished:
        fetched = Path(unfinished) / "libs"
        command = [
            "mvn",
            "-q",
            "-B",
            "-f",
            str(Path(__file__).parent / "kafka" / "pom.xml"),
            "dependency:copy-dependencies",
        ]
        options = ["-DincludeScope=runtime", f"-DoutputDirectory={fetched}"]
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServerMissing(f"no Kafka: Maven could not fetch it: {done.stdout[-500:]}{done.stderr[-500:]}")
        try:
            fetched.rename(libs)
        except OSError:
            if not libs.exists():  # another test run was faster
                raise
    return libs


@cache
def has_container_engine() -> bool:
    """Whether `docker` reaches an engine. Asked by command: the Python client leaves a socket open where none is."""
    if shutil.which("docker") is None:
        return False
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        return subprocess.run(command, capture_output=True, timeout=3, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def free_ports(how_many: int) -> list[int]:
    """Loopback ports nobody listens on; all different.

    Below those that the system gives to outgoing connections: while a server is down none of them takes its port.
    """
    ports: set[int] = set()
    while len(ports) < how_many:
        port = 10_000 + secrets.randbelow(22_000)  # not from `random`, which Hypothesis makes the same in every process
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.add(port)
    return list(ports)
