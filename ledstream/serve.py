"""`ledstream serve`: the HTTP server's worker processes, each with parts of its own."""

from __future__ import annotations

import os
import signal

from ledstream import parts
from ledstream.process import log_to_stderr, stop_with_supervisor
from ledstream.settings import Settings, read_settings
from serving.app import create_app
from serving.hot import HotPaths
from serving.parts import Parts
from serving.server import serve


def run(settings: Settings) -> None:
    """Serve until told to stop. Worker processes read the same settings from the environment."""
    parts.open_log(settings).close()  # a bad address ends here, with one line, and not in every worker
    os.environ.update(settings.as_environ())
    stop_with_supervisor(settings, lambda: os.kill(os.getpid(), signal.SIGTERM))
    serve("ledstream.serve:make_app", settings.host, settings.port, workers=settings.workers)


def make_app() -> HotPaths:
    """One worker's application."""
    log_to_stderr()
    settings = read_settings(os.environ)
    store = parts.connect_store(settings, timeout_s=parts.SERVING_TIMEOUT_S)
    return create_app(
        Parts(
            log=parts.open_log(settings),
            states=parts.user_states(settings, store),
            releases=parts.releases(settings),
            border=parts.border(settings),
        )
    )
