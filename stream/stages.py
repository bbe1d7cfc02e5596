"""Where a process's time goes, by stage."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stages:
    """By stage: wall-clock seconds, seconds of this thread's CPU, and how often it was entered. Used by one thread."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.cpu_seconds: defaultdict[str, float] = defaultdict(float)
        self.counts: defaultdict[str, int] = defaultdict(int)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count what happens inside as this stage's."""
        started, cpu = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - started
            self.cpu_seconds[name] += time.thread_time() - cpu
            self.counts[name] += 1

    def lap(self, name: str, since: float) -> float:
        """Count the time from `since` (of time.perf_counter) until now as this stage's; returns now.

        Without the CPU, which costs more to ask for than some stages take.
        """
        now = time.perf_counter()
        self.seconds[name] += now - since
        self.counts[name] += 1
        return now
