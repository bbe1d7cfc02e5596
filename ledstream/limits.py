"""What a training leaves to those who serve beside it: it gives way on the processor, in threads and in memory."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from threadpoolctl import threadpool_limits

from ledstream.settings import Settings

POOLS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
FIRST_TO_GO = 500  # of 1,000: where memory runs out all the same, the kernel ends the training and not a server


def give_way(settings: Settings) -> None:
    """Make this thread, and those it starts, as nice as the settings want, with no more threads than they allow.

    To be called before SciPy, faiss or torch are loaded, which read the number of threads when they are.
    """
    nice = max(settings.train_nice, os.getpriority(os.PRIO_PROCESS, 0))
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    if os.getsid(0) == os.getpid():
        # Where the kernel groups processes by session, niceness counts within a session alone: ours has its own.
        _tell("autogroup", nice)
    _tell("oom_score_adj", FIRST_TO_GO)
    os.environ.update(dict.fromkeys(POOLS, str(settings.train_threads)))
    threadpool_limits(settings.train_threads)


def available_mb() -> float:
    """Memory that a process can still take without pushing others out, MiB: the machine's, or less in a container."""
    machine = int(_fields(Path("/proc/meminfo"))["MemAvailable"].split()[0]) / 1024
    return min(machine, _left_in_container_mb())


def _left_in_container_mb() -> float:
    """What version 2 control groups leave, infinite where they set no limit. Files that can be dropped are free."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        cached = int(_fields(folder / "memory.stat")["inactive_file"])
    except (OSError, KeyError):
        return float("inf")
    return float("inf") if limit == "max" else (int(limit) - int(used) + cached) / 2**20


def _fields(path: Path) -> dict[str, str]:
    return dict(line.replace(":", " ").split(None, 1) for line in path.read_text().splitlines())


def _tell(name: str, value: int) -> None:
    """Write to a file of this process in /proc; nothing where the system has none, or forbids it."""
    with suppress(OSError):
        Path(f"/proc/self/{name}").write_text(str(value))
