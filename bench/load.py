"""Requests from outside: as many as are answered (h2load), or so many a second whether answered or not (oha)."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.report import percentiles_ms
from bench.server import cpu_seconds

PROGRAMS = {
    "h2load": "on Debian and Ubuntu it comes with the package nghttp2-client",
    "oha": "`cargo install oha`, or a binary of github.com/hatoo/oha",
}


@dataclass(frozen=True)
class Load:
    """One run. good_per_s: answers of status 200. statuses: how many answers had which; percentiles are of all answers.

    cpu_s: what the server spent. unanswered: requests without any answer.
    """

    good_per_s: float
    cpu_s: float
    percentiles: Mapping[str, float]
    statuses: Mapping[str, int] = field(default_factory=dict)
    unanswered: int = 0

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
    log = uris.with_name("h2load.log")
    log.unlink(missing_ok=True)
    command = ["h2load", "--h1", f"-c{connections}", "-t1", f"-n{requests}", f"-i{uris}", f"--log-file={log}"]
    cpu = cpu_seconds(pid)
    _run(command)
    cpu = cpu_seconds(pid) - cpu
    lines = [line.split() for line in log.read_text().splitlines()]
    starts_us, durations_us = [int(line[0]) for line in lines], [int(line[2]) for line in lines]
    end_us = max(start + duration for start, duration in zip(starts_us, durations_us, strict=True))
    seconds = (end_us - min(starts_us)) / 1e6
    statuses: dict[str, int] = {}
    for line in lines:
        statuses[line[1]] = statuses.get(line[1], 0) + 1
    good_s = [duration / 1e6 for line, duration in zip(lines, durations_us, strict=True) if line[1] == "200"]
    return Load(len(good_s) / seconds, cpu, percentiles_ms(good_s), statuses, requests - len(lines))


def at_rate(pid: int, uris: Path, *, per_s: float, seconds: float, connections: int) -> Load:
    """So many requests a second; a latency counts from when its request was due, so that no waiting is hidden."""
    command = ["oha", "--no-tui", "--output-format", "json", "--latency-correction", "--urls-from-file", str(uris)]
    command += ["-q", f"{per_s:g}", "-z", f"{seconds:g}s", "-c", str(connections), "-w"]
    cpu = cpu_seconds(pid)
    told = json.loads(_run(command))
    cpu = cpu_seconds(pid) - cpu
    statuses = {str(status): int(count) for status, count in told["statusCodeDistribution"].items()}
    of_good = told["latencyPercentiles"]
    percentiles = {f"{name}_ms": round(1000 * of_good[name], 3) for name in ("p50", "p95", "p99")}
    unanswered = sum(told.get("errorDistribution", {}).values())
    return Load(statuses.get("200", 0) / told["summary"]["total"], cpu, percentiles, statuses, unanswered)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
