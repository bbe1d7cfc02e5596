"""`ledstream train --every`: trainings one after the other, each a process of its own, and a judge of canaries beside.

A training that fails, for whatever reason, is reported, and the next is tried when its time comes: no release this
time is no reason to end. What it took of memory goes with its process.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from ledstream import parts
from ledstream.child import Child, environ_of
from ledstream.config_check import check_config
from ledstream.judge import judging
from ledstream.process import stop_on_signals
from ledstream.settings import Settings
from stream.log import Log, LogUnavailable

logger = logging.getLogger(__name__)
LOOK_EVERY_S = 0.2
OPEN_AGAIN_S = 5.0


def run_forever(settings: Settings, further: Sequence[str] = ()) -> None:
    """A training each settings.retrain_every seconds, counted from the end of the one before, until SIGTERM.

    further: arguments of `ledstream train` beside the settings. Raises SettingsError where the file settings.config is
    no good; `up` has asked about it already, and a file that went bad since fails one training and not the schedule.
    """
    if not settings.supervisor_pid:
        check_config(settings)
    stop = stop_on_signals(settings)
    log = _opened(settings, stop)
    if log is None:
        return
    with judging(settings, log, stop):
        while not stop.wait(settings.retrain_every):
            _train(settings, further, stop)
    log.close()


def _opened(settings: Settings, stop: threading.Event) -> Log | None:
    """The log, as soon as it is there; None where stop came first."""
    is_away = False
    while not stop.is_set():
        try:
            return parts.open_log(settings)
        except LogUnavailable as error:
            if not is_away:
                logger.warning("waiting for the log: %s", error)
            is_away = True
            stop.wait(OPEN_AGAIN_S)
    return None


def _train(settings: Settings, further: Sequence[str], stop: threading.Event) -> None:
    """One training, to its end or until stop."""
    training = Child("training", ["train", *further])
    training.start(environ_of(settings))
    while training.ended() is None and not stop.wait(LOOK_EVERY_S):
        pass
    training.stop()
    code = training.ended()
    if code and not stop.is_set():
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        logger.warning("no release this time (%s); the next training begins in %g s", how, settings.retrain_every)
