"""The most memory that this process has held."""

from __future__ import annotations

from pathlib import Path


def peak_mb() -> float:
    """In MB (10^6 bytes)."""
    return peak_mib() * (1 << 20) / 1e6


def peak_mib() -> float:
    """In MiB; pages of files that it has mapped count.

    From /proc where there is one: what getrusage reports begins, on Linux, with the peak of the parent process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)  # bytes on macOS, the other with a peak
