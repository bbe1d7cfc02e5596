"""`ledstream serve` as a child process of a measuring program, and what it costs in CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from ledstream.settings import PREFIX, Settings

READY_WITHIN_S = 60.0


@contextmanager
def serving(settings: Settings) -> Iterator[int]:
    """The pid of a server that answers; stopped on leaving. Its output is in serve.log of the data directory."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    with (settings.data_dir / "serve.log").open("ab") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "ledstream", "serve"],
            env=environ | settings.as_environ(),
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        _wait_until_ready(settings, server)
        yield server.pid
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def cpu_seconds(pid: int) -> float:
    """User and system time so far of a process and of its descendants that still run."""
    ticks = sum(
        int(field) for member in [pid, *(child for child, _ in descendants(pid))] for field in _stat(member)[11:13]
    )
    return ticks / os.sysconf("SC_CLK_TCK")


def cpu_ns(pid: int) -> int:
    """Nanoseconds of CPU so far of a process and of its descendants that still run."""
    members = [pid, *(child for child, _ in descendants(pid))]
    return sum(time.clock_gettime_ns(~member << 3 | 2) for member in members)  # as clock_getcpuclockid(3) numbers them


def resident_mb(pid: int) -> float:
    """Memory held by one process, shared pages included; 0 for one that ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def mapped_mb(pid: int, folder: Path) -> tuple[float, float]:
    """Of the files below a folder: what is resident in a process and in those below it, added up, and counted once
    however many processes have it in common."""
    resident = counted_once = 0
    for member in [pid, *(child for child, _ in descendants(pid))]:
        is_below = False
        for line in Path(f"/proc/{member}/smaps").read_text().splitlines():
            name, *values = line.split()
            if not name.endswith(":"):
                is_below = bool(values) and values[-1].startswith(str(folder))
            elif is_below and name == "Rss:":
                resident += int(values[0])
            elif is_below and name == "Pss:":
                counted_once += int(values[0])
    return resident / 1000, counted_once / 1000


def anonymous_mb(pids: Iterable[int]) -> float:
    """Memory of these processes that belongs to no file."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1000


def mapped_below(pid: int, folder: Path) -> dict[int, set[str]]:
    """Of each process, this one and those below it: names in a folder with files mapped below them, deleted or not."""
    root, found = f"{folder.resolve()}/", {}
    for member in [pid, *(child for child, _ in descendants(pid))]:
        paths = [line.partition(root)[2] for line in Path(f"/proc/{member}/maps").read_text().splitlines()]
        found[member] = {path.split("/", 1)[0] for path in paths if path}
    return found


def descendants(pid: int) -> list[tuple[int, int]]:
    """Processes below this one, each with the process that started it, which comes earlier."""
    found = _children(pid)
    for child, _ in found:
        found += _children(child)
    return found


def _children(pid: int) -> list[tuple[int, int]]:
    children = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children += [(int(child), pid) for child in listing.read_text().split()]
        except OSError:
            continue  # that thread ended
    return children


def _stat(pid: int) -> list[str]:
    """Fields of /proc/pid/stat from the state on; zeros for a process that ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["0"] * 20


def _wait_until_ready(settings: Settings, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            with urlopen(f"http://{settings.host}:{settings.port}/readyz", timeout=2) as response:
                if response.status == 200:
                    return
        except (URLError, OSError):
            pass  # not listening yet
        if server.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the server did not get ready:\n{(settings.data_dir / 'serve.log').read_text()[-2000:]}")
        time.sleep(0.1)
