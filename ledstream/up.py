"""`ledstream up`: the whole system as one tree of processes, each restarted when it dies.

Start: embedded store (unless both addresses are set), topics, then the children. Stop: children first, in the order
requests and events flow, so that nothing accepted is left unwritten; the store last.
"""

from __future__ import annotations

import fcntl
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from ledstream import callers, parts
from ledstream.child import Child, environ_of
from ledstream.config_check import check_config
from ledstream.process import check_free, stop_on_signals
from ledstream.settings import Settings, SettingsError
from store.embedded import EmbeddedStore

logger = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Run the system until SIGTERM or Ctrl-C. Raises SettingsError, also for what would only stop a child."""
    if settings.metrics_port:
        raise SettingsError(
            f"LEDSTREAM_METRICS_PORT = {settings.metrics_port}: `up` has three consumers, which cannot share it: unset"
        )
    if settings.retrain_every:
        check_config(settings)
    callers.sites(settings)
    callers.origins(settings)
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
            Child("catalogue", ["consume", "catalogue"]),
        ]
        if settings.retrain_every:
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
    environ = environ_of(settings)
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
