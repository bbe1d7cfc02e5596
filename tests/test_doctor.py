"""The doctor: all is well on a fresh system, and each thing that is not is said with what to do about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from consumers import archive
from ledstream import doctor, parts
from ledstream.settings import Settings, read_settings
from store.connection import connect
from store.embedded import EmbeddedStore
from stream.topics import EVENTS


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return read_settings({}, {"data_dir": tmp_path})


def test_without_a_store_it_says_what_to_start(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run(settings, "store") == doctor.run(settings, "log") == 1
    assert capsys.readouterr().out.count("start `ledstream up`") == 2


def test_a_fresh_system_is_well(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    with EmbeddedStore(settings.data_dir):
        assert doctor.run(settings, "store") == doctor.run(settings, "log") == 0
    shown = capsys.readouterr().out
    assert "noeviction" in shown
    assert "lag of timelines: 0 records" in shown
    assert "no release yet" in shown


def test_a_store_that_may_evict_users_is_wrong(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    with EmbeddedStore(settings.data_dir) as store, connect(store.address) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        assert doctor.run(settings, "store") == 1
    assert "set maxmemory-policy noeviction" in capsys.readouterr().out


def test_a_log_that_lost_what_was_committed_is_wrong(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    with EmbeddedStore(settings.data_dir):
        log = parts.open_log(settings)
        reader = log.reader(EVENTS, archive.GROUP)
        reader.poll(max_records=1, timeout_s=0)
        reader.commit({0: 7})
        reader.close()
        log.close()
        assert doctor.run(settings, "log") == 1
    assert "archive committed beyond the end of partitions [0]" in capsys.readouterr().out
