"""How long it takes to go back: until every worker answers from the release before, and what the commands take.

    python -m bench.rollback                                        # a million items, two workers

Two releases that both have been served; one by one, as often as asked: `POST /v1/releases/…/activate`, `ledstream
releases rollback`, and, with the other release on trial by half of the users, `ledstream canary promote` and `stop`.
Questions go out all the while on connections that both workers have some of, by users whom the step concerns. Seconds
count from the first byte of the request, or from the start of the command's process, to the moment when the last of the
connections is answered from the release that is wanted. command_s is until the process has ended, its interpreter's
start included; command_cpu_s is what it worked, which other work on the machine changes little.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from itertools import cycle

from bench.ingest_world import fill, user_id
from bench.report import closing, opening
from bench.server import serving
from bench.world import announced, copied
from ledstream import parts
from ledstream.settings import PREFIX, Settings
from stream.announcements import Canary, announce_canary

CONNECTIONS = 16  # that all of them meet one of two workers: once in 30,000 runs
USERS = 1000
BACK_WITHIN_S = 30.0
REST_S = 1.0  # in between: a process makes ready for the way back when it has nothing else to do
TRIAL_S = 3600.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    opening("bench.rollback", vars(chosen))
    with announced(chosen) as (settings, release, states, sources):
        fill(states, release, USERS, chosen.seed, sources=sources, before_ms=release.info.created_ms)
        other = copied(settings, release.version, "other")
        with serving(settings):
            world = World(settings, release.version, other)
            world.over_http(other)  # from now on both are known
            world.over_http(release.version)
            for turn in range(chosen.times):
                world.once(turn)
    closing(world.figures())


class World:
    """Servers whose current release is `first`, before and after each round."""

    def __init__(self, settings: Settings, first: str, other: str) -> None:
        self._settings, self._first, self._other = settings, first, other
        self._lines = [HTTPConnection(settings.host, settings.port, timeout=30) for _ in range(CONNECTIONS)]
        self._users = [user_id(number) for number in range(USERS)]
        self._seconds: dict[str, list[float]] = {}

    def once(self, turn: int) -> None:
        """Each way, once."""
        everybody = cycle(self._users)
        told = {"http_s": self.over_http(self._other)}
        told |= self._by_command("rollback", self._first, everybody, "releases", "rollback")
        trial = self._try_other()
        others = cycle([user for user in self._users if not trial.is_tried_on(user)])
        told |= self._by_command("promote", self._other, others, "canary", "promote")
        told["http_back_s"] = self.over_http(self._first)
        trial = self._try_other()
        tried = cycle([user for user in self._users if trial.is_tried_on(user)])
        told |= self._by_command("stop", self._first, tried, "canary", "stop")
        print(f"{turn}: { {name: round(seconds, 3) for name, seconds in told.items()} }", flush=True)
        for name, seconds in told.items():
            self._seconds.setdefault(name, []).append(seconds)

    def figures(self) -> dict[str, float]:
        """Medians, and the slowest of each with `_most`."""
        medians = {name: round(statistics.median(all_of_it), 3) for name, all_of_it in self._seconds.items()}
        return medians | {f"{name}_most": round(max(all_of_it), 3) for name, all_of_it in self._seconds.items()}

    def over_http(self, version: str) -> float:
        """Activate the release; seconds until all are answered from it."""

        def activate() -> None:
            line = HTTPConnection(self._settings.host, self._settings.port, timeout=30)
            line.request("POST", f"/v1/releases/{version}/activate?force=true")
            answer = line.getresponse()
            assert answer.status == 200, answer.read()
            line.close()

        return self._timed(version, cycle(self._users), activate)[1]

    def _by_command(self, name: str, version: str, users: Iterator[str], *words: str) -> dict[str, float]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}

        def run() -> None:
            command = [sys.executable, "-m", "ledstream", *words]
            subprocess.run(command, env=environ | self._settings.as_environ(), check=True, capture_output=True)

        before_s = _cpu_of_commands()
        command_s, answered_s = self._timed(version, users, run)
        cpu_s = _cpu_of_commands() - before_s
        return {f"{name}_s": answered_s, f"{name}_command_s": command_s, f"{name}_command_cpu_s": cpu_s}

    def _try_other(self) -> Canary:
        """The other release is on trial by half of the users; returns when it answers them."""
        log = parts.open_log(self._settings)
        trial = announce_canary(log, self._other, 0.5, int(time.time() * 1000), TRIAL_S)
        log.close()
        self._until_answered_from(self._other, cycle([user for user in self._users if trial.is_tried_on(user)]))
        return trial

    def _timed(self, version: str, users: Iterator[str], act: Callable[[], None]) -> tuple[float, float]:
        """Seconds until it is done, and until all answer from the release."""
        time.sleep(REST_S)
        started = time.perf_counter()

        def done_after() -> float:
            act()
            return time.perf_counter() - started

        with ThreadPoolExecutor(1) as pool:
            done_s = pool.submit(done_after)
            self._until_answered_from(version, users)
            answered_s = time.perf_counter() - started
            return done_s.result(), answered_s

    def _until_answered_from(self, version: str, users: Iterator[str]) -> None:
        deadline = time.monotonic() + BACK_WITHIN_S
        waiting: Sequence[HTTPConnection] = self._lines
        while waiting := [line for line in waiting if _release(line, next(users)) != version]:
            assert time.monotonic() < deadline, f"{version} does not answer after {BACK_WITHIN_S} s"
            time.sleep(0.002)


def _release(line: HTTPConnection, user: str) -> str:
    """What answers the user on this connection now."""
    line.request("GET", f"/v1/recommendations?user={user}")
    release: str = json.loads(line.getresponse().read())["release"]
    return release


def _cpu_of_commands() -> float:
    """Of processes that ended: the servers run on."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


if __name__ == "__main__":
    main()
