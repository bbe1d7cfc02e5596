"""What is held out of training is what the gate asks about, of the release that is published and of the one before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ledstream import parts
from ledstream.settings import Settings, read_settings
from ledstream.train_command import fits_in_memory, go_live, train_once, train_settings
from store.archive import ArchiveRow
from store.releases import BadRelease, Releases
from stream.announcements import current_version
from stream.log import Log
from tests.gated_world import DIM, KINDS, NOW_MS, archive, model_of
from training.gate import Archived, GateSettings, examine
from training.learning import learn_from_disk
from training.memory import TooLittleMemory
from training.progress import silent
from training.survey import Survey, survey


@pytest.fixture
def settings(redis_address: str, namespace: str, tmp_path: Path) -> Settings:
    flags = {"log": redis_address, "store": redis_address, "namespace": namespace, "data_dir": tmp_path}
    return read_settings({}, flags | {"dim": DIM, "partitions": 1, "kinds": "view=1,sale=3"})


@pytest.fixture
def log(settings: Settings) -> Iterator[Log]:
    """With nothing in it that the archive does not hold."""
    log = parts.open_log(settings)
    rows = [ArchiveRow(**row | {"partition": 0}) for row in archive(seed=5).to_pylist()]
    parts.archive(settings, log).write(rows, 0, len(rows))
    yield log
    log.close()


def test_a_retrain_that_answers_worse_what_it_was_not_taught_is_not_announced(settings: Settings, log: Log) -> None:
    champion = train_once(settings, log, NOW_MS)
    assert current_version(log) == champion
    forgetful = settings.model_copy(update={"train_half_life_s": 900.0})
    with pytest.raises(BadRelease, match=r"recall@20 on events held out of training .*, champion 0\.\d+ \(-"):
        train_once(forgetful, log, NOW_MS + 1000)
    assert current_version(log) == champion
    again = train_once(settings, log, NOW_MS + 2000)
    assert current_version(log) == again
    about = parts.releases(settings).info(again).about
    assert about["alignment"]["release"] == champion
    assert about["alignment"]["cosine_after"] > 0.99


def test_a_model_that_was_taught_the_answers_knows_them_better(settings: Settings, log: Log) -> None:
    """Which is why they are held out: a release judged by what it was trained on looks better than it is."""
    events = archive(seed=5)
    found = survey([events], KINDS)
    held_out = found.held_out(events, list(KINDS))
    assert 200 <= held_out.sum() <= 0.05 * len(events)
    version = train_once(settings, log, NOW_MS)
    releases = parts.releases(settings)
    taught = releases.publish(model_of(events), now_ms=NOW_MS + 1)
    examine(releases, taught, None, Archived(events, held_out), GateSettings(DIM), now_ms=NOW_MS)
    assert figures(releases, taught)["replay"] > figures(releases, version)["replay"] + 0.02


def test_a_release_trained_on_from_disk_is_judged_by_the_same_events(settings: Settings, log: Log) -> None:
    champion = train_once(settings, log, NOW_MS)
    events, wanted, releases = archive(seed=5), train_settings(settings), parts.releases(settings)
    found = survey([events], KINDS)
    with TemporaryDirectory() as folder:
        model, archived = learn_from_disk(lambda: [events], wanted, found, silent, folder=Path(folder))
    version = releases.publish(model, now_ms=NOW_MS + 1000)
    go_live(settings, log, version, archived, NOW_MS + 1000)
    assert current_version(log) == version
    of_both = [figures(releases, one)["replay"] for one in (champion, version)]
    assert of_both[1] == pytest.approx(of_both[0], abs=0.02)


@pytest.mark.parametrize(("memory_mb", "fits"), [(20_000, True), (10_000, False), (2_000, False)])
def test_what_does_not_fit_in_memory_is_trained_on_from_disk(settings: Settings, memory_mb: int, fits: bool) -> None:
    found = Survey(events=50_000_000, users=2_000_000, items=100_000, bytes=4_000_000_000)
    allowed = settings.model_copy(update={"train_memory_mb": memory_mb, "dim": 64})
    assert fits_in_memory(allowed, found) is fits


def test_a_training_that_cannot_fit_ends_before_it_begins_and_says_what_to_set(settings: Settings, log: Log) -> None:
    tiny = settings.model_copy(update={"train_memory_mb": 10})
    with pytest.raises(TooLittleMemory, match=r"LEDSTREAM_TRAIN_MEMORY_MB = 10 \(10 MiB allowed\): 9,000 events"):
        train_once(tiny, log, NOW_MS)
    assert parts.releases(settings).versions() == []


def figures(releases: Releases, version: str) -> dict[str, float]:
    """What the gate found of a release, by check."""
    report = releases.reports.read(version)
    assert report is not None
    return {check.name: check.figure for check in report.checks if check.figure is not None}
