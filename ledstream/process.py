"""What every long-running process needs: to be told to stop, and to show its numbers."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

from prometheus_client import Counter, Gauge, start_http_server

from ledstream.settings import Settings, SettingsError
from stream.loop import Progress


def log_to_stderr() -> None:
    """Plain lines with time, level and where from."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    for chatty in ("kafka", "faiss.loader"):
        logging.getLogger(chatty).setLevel(logging.ERROR)


def stop_on_signals(settings: Settings) -> threading.Event:
    """An event set by SIGTERM, SIGINT, or the end of the supervisor, if there is one."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    stop_with_supervisor(settings, stop.set)
    return stop


def stop_with_supervisor(settings: Settings, stop: Callable[[], None]) -> None:
    """Call stop once the supervisor is gone: a killed `up` leaves nothing but the embedded store running,
    which the next one ends. Nothing without a supervisor.
    """
    if not settings.supervisor_pid:
        return

    def watch() -> None:
        while os.getppid() == settings.supervisor_pid:
            time.sleep(0.5)
        stop()

    threading.Thread(target=watch, name="supervisor-watch", daemon=True).start()


def check_free(host: str, port: int) -> None:
    """Raises SettingsError where somebody listens on the port, or the host is not this machine's."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SettingsError(f"LEDSTREAM_PORT = {port}: not free on {host}: {error.strerror}") from None


class ConsumerMetrics:
    """A loop's progress as Prometheus metrics, on a port of its own if one is set."""

    def __init__(self, settings: Settings, group: str) -> None:
        self._gauges = {
            name: Gauge(f"ledstream_consumer_{name}", text, ["group"]).labels(group)
            for name, text in {
                "lag_records": "Records not yet read, of this process's partitions",
                "waiting": "1 while the store or the log is away",
                "last_turn_timestamp_seconds": "When the loop last went round",
            }.items()
        }
        self._counters = {
            name: Counter(f"ledstream_consumer_{name}", text, ["group"]).labels(group)
            for name, text in {
                "consumed": "Records read and handled",
                "dead_letters": "Records nobody could read, kept as dead letters",
                "waits": "Times the loop waited for the store or the log",
                "commit_failures": "Commits that failed; the next one covers them",
                "rebalances": "Times partitions came or went",
            }.items()
        }
        self._shown: dict[str, int] = {}
        if settings.metrics_port:
            start_http_server(settings.metrics_port, addr=settings.host)

    def show(self, progress: Progress) -> None:
        """Bring the metrics up to the progress."""
        for name, counter in self._counters.items():
            value = int(getattr(progress, name))
            counter.inc(value - self._shown.get(name, 0))
            self._shown[name] = value
        self._gauges["lag_records"].set(sum(progress.lag.values()))
        self._gauges["waiting"].set(progress.waiting_for is not None)
        self._gauges["last_turn_timestamp_seconds"].set(progress.ticked_at)
