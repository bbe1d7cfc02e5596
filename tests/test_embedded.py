"""The embedded store, really started, killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from store.connection import StoreUnavailable, connect, ping
from store.embedded import EmbeddedStore, address, socket_path

ROOT = Path(__file__).parents[1]
_ABANDONS = """
import os, sys
from pathlib import Path
from store.connection import connect
from store.embedded import EmbeddedStore
store = EmbeddedStore(Path(sys.argv[1]))
store.start()
with connect(store.address) as client:
    client.set("hat", "belt")
print(store.pid, flush=True)
os._exit(1)
"""


def value(store: EmbeddedStore, key: str) -> object:
    with connect(store.address) as client:
        return client.get(key)


def put(store: EmbeddedStore, key: str, text: str) -> None:
    with connect(store.address) as client:
        client.set(key, text)


def test_what_was_stored_survives_a_stop_and_a_kill(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path) as store:
        put(store, "hat", "1")
    assert not store.is_alive()
    with EmbeddedStore(tmp_path) as store:
        assert value(store, "hat") == b"1"
        put(store, "belt", "2")
        assert store.pid is not None
        os.kill(store.pid, signal.SIGKILL)
        while store.is_alive():
            pass
        with pytest.raises(StoreUnavailable), connect(store.address) as client:
            ping(client)
        store.start()
        assert (value(store, "hat"), value(store, "belt")) == (b"1", b"2")


def test_it_evicts_nothing_and_listens_nowhere_but_on_its_own_socket(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path) as store, connect(store.address) as client:
        settings = client.config_get("maxmemory-policy", "port", "appendonly", "databases")
        assert settings == {"maxmemory-policy": "noeviction", "port": "0", "appendonly": "yes", "databases": "1"}
        assert socket_path(tmp_path).stat().st_mode & 0o077 == 0
        assert store.address == address(tmp_path)


def test_a_second_server_on_one_data_directory_is_refused_and_the_first_lives_on(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path) as first:
        put(first, "hat", "1")
        with pytest.raises(StoreUnavailable, match="in use"):
            EmbeddedStore(tmp_path).start()
        assert value(first, "hat") == b"1"


def test_a_server_that_hangs_or_still_loads_counts_as_running(tmp_path: Path) -> None:
    """Two servers on one append-only file would ruin it."""
    with EmbeddedStore(tmp_path) as first:
        assert first.pid is not None
        os.kill(first.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreUnavailable, match="in use"):
                EmbeddedStore(tmp_path).start()
        finally:
            os.kill(first.pid, signal.SIGCONT)


def test_two_data_directories_are_two_stores(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path / "one") as one, EmbeddedStore(tmp_path / "two") as two:
        put(one, "hat", "1")
        assert value(two, "hat") is None


def test_a_server_left_behind_is_ended_with_its_data_kept(tmp_path: Path) -> None:
    left = subprocess.run([sys.executable, "-c", _ABANDONS, tmp_path], cwd=ROOT, capture_output=True, check=False)
    pid = int(left.stdout)
    os.kill(pid, 0)
    EmbeddedStore(tmp_path).end_orphan()
    EmbeddedStore(tmp_path).end_orphan()  # there is none: nothing happens
    with EmbeddedStore(tmp_path) as store:
        assert store.pid != pid
        assert value(store, "hat") == b"belt"


def test_a_store_does_not_end_its_own_server_as_an_orphan(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path) as store:
        store.end_orphan()
        assert store.is_alive()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="did not start; the end of") as refused:
        EmbeddedStore(tmp_path, extra=("--no-such-option", "1")).start()
    assert "no-such-option" in str(refused.value)
    folder = tmp_path / "valkey" / "appendonlydir"
    with EmbeddedStore(tmp_path) as store:
        put(store, "hat", "1")
    next(folder.glob("*.incr.aof")).write_bytes(b"*1\r\n$9\r\nnonsense!\r\n*3\r\n")
    with pytest.raises(StoreUnavailable, match="did not start"):
        EmbeddedStore(tmp_path).start()


def test_the_socket_s_path_is_short_enough_however_deep_the_data_directory(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["directory" * 3] * 8)
    assert len(str(deep)) > 150
    with EmbeddedStore(deep) as store:
        put(store, "hat", "1")


def test_stopping_what_does_not_run_is_harmless(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    store.stop()
    assert (store.pid, store.is_alive()) == (None, False)
