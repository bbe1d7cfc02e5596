"""The published protocols by name, and running one. `ledstream evaluate --benchmark` takes these names."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from training.benchmarks.case import Benchmark, NoBenchmark, data_folder, in_its_own_process
from training.benchmarks.cold_users import cold_users
from training.benchmarks.diginetica import diginetica_stream
from training.benchmarks.globo import globo
from training.benchmarks.gowalla import gowalla
from training.benchmarks.led_shape import led_shape, led_shape_gowalla
from training.benchmarks.ml1m import ml1m, ml1m_strong
from training.benchmarks.ml20m import ml20m
from training.evaluate import Row

BENCHMARKS: dict[str, Benchmark] = {
    "cold-users": cold_users,
    "diginetica-stream": diginetica_stream,
    "globo": globo,
    "gowalla": gowalla,
    "led-shape": led_shape,
    "led-shape-gowalla": led_shape_gowalla,
    "ml-1m": ml1m,
    "ml-1m-strong": ml1m_strong,
    "ml-20m": ml20m,
}


def run(
    name: str,
    dims: Sequence[int] | None = None,
    *,
    models: Collection[str] | None = None,
    folder: Path | None = None,
) -> Iterator[Row]:
    """The rows of a benchmark, each as soon as it is there; of the named models alone, if any are. Raises NoBenchmark.

    Every case is measured in a process of its own, so that its peak memory is its own.
    """
    if name not in BENCHMARKS:
        raise NoBenchmark(f"benchmark = {name}: known benchmarks are {', '.join(sorted(BENCHMARKS))}")
    cases = BENCHMARKS[name](dims, data_folder(os.environ) if folder is None else folder)
    known = {case.model for case in cases}
    if models is not None and not known.issuperset(models):
        unknown, names = (", ".join(f'"{one}"' for one in sorted(some)) for some in (set(models) - known, known))
        raise NoBenchmark(f"models = {unknown}: benchmark {name} knows {names}; a name with a comma is one, in quotes")
    for case in cases:
        if models is None or case.model in models:
            yield from in_its_own_process(case)
