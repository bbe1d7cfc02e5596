"""`ledstream up`: the whole system as one tree of processes, each restarted when it dies.

Start: embedded store (unless both addresses are set), topics, then the children. Stop: children first, in the order
requests and events flow, so that nothing accepted is left unwritten; the store last.
"""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from ledstream import parts
from ledstream.process import check_free, stop_on_signals
from ledstream.settings import Settings, SettingsError
from store.embedded import EmbeddedStore

logger = logging.getLogger(__name__)
LONGEST_REST_S = 30.0
STOP_TIMEOUT_S = 20.0


@dataclass
class Child:
    """One process of the tree. rest_s: how long it waits before it is started again; doubles while it keeps dying."""

    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    rest_s: float = 0.5

    def start(self, environ: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ledstream", *self.command], env=environ, start_new_session=True
        )
        self.started_at = time.monotonic()
        logger.info("%s started, pid %d", self.name, self.process.pid)

    def revive(self, environ: dict[str, str]) -> None:
        """Start it again if it died and has rested."""
        if self.process is not None and self.process.poll() is not None:
            if time.monotonic() - self.started_at > LONGEST_REST_S:
                self.rest_s = 0.5
            logger.error("%s ended with %d, again in %.1f s", self.name, self.process.returncode, self.rest_s)
            self.restart_at = time.monotonic() + self.rest_s
            self.rest_s = min(self.rest_s * 2, LONGEST_REST_S)
            self.process = None
        if self.process is None and time.monotonic() >= self.restart_at:
            self.start(environ)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for one that does not listen."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            logger.error("%s does not stop, killing it", self.name)  # noqa: TRY400
            self.process.kill()
            self.process.wait()


def run(settings: Settings) -> None:
    """Run the system until SIGTERM or Ctrl-C."""
    if settings.metrics_port:
        raise SettingsError(
            f"LEDSTREAM_METRICS_PORT = {settings.metrics_port}: `up` has two consumers, which cannot share it: unset it"
        )
    stop = stop_on_signals(settings)
    with ExitStack() as stack:
        stack.enter_context(only_one(settings))
        check_free(settings.host, settings.port)
        store = stack.enter_context(EmbeddedStore(settings.data_dir)) if parts.is_embedded(settings) else None
        parts.open_log(settings).close()  # creates the topics
        children = [
            Child("server", ["serve"]),
            Child("timelines", ["consume", "timelines"]),
            Child("archive", ["consume", "archive"]),
        ]
        if settings.train_every_s:
            children.append(Child("training", ["train", "--every"]))
        elif settings.canary_share:
            children.append(Child("judge", ["canary", "judge"]))
        for child in reversed(children):
            stack.callback(child.stop)
        supervise(store, children, settings, stop)
        logger.info("stopping")


def supervise(
    store: EmbeddedStore | None, children: Sequence[Child], settings: Settings, stop: threading.Event
) -> None:
    """Keep the embedded store, if there is one, and the children running until stop is set."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("LEDSTREAM_")}
    environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads of one process that wait for another's cost 20 times more
    environ |= settings.model_copy(update={"supervisor_pid": os.getpid()}).as_environ()
    while not stop.is_set():
        if store is not None and not store.is_alive():
            logger.error("the embedded store ended, starting it again on its data")
            store.start()
        for child in children:
            child.revive(environ)
        stop.wait(0.2)


@contextmanager
def only_one(settings: Settings) -> Iterator[None]:
    """Hold the data directory's lock. Raises SettingsError where another `up` has it.

    Whoever holds it may end an embedded store that a killed `up` left running: nobody else supervises it.
    """
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        held = (settings.data_dir / "up.lock").open("w")
    except OSError as error:
        raise SettingsError(f"LEDSTREAM_DATA_DIR = {settings.data_dir}: {error.strerror}") from None
    with held as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"LEDSTREAM_DATA_DIR = {settings.data_dir}: another `ledstream up` runs on it"
            ) from None
        EmbeddedStore(settings.data_dir).end_orphan()
        yield
