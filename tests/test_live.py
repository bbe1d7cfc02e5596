"""Both releases of a trial in one process: who is answered from which, and how a process follows what is announced."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.live import Outcomes, live
from serving.served import Served
from store.connection import Client
from store.releases import Releases
from store.tallies import Tallies
from stream.announcements import announce, announce_canary, promote, roll_back, withdraw
from stream.current import CurrentRelease, RefusedRelease
from stream.memory_log import MemoryLog
from stream.topics import RELEASES
from tests.eventually import until
from tests.worlds import NOW_MS, releases, two_tastes

USERS = [f"user-{number}" for number in range(4000)]


class Process:
    """What a server does about releases, and how often it loaded each."""

    def __init__(self, log: MemoryLog, folder: Releases) -> None:
        self.loaded: list[str] = []
        self._folder = folder
        self.prepared: list[str] = []
        self.current: CurrentRelease[Served] = CurrentRelease(
            log, self._load, with_canary=True, prepare=self.prepared.append, retry_every_s=0.05
        )

    def _load(self, version: str) -> Served:
        self.loaded.append(version)
        return Served(self._folder.load(version))

    def answering(self, users: list[str] = USERS) -> dict[str, str | None]:
        """Which version each user is answered from."""
        now = live(self.current)
        return {user: served.version if (served := now.of(user)) else None for user in users}


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog()
    log.create_topic(RELEASES, 1)
    return log


@pytest.fixture
def folder(tmp_path: Path) -> Releases:
    return releases(tmp_path)


@pytest.fixture
def tallies(redis_client: Client, namespace: str) -> Tallies:
    return Tallies(redis_client, namespace, refused_for_s=1.0)


@pytest.fixture
def versions(log: MemoryLog, folder: Releases) -> tuple[str, str]:
    """Two releases, the first of them current."""
    one, two = (folder.publish(two_tastes(seed), now_ms=NOW_MS + seed) for seed in range(2))
    announce(log, one, NOW_MS)
    return one, two


@pytest.fixture
def process(log: MemoryLog, folder: Releases, versions: tuple[str, str]) -> Iterator[Process]:  # noqa: ARG001
    process = Process(log, folder)
    process.current.start()
    yield process
    process.current.stop()


def test_before_the_first_release_nobody_is_answered_from_any(log: MemoryLog, folder: Releases) -> None:
    assert live(Process(log, folder).current).of("ana") is None


def test_a_share_of_the_users_is_answered_from_the_canary_and_stays_there(
    log: MemoryLog, process: Process, versions: tuple[str, str]
) -> None:
    one, two = versions
    assert set(process.answering().values()) == {one}
    announce_canary(log, two, 0.1, NOW_MS, 600)
    until(lambda: live(process.current).trial is not None)
    first = process.answering()
    assert 300 < list(first.values()).count(two) < 500
    assert process.answering() == first
    assert (live(process.current).of(None), process.current.get()) == (live(process.current).champion,) * 2
    other_process = Process(log, process._folder)
    other_process.current.start()
    assert other_process.answering() == first
    other_process.current.stop()


def test_a_promoted_canary_is_there_already_and_a_withdrawn_one_is_let_go(
    log: MemoryLog, process: Process, versions: tuple[str, str]
) -> None:
    one, two = versions
    for end, version in ((withdraw, one), (promote, two)):
        announce_canary(log, two, 0.1, NOW_MS, 600)
        until(lambda: live(process.current).trial is not None)
        end(log, NOW_MS)
        until(lambda: live(process.current).trial is None)
        assert set(process.answering().values()) == {version}
        assert live(process.current).canary is None
    assert process.loaded == [one, two, two]


def test_another_share_or_another_canary_takes_the_place_of_the_one_before(
    log: MemoryLog, process: Process, versions: tuple[str, str]
) -> None:
    _, two = versions
    three = process._folder.publish(two_tastes(2), now_ms=NOW_MS + 2)
    announce_canary(log, two, 0.1, NOW_MS, 600)
    until(lambda: live(process.current).trial is not None)
    announce_canary(log, two, 1.0, NOW_MS, 600)
    until(lambda: set(process.answering().values()) == {two})
    announce_canary(log, three, 1.0, NOW_MS, 600)
    until(lambda: set(process.answering().values()) == {three})
    assert process.loaded.count(two) == 1


def test_a_process_that_starts_during_a_trial_begins_with_both(
    log: MemoryLog, folder: Releases, versions: tuple[str, str]
) -> None:
    announce_canary(log, versions[1], 0.5, NOW_MS, 600)
    process = Process(log, folder)
    process.current.start()
    assert set(process.answering().values()) == set(versions)
    process.current.stop()


def test_who_does_not_ask_for_canaries_loads_none(log: MemoryLog, versions: tuple[str, str]) -> None:
    announce_canary(log, versions[1], 0.5, NOW_MS, 600)
    current: CurrentRelease[str] = CurrentRelease(log, lambda version: version)
    current.start()
    assert (current.get(), current.in_use().canary) == (versions[0], None)
    current.stop()


def test_a_process_that_stops_takes_its_refusal_with_it(
    log: MemoryLog, process: Process, versions: tuple[str, str], tmp_path: Path, tallies: Tallies
) -> None:
    (tmp_path / versions[1] / "biases.npy").unlink()
    outcomes = Outcomes(tallies, process.current)
    outcomes.start()
    trial = announce_canary(log, versions[1], 0.5, NOW_MS, 600)
    until(lambda: bool(tallies.read(trial.trial).refused))
    outcomes.stop()
    assert tallies.read(trial.trial).refused == {}


def test_a_killed_process_takes_its_refusal_with_it_too_and_one_that_lives_keeps_it_up(
    log: MemoryLog, process: Process, versions: tuple[str, str], tmp_path: Path, tallies: Tallies
) -> None:
    (tmp_path / versions[1] / "biases.npy").unlink()
    outcomes = Outcomes(tallies, process.current)
    trial = announce_canary(log, versions[1], 0.5, NOW_MS, 600)
    until(lambda: process.current.canary_refused is not None)
    for _ in range(6):
        outcomes.flush()
        assert len(tallies.read(trial.trial).refused) == 1
        time.sleep(0.25)
    until(lambda: not tallies.read(trial.trial).refused)


def test_a_mistake_of_ours_refuses_a_release_like_any_other_and_is_tried_again(
    log: MemoryLog, versions: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = versions
    loaded: list[str] = []

    def load(version: str) -> str:
        loaded.append(version)
        if version == two and loaded.count(two) < 3:
            raise AttributeError("a mistake")
        return version

    current = CurrentRelease(log, load, retry_every_s=0.05)
    current.start()
    announce(log, two, NOW_MS)
    until(lambda: current.refused == RefusedRelease(two, "AttributeError: a mistake"))
    assert current.get() == one
    until(lambda: current.get() == two)
    current.stop()
    assert (loaded, current.refused) == ([one, two, two, two], None)
    assert caplog.text.count("Traceback") == 1, "in full, and once"


def test_a_broken_canary_is_refused_and_told_and_the_current_release_serves_everybody(
    log: MemoryLog, process: Process, versions: tuple[str, str], tmp_path: Path, tallies: Tallies
) -> None:
    one, two = versions
    outcomes = Outcomes(tallies, process.current)
    broken = tmp_path / two / "output_embeddings.npy"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    trial = announce_canary(log, two, 0.5, NOW_MS, 600)
    until(lambda: process.current.canary_refused is not None)
    assert isinstance(process.current.canary_refused, RefusedRelease)
    assert process.current.canary_refused.version == two
    assert "checksum" in process.current.canary_refused.reason
    assert (process.current.refused, set(process.answering().values())) == (None, {one})
    outcomes.flush()
    (reason,) = tallies.read(trial.trial).refused.values()
    assert "checksum" in reason
    broken.write_bytes(whole)
    until(lambda: live(process.current).trial is not None)
    outcomes.flush()
    assert tallies.read(trial.trial).refused == {}
    assert process.current.canary_refused is None


def test_calls_are_counted_by_release_while_a_canary_is_on_trial(
    log: MemoryLog, process: Process, versions: tuple[str, str], tallies: Tallies
) -> None:
    outcomes = Outcomes(tallies, process.current)
    before = live(process.current)
    assert outcomes.attempt(before, before.champion, version_of) == versions[0]  # which is nobody's trial
    trial = announce_canary(log, versions[1], 0.5, NOW_MS, 600)
    until(lambda: live(process.current).trial is not None)
    now = live(process.current)
    outcomes.start()
    for _ in range(3):
        assert outcomes.attempt(now, now.champion, version_of) == versions[0]
    assert outcomes.attempt(now, now.canary, version_of) == versions[1]
    outcomes.stop()
    counts = {"champion:answers": 3, "champion:errors": 0, "canary:answers": 1, "canary:errors": 0}
    assert tallies.read(trial.trial).counts == counts


def test_a_canary_that_fails_leaves_its_users_to_the_champion(
    log: MemoryLog, process: Process, versions: tuple[str, str], tallies: Tallies
) -> None:
    outcomes = Outcomes(tallies, process.current)
    trial = announce_canary(log, versions[1], 0.5, NOW_MS, 600)
    until(lambda: live(process.current).trial is not None)
    now = live(process.current)

    def failing(*failing: str) -> Callable[[Served | None], str | None]:
        def answer(served: Served | None) -> str | None:
            if served is not None and served.version in failing:
                raise RuntimeError("broken")
            return version_of(served)

        return answer

    assert outcomes.attempt(now, now.canary, failing(versions[1])) == versions[0]
    for served in (now.champion, now.canary):
        with pytest.raises(RuntimeError, match="broken"):
            outcomes.attempt(now, served, failing(*versions))
    outcomes.flush()
    counts = {"champion:answers": 0, "champion:errors": 1, "canary:answers": 0, "canary:errors": 2}
    tally = tallies.read(trial.trial)
    assert tally.counts == counts
    assert (tally.calls("champion"), tally.calls("canary")) == (1, 2)


def version_of(served: Served | None) -> str | None:
    return None if served is None else served.version


def test_a_rollback_is_served_within_a_second(log: MemoryLog, process: Process, versions: tuple[str, str]) -> None:
    one, two = versions
    took_s = []
    for _ in range(5):
        announce(log, two, NOW_MS)
        until(lambda: set(process.answering().values()) == {two})
        started = time.perf_counter()
        assert roll_back(log, NOW_MS) == one
        while set(process.answering(USERS[:1]).values()) != {one}:
            threading.Event().wait(0.001)
        took_s.append(time.perf_counter() - started)
    assert statistics.median(took_s) < 1.0


def test_a_process_makes_ready_to_go_back_to_what_it_has_never_loaded(
    log: MemoryLog, folder: Releases, process: Process, versions: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = versions
    announce(log, two, NOW_MS)
    until(lambda: set(process.answering().values()) == {two})
    later = Process(log, folder)
    later.current.start()
    until(lambda: later.prepared == [one])
    later.current.stop()
    assert process.prepared == []
    current = CurrentRelease(log, folder.load, prepare=lambda version: folder.load(version + "gone"))
    current.start()
    until(lambda: "there is no way back to release" in caplog.text)
    current.stop()
