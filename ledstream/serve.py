"""`ledstream serve`: the HTTP server's worker processes, each with parts of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import TextIO

from ledstream import callers, locks, parts
from ledstream.canary_command import status
from ledstream.process import check_free, collect_rarely, log_to_stderr, stop_with_supervisor
from ledstream.settings import Settings, SettingsError, read_settings
from serving.app import create_app
from serving.collector.paths import Collector, Door
from serving.parts import Erasures, Limits, Parts, wall_clock_ms
from serving.server import serve
from store.catalogue import Catalogue
from store.heartbeats import Heartbeats
from store.popularity import Popularity
from store.tallies import Tallies

# How long the thread that loads a release may keep the interpreter from requests; Python's own 5 ms are many answers.
SWITCH_S = 0.0005
COLLECT_EVERY = 50_000  # objects: looking through them takes a millisecond
_held: list[TextIO] = []  # locks that last as long as this process


def run(settings: Settings) -> None:
    """Serve until told to stop. Worker processes read the same settings from the environment."""
    door(settings)
    # A bad address ends here, with one line, and not in every worker.
    parts.open_log(settings, meanwhile=parts.spool(settings)).close()
    os.environ.update(settings.as_environ())
    stop_with_supervisor(settings, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with only_on(settings.host, settings.port), meeting_at(workers_folder(settings)):
        serve("ledstream.serve:make_app", settings.host, settings.port, workers=settings.workers)


@contextmanager
def only_on(host: str, port: int) -> Iterator[None]:
    """Nobody else serves on this port meanwhile. Raises SettingsError if somebody does.

    Worker processes share the port by SO_REUSEPORT, and so would a second server without a word: each would get some
    of the other's requests.
    """
    try:
        lock = locks.hold(f"port-{port}")
    except BlockingIOError as error:
        raise SettingsError(f"LEDSTREAM_PORT = {port}: another ledstream starts there") from error
    with lock:
        try:
            check_free(host, port)
            yield
        finally:
            Path(lock.name).unlink(missing_ok=True)


@contextmanager
def meeting_at(workers: Path | None) -> Iterator[None]:
    """The folder where the workers find each other, if they do: empty at first, and gone at the end."""
    if workers is None:
        yield
        return
    rmtree(workers, ignore_errors=True)  # of one that was killed
    workers.mkdir()
    try:
        yield
    finally:
        rmtree(workers, ignore_errors=True)


def workers_folder(settings: Settings) -> Path | None:
    """None where there is one worker, with nobody to find."""
    return locks.folder() / f"port-{settings.port}.workers" if settings.workers > 1 else None


def make_app() -> Collector:
    """One worker's application."""
    log_to_stderr()
    end_with_parent()
    sys.setswitchinterval(SWITCH_S)
    settings = read_settings(os.environ)
    if settings.pin_workers and (core := keep_to_a_core()):
        _held.append(core)
    store, spool = parts.connect_store(settings, timeout_s=parts.SERVING_TIMEOUT_S), parts.spool(settings)
    log, tallies = parts.open_log(settings, meanwhile=spool), Tallies(store, settings.namespace)
    return create_app(
        Parts(
            log=log,
            states=parts.user_states(settings, store),
            releases=parts.releases(settings),
            border=parts.border(settings),
            heartbeats=Heartbeats(store, settings.namespace),
            tallies=tallies,
            spool=spool,
            workers=workers_folder(settings),
            erasures=Erasures(parts.tombstones(settings), parts.erased_users(settings, store)),
            catalogue=Catalogue(store, settings.namespace),
            popularity=Popularity(store, settings.namespace),
            trial=lambda: status(log, tallies, wall_clock_ms()),
        ),
        Limits(events_per_s=settings.events_per_s / settings.workers, probe_every_s=settings.probe_every_s),
        door(settings),
        on_ready=lambda: collect_rarely(COLLECT_EVERY),
    )


def door(settings: Settings) -> Door:
    """Who may send events and change things. Raises SettingsError."""
    return Door(callers.sites(settings), callers.origins(settings), settings.refuse_bots)


def keep_to_a_core() -> TextIO | None:
    """Keep this process to a core that no other worker of this account keeps to; what is returned holds it.

    Where all are taken, or the system knows no such thing, it goes wherever it is put.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    for core in sorted(os.sched_getaffinity(0)):
        try:
            lock = locks.hold(f"core-{core}")
        except BlockingIOError:
            continue
        os.sched_setaffinity(0, {core})
        return lock
    return None


def end_with_parent() -> None:
    """Stop this process once the one that made it is gone: a worker left behind would keep the port and its lock."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
