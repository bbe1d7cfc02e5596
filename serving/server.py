"""Granian around the application: worker processes, signals, a clean end."""

from __future__ import annotations

from granian import Granian
from granian.constants import Interfaces, Loops
from granian.log import LogLevels

BACKLOG = 2048
CONCURRENT = 8192  # requests in hand: beyond our own limits, so that ours answer with 503


def serve(factory: str, host: str, port: int, *, workers: int = 1) -> None:
    """Serve until SIGTERM or SIGINT; call from the main thread.

    factory: `package.module:function` that makes the application, called once in each worker process.
    """
    Granian(
        factory,
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        workers=workers,
        loop=Loops.uvloop,
        backlog=BACKLOG,
        backpressure=CONCURRENT,
        websockets=False,
        log_level=LogLevels.warning,
        factory=True,
        workers_kill_timeout=10,
        respawn_failed_workers=True,
    ).serve()
