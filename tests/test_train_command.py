"""`ledstream train`: what it learns from, seen from the release it publishes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from consumers.archive import archive_row
from ledstream import parts
from ledstream.settings import Settings, SettingsError, read_settings
from ledstream.train_command import run_once, train_once
from store.releases import Release
from stream.announcements import current_version
from stream.events import Event, decode_event, encode_event, erasure, event_key, item_key, kind_code, striking
from stream.log import Entry, Log
from stream.strikes import Strike
from stream.topics import EVENTS
from training.memory import TooLittleMemory
from training.train import TooFewEvents

NOW = int(time.time() * 1000)


@pytest.fixture
def settings(redis_address: str, namespace: str, tmp_path: Path) -> Settings:
    flags = {"log": redis_address, "store": redis_address, "namespace": namespace, "data_dir": tmp_path}
    return read_settings({}, flags | {"dim": 4, "partitions": 2, "keep_releases": 2})


@pytest.fixture
def log(settings: Settings) -> Iterator[Log]:
    log = parts.open_log(settings)
    yield log
    log.close()


def test_events_that_only_the_log_holds_are_learnt_from(settings: Settings, log: Log) -> None:
    append(log, views(6))
    release = trained(settings, log)
    assert release.version == current_version(log)
    assert items_of(release) == {f"item-{n}" for n in range(6)}


def test_archived_and_newer_events_are_learnt_from_together(settings: Settings, log: Log) -> None:
    append(log, views(4))
    archive_everything(settings, log)
    append(log, [Event("u0", "newest", "view", NOW), Event("u1", "newest", "view", NOW)])
    assert items_of(trained(settings, log)) == {"item-0", "item-1", "item-2", "item-3", "newest"}


def test_an_erasure_that_is_not_archived_yet_is_heeded_at_once(settings: Settings, log: Log) -> None:
    append(log, [*views(4), Event("ana", "secret", "view", NOW)])
    archive_everything(settings, log)
    assert "secret" in items_of(trained(settings, log))
    append(log, [erasure("ana", NOW + 1)])
    assert "secret" not in items_of(trained(settings, log, at_ms=NOW + 1000))


@pytest.mark.parametrize("key", [event_key("secret-1"), 0])
def test_an_event_that_was_struck_a_moment_ago_is_not_learnt_from(settings: Settings, log: Log, key: int) -> None:
    append(log, [*views(4), Event("ana", "secret", "view", NOW, "secret-1"), Event("ana", "item-1", "view", NOW)])
    archive_everything(settings, log)
    append(log, [striking("ana", Strike(item_key("secret"), kind_code("view"), NOW, 2, key), NOW + 1)])
    assert items_of(trained(settings, log)) == {f"item-{n}" for n in range(4)}


def test_only_so_many_releases_are_kept(settings: Settings, log: Log) -> None:
    append(log, views(4))
    versions = [trained(settings, log, at_ms=NOW + 1000 * n).version for n in range(3)]
    assert parts.releases(settings).versions() == versions[1:]


def test_nothing_to_learn_from_leaves_the_current_release(settings: Settings, log: Log) -> None:
    with pytest.raises(TooFewEvents, match="0 users and 0 items"):
        trained(settings, log)
    assert current_version(log) is None


def test_a_file_says_how_a_release_is_trained_and_the_release_tells(
    settings: Settings, log: Log, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    append(log, [Event(event.user_id, event.item_id, kind, NOW) for event in views(6) for kind in ("view", "sale")])
    file = tmp_path / "train.toml"
    file.write_text(
        '[pretraining]\nmethod = "pmi"\nkinds = ["view"]\nmin_count = 1\ndim = 3\n'
        '[finetuning]\nloss = "multinomial"\npositives = ["sale"]\nlearn_kinds = true\nepochs = 2\nlr = 0.05\n'
    )
    release = trained(settings.model_copy(update={"config": str(file)}), log)
    assert release.version == current_version(log)
    assert release.dim == 3
    assert release.info.kind_weights["view"] == 1.0 != release.info.kind_weights["sale"]
    story = json.loads((settings.releases_dir / release.version / "training.json").read_text())
    assert [epoch["number"] for epoch in story["epochs"]] == [1, 2]
    assert (settings.releases_dir / release.version / "learning-curves.png").stat().st_size > 1000


def test_the_best_table_is_a_matter_of_a_file_and_a_retrain_lies_as_the_one_before(
    settings: Settings, log: Log, tmp_path: Path
) -> None:
    append(log, views(6))
    file = tmp_path / "train.toml"
    file.write_text('[pretraining]\nmethod = "denoised"\ndim = 3\nridge = 1\n')
    of_file = settings.model_copy(update={"config": str(file)})
    trained(of_file, log)
    append(log, [Event("u0", "item-4", "view", NOW), Event("u1", "item-5", "view", NOW)])
    again = trained(of_file, log, at_ms=NOW + 1000)
    assert again.version == current_version(log)
    assert again.info.about["denoised"]["ridge"] == 1.0
    assert again.info.about["alignment"]["cosine_after"] > 0.95


HOLDS = """
import sys, time
from ledstream.settings import read_settings
from ledstream.train_command import only_training
with only_training(read_settings({}, {"data_dir": sys.argv[1]})):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_training_is_refused_until_the_first_one_is_gone_even_killed(settings: Settings, log: Log) -> None:
    append(log, views(6))
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(settings.data_dir)], stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(SettingsError, match=rf"another training runs here \(pid {first.pid}\)"):
            run_once(settings)
        first.kill()
    assert run_once(settings) == current_version(log)


@pytest.mark.parametrize("more", ["", "[finetuning]\n", "[sessions]\n"])
def test_training_by_a_file_that_takes_more_memory_than_allowed_does_not_begin(
    settings: Settings, log: Log, tmp_path: Path, more: str
) -> None:
    pytest.importorskip("torch")
    append(log, views(6))
    file = tmp_path / "train.toml"
    file.write_text(more)
    limited = settings.model_copy(update={"config": str(file), "train_memory_mb": 100})
    with pytest.raises(TooLittleMemory, match=r"LEDSTREAM_TRAIN_MEMORY_MB = 100 .* does not work from disk"):
        trained(limited, log)
    assert current_version(log) is None


def views(items: int) -> list[Event]:
    return [Event(f"u{user}", f"item-{(user + n) % items}", "view", NOW) for user in range(8) for n in range(3)]


def append(log: Log, events: Sequence[Event]) -> None:
    log.append(EVENTS, [Entry(event.user_id.encode(), encode_event(event), NOW) for event in events])


def archive_everything(settings: Settings, log: Log) -> None:
    archive = parts.archive(settings, log)
    for partition, end in log.end_offsets(EVENTS).items():
        records = log.read(EVENTS, partition, 0, 1000)
        rows = [archive_row(partition, r.offset, r.time_ms, decode_event(r.value)) for r in records]
        if rows:
            archive.write(rows, 0, end)


def trained(settings: Settings, log: Log, at_ms: int = NOW) -> Release:
    return parts.releases(settings).load(train_once(settings, log, at_ms))


def items_of(release: Release) -> set[str]:
    return {release.item_id(row) for row in range(release.items)}
