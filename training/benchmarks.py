"""Quality on data whose published figures are known, and on one's own archive. `ledstream evaluate` prints the rows.

Published splits without a validation part get one from their training part: what is chosen is never chosen on test.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from training.evaluate import (
    Row,
    Split,
    Task,
    Training,
    folding,
    measure,
    popular,
    row_as_json,
    rows_as_markdown,
    split,
)
from training.interactions import Selection, collect, without_times
from training.progress import Progress, progress_bars, silent
from training.spectral import SpectralSettings
from training.train import Grid, TrainSettings, choose, fit

DATA_VARIABLE = "LEDSTREAM_DATA"
DIMS = (64, 128, 256, 512, 1024)
GOWALLA = "gowalla_lightgcn.parquet"


class NoBenchmark(ValueError):
    """The benchmark or its data is not there: says which and where it was looked for."""


def run(name: str, dims: Sequence[int] = DIMS, *, folder: Path | None = None) -> Iterator[Row]:
    """The rows of a benchmark, each as soon as it is there. Raises NoBenchmark.

    Every dimension is measured in a process of its own, so that its peak memory is its own.
    """
    if name not in BENCHMARKS:
        raise NoBenchmark(f"benchmark = {name}: known benchmarks are {', '.join(sorted(BENCHMARKS))}")
    folder = data_folder(os.environ) if folder is None else folder
    for dim in dims:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            yield from process.submit(_in_its_own_process, name, dim, folder).result()


def data_folder(environ: Mapping[str, str]) -> Path:
    """Where the data sets lie: $LEDSTREAM_DATA, or shared/data beside the repository."""
    return Path(environ.get(DATA_VARIABLE) or Path(__file__).parents[2] / "shared" / "data")


def gowalla(dim: int, folder: Path, progress: Progress = silent) -> list[Row]:
    """The LightGCN split of Gowalla: 29,858 users, 40,981 items, a random fifth of each user's items as test.

    a and p are chosen on a fifth of the training part, drawn the same way, before the fit on all of it.
    """
    path = folder / GOWALLA
    if not path.exists():
        raise NoBenchmark(f"{path} is not there: set {DATA_VARIABLE} to the folder that holds it")
    table = pq.read_table(path)
    users, items = (table[name].to_numpy().astype(np.int64) for name in ("user", "item"))
    is_test = table["split"].to_numpy() == 1
    train = without_times(users[~is_test], items[~is_test])
    cells = (np.ones(np.count_nonzero(is_test), np.float32), (users[is_test], items[is_test]))
    task = Task(train.matrix, sp.csr_array(cells, shape=train.matrix.shape))
    settings = TrainSettings(Selection({}), SpectralSettings(dim=dim), grid=Grid(bias=(0.0,), users_share=0.0))
    return _trained_rows(Split(train, {"gowalla": task}), settings, progress)


def archive(events: pa.Table, settings: TrainSettings, progress: Progress = silent) -> list[Row]:
    """Rows for one's own events: LED and popularity, on held-out events and on held-out users.

    a, p and the bias are chosen on a validation part of what is trained on. Raises TooFewEvents.
    """
    interactions = collect(events, settings.selection)
    rng = np.random.default_rng(settings.spectral.seed + 1)  # another split than the one the choice is made on
    parts = split(interactions, rng, half_life_s=settings.half_life_s)
    popularity = popular(parts.train.popularity(settings.popularity_half_life_s))
    rows = _trained_rows(parts, settings, progress)
    for name, task in parts.tasks.items():
        rows.append(Row(name, "popular", measure(popularity, task, progress=progress)))
    return sorted(rows, key=lambda row: row.benchmark)


def print_rows(rows: Iterable[Row], *, as_json: bool) -> None:
    """To standard output: each row as soon as it is there as one JSON object, or a table at the end."""
    if as_json:
        for row in rows:
            print(row_as_json(row), flush=True)
    else:
        print(rows_as_markdown(list(rows)))


BENCHMARKS: dict[str, Callable[[int, Path, Progress], list[Row]]] = {"gowalla": gowalla}


def _trained_rows(parts: Split, settings: TrainSettings, progress: Progress) -> list[Row]:
    """A row for each task of LED trained on parts.train."""
    started = time.monotonic()
    choice = choose(parts.train, settings, progress)
    chosen = time.monotonic()
    model = fit(parts.train, settings, choice, progress)
    training = Training(
        d=model.input_embeddings.shape[1],
        a=choice.a,
        p=choice.p,
        bias=choice.bias,
        choose_seconds=chosen - started,
        train_seconds=time.monotonic() - chosen,
        peak_mb=peak_mb(),
    )
    scorer = folding(model.input_embeddings, model.output_embeddings, model.biases)
    return [Row(name, "led", measure(scorer, task, progress=progress), training) for name, task in parts.tasks.items()]


def _in_its_own_process(name: str, dim: int, folder: Path) -> list[Row]:
    with progress_bars() as progress:
        return BENCHMARKS[name](dim, folder, progress)


def peak_mb() -> float:
    """The most memory this process has held, in MB (10^6 bytes).

    From /proc where there is one: what getrusage reports begins, on Linux, with the peak of the parent process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on macOS, the other system with a peak
