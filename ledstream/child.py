"""A process of ours below another of ours: started with the settings of the one above, stopped when that one stops."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ledstream.settings import PREFIX, Settings

logger = logging.getLogger(__name__)
LONGEST_REST_S = 30.0
STOP_TIMEOUT_S = 20.0


@dataclass
class Child:
    """`ledstream` with these arguments. rest_s: how long it waits before it is started again; doubles while it keeps
    dying.
    """

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

    def ended(self) -> int | None:
        """How it ended, None while it runs. Only after `start`."""
        assert self.process is not None
        return self.process.poll()

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


def environ_of(settings: Settings) -> dict[str, str]:
    """The environment of a child: these settings and none of our variables; it ends with this process."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads of one process that wait for another's cost 20 times more
    return environ | settings.model_copy(update={"supervisor_pid": os.getpid()}).as_environ()
