"""The command line as a person meets it: what is wrong is said in a line, and nothing half-done is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledstream import releases_command, up
from ledstream.cli import main
from ledstream.settings import SettingsError, read_settings
from store.embedded import EmbeddedStore
from stream.replay import ReplayError, read_parquet


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
