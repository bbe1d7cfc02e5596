"""What every long-running process needs: to log, to be told to stop, a port of its own."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

from ledstream.settings import Settings, SettingsError
from serving.addresses import tcp_socket


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


def collect_rarely(objects: int = 100_000) -> None:
    """Look for garbage cycles once there are so many objects more, and never among what is there already.

    What a request makes dies by itself, as do the ten thousand small lists of a batch of events: looking through them
    costs more than reading them. Looking through everything took tens of milliseconds in a server.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(objects, 20, 100)


def check_free(host: str, port: int) -> None:
    """Raises SettingsError where somebody listens on the port, or the host is not this machine's."""
    try:
        probe, address = tcp_socket(host, port)
        with probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise SettingsError(f"LEDSTREAM_PORT = {port}: not free on {host}: {error.strerror}") from None
