"""Consumers, Kafka and the store killed at random while events flow; at the end every record against the log.

    python -m bench.faults --kills 200
    python -m bench.faults --kills 40 --log redis --seed 7

Everything is real: a broker, a Valkey with its append-only file (synced every second), two to three processes of
`ledstream consume timelines`. Traffic of a seeded world repeats 5 % of its sends, holds 5 % back for up to a minute,
erases a few users and holds a few records nobody can read. Beside the kills (SIGKILL) consumers are removed and added,
and halted past their session and woken. Nothing is struck again before it has made progress since. The last line:

    lost        acknowledged sends that are not in the log, and events that are missing in users' records
    doubled     events that took effect more often than a fold of the log, one event after the other, says
    replays     events that consumers read again and dropped, as their metrics said twice a second and before each end
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, Protocol

import numpy as np

from bench.every_user import compare, folded
from bench.fault_processes import Consumer, KillableStore
from bench.fault_traffic import Logged, Traffic
from bench.fault_victims import NoProgress, Victim
from bench.report import closing, opening
from bench.world import model
from ledstream import parts
from ledstream.settings import read_settings
from store.releases import Release
from store.user_record import source_of
from stream.announcements import announce
from stream.log import LogUnavailable
from stream.topics import EVENTS
from tests.servers import KafkaServer

ITEMS, DIM = 2000, 16
SHARES = {"consumer": 0.7, "log": 0.15, "store": 0.15}
HALTED, REMOVED = 0.04, 0.08  # for each kill
IN_SIGHT = 8  # of the strikes to come: the first of them whose victim is well is next
RESTS_S = {"consumer": 2.0, "log": 3.0, "store": 2.0, "removed": 10.0, "halted": 5.0}  # a tenth of it at least
FEWEST = 2  # consumers
SESSION_S = {"kafka": 15.0, "redis": 10.0}  # a halt lasts longer
ASKED_EVERY_S, TICK_S = 0.5, 0.05
CAUGHT_UP_WITHIN_S = 180.0


class Options(NamedTuple):
    """What can be said on the command line.

    every_s: mean time from one strike to the next, where somebody is well enough. folder: where all that is written
    stays; by default nothing does.
    """

    kills: int = 200
    log: str = "kafka"
    seed: int = 1
    users: int = 5000
    rate: float = 400.0
    every_s: float = 1.0
    consumers: int = 3
    folder: str = ""


class Server(Protocol):
    """The log's, or the store's."""

    def start(self) -> None: ...

    def kill(self) -> None: ...

    def stop(self) -> None: ...


class Course:
    """The strikes in a seeded order: whom, when, and for how long. done: how many of each kind."""

    def __init__(
        self, options: Options, consumers: Mapping[Victim, Consumer], servers: Mapping[Victim, Server]
    ) -> None:
        self._options, self._consumers = options, consumers
        self._killable: Mapping[Victim, Consumer | Server] = {**consumers, **servers}
        self._rng = np.random.default_rng((options.seed, 2))
        kinds = [kind for kind, share in SHARES.items() for _ in range(max(1, round(share * options.kills)))]
        kinds += ["halted"] * round(HALTED * options.kills) + ["removed"] * max(1, round(REMOVED * options.kills))
        self._coming: deque[str] = deque(self._rng.permutation(kinds).tolist())
        self._next_at = time.monotonic()
        self.done: Counter[str] = Counter()

    @property
    def victims(self) -> list[Victim]:
        return list(self._killable)

    @property
    def left(self) -> int:
        return len(self._coming)

    def turn(self) -> None:
        """Look after everybody and, if it is time, strike."""
        for victim in self.victims:
            victim.look()
        if time.monotonic() < self._next_at:
            return
        for place in range(min(IN_SIGHT, len(self._coming))):
            kind = self._coming[place]
            if able := self._able(kind):
                del self._coming[place]
                self._strike(kind, able[int(self._rng.integers(len(able)))])
                self._next_at = time.monotonic() + float(self._rng.exponential(self._options.every_s))
                return

    def _able(self, kind: str) -> list[Victim]:
        """Whom it may hit: who is well. The last two consumers are not sent away."""
        if kind == "removed" and sum(not one.is_down for one in self._consumers) <= FEWEST:
            return []
        wanted = kind if kind in SHARES else "consumer"
        return [victim for victim in self.victims if victim.kind == wanted and victim.is_well]

    def _strike(self, kind: str, victim: Victim) -> None:
        self.done[kind] += 1
        rest_s = RESTS_S[kind] * float(self._rng.uniform(0.1, 1))
        if kind == "halted":
            one = self._consumers[victim]
            victim.strike(SESSION_S[self._options.log] + rest_s, one.halt, one.wake)
        elif kind == "removed":
            victim.strike(rest_s, self._consumers[victim].end)
        else:
            victim.strike(rest_s, self._killable[victim].kill)
        print(f"{sum(self.done.values()):4d} {kind}", flush=True)


class Trial:
    """One run: real servers in a folder of their own, consumers, traffic, strikes, and the comparison."""

    def __init__(self, options: Options, folder: Path, stack: ExitStack) -> None:
        self._options, self._started_at, self._asked_at = options, time.monotonic(), 0.0
        store = KillableStore(folder / "store")
        broker = KafkaServer(folder / "kafka") if options.log == "kafka" else KillableStore(folder / "log")
        for server in (store, broker):
            stack.callback(server.stop)
            server.start()
        address = f"kafka://{broker.bootstrap}" if isinstance(broker, KafkaServer) else broker.address
        self._settings = read_settings({}, {"log": address, "store": store.address, "data_dir": folder})
        self._log = parts.open_log(self._settings)
        stack.callback(self._log.close)
        self._states = parts.user_states(self._settings, parts.open_store(self._settings))
        self._identity = self._log.identity(EVENTS)
        self._sources = [source_of(self._identity, number) for number in range(self._settings.partitions)]
        self._releases: dict[int, Release] = {}
        self._version: str | None = None
        self._traffic = Traffic(self._log, rate=options.rate, users=options.users, items=ITEMS, seed=options.seed)
        stack.callback(self._traffic.abandon)
        consumers = [Consumer(self._settings, f"consumer-{number}") for number in range(options.consumers)]
        for one in consumers:
            stack.callback(one.kill)
        self._consumers = consumers
        executor = stack.enter_context(ThreadPoolExecutor(4, "starting"))
        self._course = Course(
            options,
            {self._consuming(executor, one): one for one in consumers},
            {
                Victim("store", executor, store.start, lambda: [self._applied()], is_running=True): store,
                Victim("log", executor, broker.start, self._logged_and_applied, is_running=True): broker,
            },
        )

    def run(self) -> dict[str, object]:
        """The figures. Raises NoProgress."""
        course = self._course
        self._publish(seed=1)
        self._traffic.start()
        half = course.left // 2
        while course.left or not all(victim.is_well for victim in course.victims):
            course.turn()
            self._traffic.check()
            self._ask()
            if len(self._releases) == 1 and course.left <= half:
                self._publish(seed=2)
            self._announce()
            time.sleep(TICK_S)
        print(f"{course.done}; the rest is sent and applied", flush=True)
        self._traffic.stop()
        self._catch_up()
        codes = [one.end() for one in self._consumers]
        figures = self._figures() | {"exit_codes_at_the_end": codes}
        return {"kills": {kind: course.done[kind] for kind in SHARES}, **figures}

    def _catch_up(self) -> None:
        """Returns when the store is at the end of the log."""
        deadline = time.monotonic() + CAUGHT_UP_WITHIN_S
        end = sum(self._log.end_offsets(EVENTS).values())
        while (applied := self._applied()) < end:
            for victim in self._course.victims:
                victim.look()
            if time.monotonic() > deadline:
                raise NoProgress(f"{applied} of {end} records applied {CAUGHT_UP_WITHIN_S:g} s after the last was sent")
            self._ask()
            time.sleep(TICK_S)

    def _figures(self) -> dict[str, object]:
        logged, traffic, course = Logged(self._log), self._traffic, self._course
        expected = folded(logged.events(), self._settings.timeline_events)
        found = compare(expected, self._states, self._identity, self._releases)
        print(f"  {found}")
        missing = logged.without(traffic.acknowledged)
        totals = sum((one.totals for one in self._consumers), Counter[str]())
        return {
            "replays": int(totals["replayed"]),
            "duplicates_dropped": sum(user.repeated for user in expected.values()),
            "lost": missing + found.missing,
            "doubled": found.surplus,
            "differing": found.timelines_differing + found.vectors_differing,
            "dead_letters_wrong": logged.unburied(),
            "events": len(logged),
            "users": found.users,
            "seconds": round(time.monotonic() - self._started_at, 1),
            "halted": course.done["halted"],
            "removed": course.done["removed"],
            "sent_again": traffic.refused,
            "without_vector": found.without_vector,
            **{
                name: int(totals[name])
                for name in ("consumed", "rebalances", "rewinds", "overtaken", "remade", "waits")
            },
            "ended_by_themselves": sum(victim.gone for victim in course.victims),
            "recovered_s": {
                kind: _median_and_longest([s for one in course.victims if one.kind == kind for s in one.recovered_s])
                for kind in SHARES
            },
        }

    def _publish(self, seed: int) -> None:
        """A release of its own for each seed, to be announced as soon as the log is there."""
        releases = parts.releases(self._settings)
        self._version = releases.publish(model(ITEMS, DIM, seed), now_ms=int(time.time() * 1000))
        release = releases.load(self._version, with_index=False)
        self._releases[release.key] = release
        self._announce()

    def _announce(self) -> None:
        if self._version is not None:
            with suppress(LogUnavailable):
                announce(self._log, self._version, int(time.time() * 1000))
                self._version = None

    def _consuming(self, executor: Executor, one: Consumer) -> Victim:
        return Victim(
            "consumer", executor, one.start, lambda: [one.now("consumed")], is_gone=lambda: one.exit_code() is not None
        )

    def _ask(self) -> None:
        """Look at the consumers' metrics, now and then."""
        if time.monotonic() > self._asked_at + ASKED_EVERY_S:
            self._asked_at = time.monotonic()
            for one in self._consumers:
                one.ask()

    def _applied(self) -> int:
        return sum(position or 0 for position in self._states.positions(self._sources))

    def _logged_and_applied(self) -> list[float]:
        return [len(self._traffic.acknowledged), self._applied()]


def run(options: Options) -> dict[str, object]:
    """A whole trial, and its figures."""
    with TemporaryDirectory(prefix="ledstream-faults-") as folder, ExitStack() as stack:
        return Trial(options, Path(options.folder or folder), stack).run()


def is_good(figures: Mapping[str, object]) -> bool:
    """Whether all that was sent took effect, once."""
    return not any(figures[name] for name in ("lost", "doubled", "differing", "dead_letters_wrong"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in Options()._asdict().items():
        choices = ("kafka", "redis") if name == "log" else None
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, choices=choices)
    options = Options(**vars(parser.parse_args()))
    opening("bench.faults", options._asdict())
    figures = run(options)
    closing(figures)
    return 0 if is_good(figures) else 1


def _median_and_longest(seconds: Sequence[float]) -> list[float]:
    return [round(float(np.median(seconds)), 1), round(max(seconds), 1)] if seconds else []


if __name__ == "__main__":
    sys.exit(main())
