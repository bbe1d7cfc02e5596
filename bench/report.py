"""What every program here prints: where it ran and with what, percentiles, and a last line for machines."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def opening(program: str, parameters: Mapping[str, object]) -> None:
    """The first lines: machine and parameters."""
    model = "unknown processor"
    try:
        with open("/proc/cpuinfo") as cpuinfo:  # noqa: PTH123
            model = next((line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")), model)
    except OSError:
        pass
    print(f"{program}: {os.cpu_count()} cores of {model}, Python {platform.python_version()}, {platform.system()}")
    print("  " + ", ".join(f"{name}={value}" for name, value in parameters.items()), flush=True)


def percentiles_ms(seconds: Sequence[float] | npt.NDArray[np.floating[Any]]) -> dict[str, float]:
    """p50_ms, p95_ms and p99_ms of durations; NaN of none."""
    if not len(seconds):
        return {"p50_ms": float("nan"), "p95_ms": float("nan"), "p99_ms": float("nan")}
    values = np.percentile(np.asarray(seconds) * 1000, [50, 95, 99])
    return {name: round(float(value), 3) for name, value in zip(("p50_ms", "p95_ms", "p99_ms"), values, strict=True)}


def closing(figures: Mapping[str, object]) -> None:
    """The last line."""
    print(json.dumps(figures), flush=True)
