"""Real consumer processes and servers, to be killed, halted, ended and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from bench.scraped import scraped
from ledstream.settings import PREFIX, Settings
from store.embedded import EmbeddedStore
from tests.servers import free_ports

ROOT = Path(__file__).parents[1]
ENDS_WITHIN_S = 30.0
ANSWERS_WITHIN_S = 0.5
OURS = "ledstream_consumer_"


class KillableStore(EmbeddedStore):
    """The embedded Valkey, append-only file and all, with an end that it does not see coming."""

    def kill(self) -> None:
        """SIGKILL."""
        assert self.pid is not None
        os.kill(self.pid, signal.SIGKILL)
        self.stop()  # whatever is left of it


class Consumer:
    """One place for `ledstream consume timelines`, a process after another in it, all writing one log file.

    totals: what the metrics of all processes in this place said when they were last asked.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        (self._port,) = free_ports(1)
        self.name, self.log = name, settings.data_dir / f"{name}.log"
        self._environ = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
        self._environ |= settings.model_copy(update={"metrics_port": self._port}).as_environ()
        self._process: subprocess.Popen[bytes] | None = None
        self._now: Mapping[str, float] = {}
        self._before: Counter[str] = Counter()

    def start(self) -> None:
        command = [sys.executable, "-m", "ledstream", "consume", "timelines"]
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                command, env=self._environ, cwd=ROOT, stdout=out, stderr=out, start_new_session=True
            )

    def kill(self) -> None:
        """SIGKILL, right after a last look at its metrics. Harmless when not running."""
        self.ask()
        self._end(signal.SIGKILL)

    def end(self) -> int | None:
        """SIGTERM, and its exit code; None when it was not running. One that does not end in time is killed."""
        self.ask()
        return self._end(signal.SIGTERM)

    def halt(self) -> None:
        """SIGSTOP."""
        self.ask()
        self._running.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        """SIGCONT."""
        self._running.send_signal(signal.SIGCONT)

    def wait(self, within_s: float) -> int:
        """Its exit code, once it has ended by itself."""
        code = self._running.wait(within_s)
        self._gone()
        return code

    def exit_code(self) -> int | None:
        """Of a process that has ended by itself; None for one that runs, or is not there."""
        code = self._process.poll() if self._process is not None else None
        if code is not None:
            self._gone()
        return code

    def ask(self) -> None:
        """Look at its metrics, if it answers."""
        shown = {sample.name: sample.value for sample in scraped(self._port, ANSWERS_WITHIN_S)}
        if shown:
            ours = {name.removeprefix(OURS): value for name, value in shown.items() if name.startswith(OURS)}
            self._now = {name.removesuffix("_total"): value for name, value in ours.items()}

    def answers(self) -> bool:
        """Whether the process that runs shows metrics: by then it listens to signals too."""
        self.ask()
        return bool(self._now)

    def now(self, name: str) -> float:
        """A counter or gauge of the process that runs, as last seen; 0 before."""
        return self._now.get(name, 0.0)

    def asked(self, name: str) -> float:
        """The same, as of now."""
        self.ask()
        return self.now(name)

    @property
    def totals(self) -> Counter[str]:
        return self._before + Counter(self._now)

    @property
    def last_words(self) -> str:
        """The last line it wrote."""
        lines = self.log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else ""

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} does not run"
        return self._process

    def _end(self, how: signal.Signals) -> int | None:
        if self._process is None:
            return None
        self._process.send_signal(how)
        try:
            code = self._process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._gone()
        return code

    def _gone(self) -> None:
        self._before += Counter(self._now)
        self._process, self._now = None, {}
