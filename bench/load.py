"""Requests from outside, by h2load: as many as are answered, or so many a second whether answered or not."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.report import percentiles_ms
from bench.server import cpu_seconds

PROGRAMS = {
    "h2load": "on Debian and Ubuntu it comes with the package nghttp2-client",
    "oha": "`cargo install oha`, or a binary of github.com/hatoo/oha",
}


@dataclass(frozen=True)
class Load:
    """One run. good_per_s: answers of status 200, which the percentiles are of. statuses: how many answers had which.

    cpu_s: what the server spent. unanswered: requests without any answer. delayed: see `at_rate`.
    """

    good_per_s: float
    cpu_s: float
    percentiles: Mapping[str, float]
    statuses: Mapping[str, int] = field(default_factory=dict)
    unanswered: int = 0
    delayed: int = 0

    @property
    def good(self) -> int:
        return self.statuses.get("200", 0)


def need(*programs: str) -> None:
    """Ends the program where one of these is not on the PATH, saying where it comes from."""
    for program in programs:
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is not on the PATH; {PROGRAMS[program]}")


def closed_loop(pid: int, uris: Path, *, connections: int, requests: int) -> Load:
    """Each connection sends its next request once the one before is answered."""
    return _h2load(pid, uris, requests, [f"-c{connections}"])


def at_rate(pid: int, uris: Path, *, per_s: float, seconds: float, connections: int) -> Load:
    """So many requests a second whether or not those before are answered, from connections that ask in turn.

    A connection asks once in connections / per_s seconds: only an answer that takes longer delays a request, whose
    waiting would not be seen. `Load.delayed` says how many did.
    """
    each_s = connections / per_s
    stagger = ["-r1", f"--rate-period={max(1, round(1000 / per_s))}ms"]
    return _h2load(pid, uris, round(seconds * per_s), [f"-c{connections}", f"--rps={1 / each_s:.4f}", *stagger], each_s)


def _h2load(pid: int, uris: Path, requests: int, arguments: Sequence[str], each_s: float = math.inf) -> Load:
    log = uris.with_name("h2load.log")
    log.unlink(missing_ok=True)
    cpu = cpu_seconds(pid)
    _run(["h2load", "--h1", "-t1", f"-n{requests}", f"-i{uris}", f"--log-file={log}", *arguments])
    cpu = cpu_seconds(pid) - cpu
    lines = np.array([line.split() for line in log.read_text().splitlines()], np.int64).reshape(-1, 3)
    starts_us, statuses, durations_us = lines.T
    seconds = ((starts_us + durations_us).max() - starts_us.min()) / 1e6
    good_s = durations_us[statuses == 200] / 1e6
    counts = {str(status): int(count) for status, count in zip(*np.unique(statuses, return_counts=True), strict=True)}
    delayed = int(np.count_nonzero(durations_us > 1e6 * each_s))
    return Load(len(good_s) / seconds, cpu, percentiles_ms(good_s), counts, requests - len(lines), delayed)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
