"""The command line as a person meets it: what is wrong is said in a line, and nothing half-done is left."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from ledstream import releases_command, up
from ledstream.cli import EXPECTED, main
from ledstream.settings import SettingsError, read_settings
from store.embedded import EmbeddedStore
from stream.replay import ReplayError, read_parquet

ROOT = Path(__file__).parents[1]
BARE = {name: value for name, value in os.environ.items() if not name.startswith("LEDSTREAM_")}


@pytest.mark.parametrize(
    "words",
    [
        ["simulate", "--rate", "0"],
        ["simulate", "--rate", "nan"],
        ["replay", "x.parquet", "--rate", "-1"],
        ["evaluate", "--dims", "8", "0"],
    ],
)
def test_numbers_that_mean_nothing_are_refused_before_anything_starts(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert f"{words[-1]} is not" in capsys.readouterr().err


def test_a_recording_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.parquet", tmp_path):
        with pytest.raises(ReplayError, match=f"{path} cannot be read"):
            read_parquet(path)


def test_up_says_which_setting_it_cannot_work_with(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = read_settings({}, {"data_dir": tmp_path / "file"})
    with pytest.raises(SettingsError, match=r"LEDSTREAM_DATA_DIR = .*file"), up.only_one(settings):
        pass
    with pytest.raises(SettingsError, match="LEDSTREAM_METRICS_PORT = 9100"):
        up.run(read_settings({}, {"data_dir": tmp_path, "metrics_port": 9100}))
    for wrong in ({"admin_key": "short"}, {"write_keys": "shop"}, {"cors_origins": "shop.example.org"}):
        with pytest.raises(SettingsError, match=f"LEDSTREAM_{next(iter(wrong)).upper()}"):
            up.run(read_settings({}, {"data_dir": tmp_path, **wrong}))


def test_who_goes_back_or_ends_a_trial_waits_for_no_import_that_it_does_not_need(tmp_path: Path) -> None:
    """Somebody is waiting: everything together takes seconds to import."""
    program = "import sys; from ledstream.cli import main; code = main(sys.argv[1:]); print(code, *sys.modules)"
    asked = [["releases", "rollback"], ["canary", "promote"], ["canary", "stop"]]
    with EmbeddedStore(tmp_path):
        for words in asked:
            command = [sys.executable, "-c", program, *words, "--data-dir", str(tmp_path)]
            done = subprocess.run(command, cwd=ROOT, env=BARE, capture_output=True, text=True, check=True)
            code, *modules = done.stdout.split()
            assert code == "2", done.stderr  # there is nothing to go back to, and no trial
            assert not {"faiss", "pyarrow", "scipy", "torch", "prometheus_client", "fastapi", "kafka"} & set(modules)


def test_every_error_that_is_told_in_one_line_is_there_under_its_name() -> None:
    for name in EXPECTED:
        module, _, kind = name.rpartition(".")
        assert issubclass(getattr(import_module(module), kind), Exception)


def test_a_release_that_cannot_be_read_does_not_hide_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in {"20261121-good": GOOD, "20261122-bad": "{"}.items():
        (tmp_path / "releases" / name).mkdir(parents=True)
        (tmp_path / "releases" / name / "release.json").write_text(text)
    with EmbeddedStore(tmp_path):
        assert releases_command.run(read_settings({}, {"data_dir": tmp_path}), "list", None) == 0
    shown = capsys.readouterr().out
    assert "20261121-good" in shown
    assert "20261122-bad" in shown


GOOD = """{"format": 1, "version": "20261121-good", "dim": 2, "items": 1, "created_ms": 1, "index": {}, "about": {},
 "encoder": {"kind_weights": {"view": 1}, "half_life_s": null}, "files": {}}"""
