"""All worker processes of a server in one scrape: whoever is asked asks the others, each on a socket in one folder.

Nothing is added up: each worker's figures carry its label, so that one which ends, and begins again at 0, does not look
like a drop of the whole. What a request counts stays where it is counted, and costs what it costs one process alone.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

logger = logging.getLogger(__name__)
ANSWER_WITHIN_S = 1.0
RECEIVED_AT_ONCE = 1 << 16
Told = Sequence[tuple[str, str, str, Sequence[tuple[str, dict[str, str], float]]]]


class Siblings(Collector):
    """What all workers' registries hold, each sample with the label `worker`.

    folder: of this server's workers and of nobody else. name: of this worker, unlike any other's. own: its registry.
    """

    def __init__(self, folder: Path, name: str, own: CollectorRegistry) -> None:
        self._folder, self._name, self._own = folder, name, own
        self._path = folder / name
        self._listener = socket.socket(socket.AF_UNIX)
        self._thread = threading.Thread(target=self._answer, name="siblings", daemon=True)

    def start(self) -> None:
        """From now on the others are answered. Raises OSError where the folder is not there."""
        self._path.unlink(missing_ok=True)
        self._listener.bind(str(self._path))
        self._listener.listen()
        self._thread.start()

    def stop(self) -> None:
        """Returns when nobody is answered any more."""
        self._path.unlink(missing_ok=True)
        with suppress(OSError):  # where that wakes nobody, closing does
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def describe(self) -> Iterator[Metric]:
        """Nothing: what the others have is known once they are asked."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Own and the others' figures, and how many workers are among them. A worker that is gone, or does not answer
        within ANSWER_WITHIN_S, is not.
        """
        all_told = {self._name: told(self._own), **self._others()}
        families: dict[str, Metric] = {}
        for worker, its_own in all_told.items():
            for name, text, kind, samples in its_own:
                family = families.setdefault(name, Metric(name, text, kind))
                for sample, labels, value in samples:
                    family.add_sample(sample, {**labels, "worker": worker}, value)
        yield from families.values()
        yield GaugeMetricFamily("ledstream_workers", "Worker processes that this scrape shows", len(all_told))

    def _others(self) -> dict[str, Told]:
        """By worker. All are asked before the first is listened to, so that they work at the same time."""
        deadline = time.monotonic() + ANSWER_WITHIN_S
        asked: dict[str, socket.socket] = {}
        for path in sorted(self._folder.iterdir()):
            if path == self._path:
                continue
            line = socket.socket(socket.AF_UNIX)
            line.settimeout(ANSWER_WITHIN_S)
            try:
                line.connect(str(path))
            except (ConnectionRefusedError, FileNotFoundError):
                path.unlink(missing_ok=True)  # that process ended
                line.close()
            except OSError as error:
                logger.warning("worker %s cannot be asked: %s", path.name, error)
                line.close()
            else:
                asked[path.name] = line
        return {worker: its_own for worker, line in asked.items() if (its_own := _received(worker, line, deadline))}

    def _answer(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            line.settimeout(ANSWER_WITHIN_S)
            with line, suppress(OSError):  # whoever asked went away
                line.sendall(json.dumps(told(self._own)).encode())


def told(registry: CollectorRegistry) -> Told:
    """All that a registry holds, as plain values."""
    return [
        (family.name, family.documentation, family.type, [(one.name, dict(one.labels), one.value) for one in samples])
        for family in registry.collect()
        if (samples := family.samples)
    ]


def _received(worker: str, line: socket.socket, deadline: float) -> Told:
    """All of what a worker tells; nothing where that does not come in time."""
    data = b""
    with line:
        try:
            while part := line.recv(RECEIVED_AT_ONCE):
                data += part
                line.settimeout(max(deadline - time.monotonic(), 0.001))
            its_own: Told = json.loads(data)
        except (OSError, ValueError) as error:
            logger.warning("worker %s does not tell its figures: %s", worker, error)
            return ()
    return its_own
