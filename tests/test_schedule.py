"""`ledstream train --every`: real trainings on a log that comes, goes and comes back, each giving way to others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledstream import parts
from ledstream.child import environ_of
from ledstream.limits import POOLS, available_mb
from ledstream.settings import Settings, SettingsError, read_settings
from store.embedded import EmbeddedStore
from store.embedded import address as embedded_address
from tests.eventually import until
from tests.test_train_command import append, views

GIVES_WAY = """
import os, sys
from pathlib import Path
from ledstream.limits import give_way
from ledstream.settings import read_settings
give_way(read_settings({}, {"train_nice": 7, "train_threads": 1}))
import faiss, scipy.linalg
from threadpoolctl import threadpool_info
print({pool["num_threads"] for pool in threadpool_info()}, os.nice(0), Path("/proc/self/oom_score_adj").read_text())
print(Path("/proc/self/autogroup").read_text())
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a log that is not there yet."""
    (tmp_path / "data").mkdir()
    address = embedded_address(tmp_path / "log")
    flags = {"log": address, "store": address, "data_dir": tmp_path / "data", "dim": 4, "retrain_every": "1s"}
    return read_settings({}, flags | {"partitions": 1, "train_nice": 0})


@pytest.fixture
def output(settings: Settings) -> Iterator[Path]:
    """What a scheduler of these settings writes, while it runs."""
    path = settings.data_dir / "schedule.log"
    with path.open("wb") as out:
        scheduler = subprocess.Popen(
            [sys.executable, "-m", "ledstream", "train", "--every"], env=environ_of(settings), stdout=out, stderr=out
        )
    yield path
    scheduler.send_signal(signal.SIGTERM)
    assert scheduler.wait(30) == 0, path.read_text()


@pytest.mark.slow
def test_a_schedule_outlives_a_log_that_is_away_and_trains_again_when_it_is_back(
    settings: Settings, output: Path, tmp_path: Path
) -> None:
    releases = parts.releases(settings)
    until(lambda: "waiting for the log" in output.read_text())
    with EmbeddedStore(tmp_path / "log"):
        log = parts.open_log(settings)
        append(log, views(6))
        log.close()
        until(lambda: len(releases.versions()) > 0)
    until(lambda: "no release this time (exit code 2)" in output.read_text())
    before = len(releases.versions())
    with EmbeddedStore(tmp_path / "log"):
        until(lambda: len(releases.versions()) > before)


@pytest.mark.parametrize("command", [["up"], ["train", "--every"]])
@pytest.mark.parametrize("text", [None, "[pretraining]\ndim = 0\n"])
def test_a_file_that_no_training_could_use_stops_the_start(
    settings: Settings, tmp_path: Path, command: list[str], text: str | None
) -> None:
    file = tmp_path / "train.toml"
    if text is not None:
        file.write_text(text)
    told = subprocess.run(
        [sys.executable, "-m", "ledstream", *command],
        env=environ_of(settings.model_copy(update={"config": str(file)})) | {"LEDSTREAM_SUPERVISOR_PID": "0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 2
    assert told.stderr.splitlines()[-1].startswith(f"ledstream {command[0]}: {file}: ")


def test_a_training_gives_way_in_niceness_threads_and_memory() -> None:
    told = subprocess.run(
        [sys.executable, "-c", GIVES_WAY],
        env={name: value for name, value in os.environ.items() if name not in POOLS},
        capture_output=True,
        text=True,
        check=True,
        start_new_session=True,
    ).stdout.splitlines()
    assert told[0] == "{1} 7 500"
    assert told[2].endswith("nice 7") or not Path("/proc/self/autogroup").exists()


def test_what_is_available_is_less_than_the_machine_has() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    assert 0 < available_mb() < total


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5h", 5400), ("30 m", 1800), ("1d", 86400)])
def test_a_span_may_be_told_in_any_unit(text: str, seconds: float) -> None:
    assert read_settings({"LEDSTREAM_RETRAIN_EVERY": text}).retrain_every == seconds


@pytest.mark.parametrize("text", ["1w", "h", "-1h", "1h30m", ""])
def test_a_span_in_no_unit_is_refused_by_name(text: str) -> None:
    with pytest.raises(SettingsError, match=r"LEDSTREAM_RETRAIN_EVERY \(--retrain-every\)"):
        read_settings({"LEDSTREAM_RETRAIN_EVERY": text})
