"""uvicorn around the application: worker processes, signals, a clean end."""

from __future__ import annotations

import signal
import socket
from typing import Any

from uvicorn import Config, Server
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from serving.addresses import tcp_socket
from serving.protocol import ShortWay

BACKLOG = 2048
KEEP_ALIVE_S = 75  # longer than the minute that balancers keep a connection: they are to end it, not we
ENDS_WITHIN_S = 10
SHOWS_LIFE_WITHIN_S = 30  # a worker, before it is killed: many that start at once on few cores take seconds to import


class OwnSocket:
    """Sent to a worker process, it arrives there as a socket of that process's own.

    On a shared one whoever wakes first takes all the connections that wait; on their own, the kernel deals them out.
    """

    def __init__(self, host: str, port: int) -> None:
        self._at = host, port

    def __reduce__(self) -> tuple[Any, ...]:
        return listening, self._at


def listening(host: str, port: int) -> socket.socket:
    """A socket bound there, beside those of other processes of ours."""
    found, address = tcp_socket(host, port)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind(address)
    return found


def configured(app: Any, **more: Any) -> Config:
    """What uvicorn is to do with an application, or with the name of its factory."""
    return Config(
        app,
        loop="uvloop",
        http=ShortWay,
        ws="none",
        lifespan="on",
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=ENDS_WITHIN_S,
        timeout_worker_healthcheck=SHOWS_LIFE_WITHIN_S,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        **more,
    )


def serve(factory: str, host: str, port: int, *, workers: int = 1) -> None:
    """Serve until SIGTERM or SIGINT; call from the main thread. Raises SystemExit where an application cannot start.

    factory: `package.module:function` that makes the application, called once in each worker process.
    """
    config = configured(factory, factory=True, host=host, port=port, workers=workers)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises them again once it has ended well
    if workers > 1:
        sockets: Any = [OwnSocket(host, port)]
        supervisor = Multiprocess(config, sockets)
        supervisor.run()
        if any(worker.exitcode == STARTUP_FAILURE for worker in supervisor.processes):
            raise SystemExit(STARTUP_FAILURE)  # as a single process does: whoever started us must not think it is well
    else:
        Server(config).run([listening(host, port)])
