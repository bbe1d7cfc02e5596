"""What every benchmark is made of: cases, each measured in a process of its own, and rows.

A benchmark is a function (dims, folder) -> cases. It looks for its data before it promises anything and leaves reading,
training and measuring to the cases. A module of this package imports neither torch nor implicit at its head: who
measures a closed form needs neither.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from training.evaluate import Row, Split, Training, folding, measure, row_as_json, rows_as_markdown
from training.peak_memory import peak_mb
from training.progress import Progress, progress_bars
from training.train import Grid, TrainSettings, choose, fit

DATA_VARIABLE = "LEDSTREAM_DATA"
EXTRAS = {"torch": "train", "matplotlib": "train", "implicit": "baselines"}  # by what is imported


class NoBenchmark(ValueError):
    """The benchmark, its data or what a model needs is not there: says which, and where to look for it."""


@dataclass(frozen=True)
class Case:
    """One model under one protocol. rows: picklable (a function of a module, or a partial of one), gives its rows."""

    model: str
    rows: Callable[[Progress], Sequence[Row]]


Benchmark = Callable[[Sequence[int] | None, Path], Sequence[Case]]
"""Called as (dimensions asked for or None for its own, data folder). Raises NoBenchmark where data is missing."""


def data_folder(environ: Mapping[str, str]) -> Path:
    """Where the data sets lie: $LEDSTREAM_DATA, or shared/data beside the repository."""
    return Path(environ.get(DATA_VARIABLE) or Path(__file__).parents[3] / "shared" / "data")


def data_file(folder: Path, name: str) -> Path:
    """A file of the data folder. Raises NoBenchmark where it is not there."""
    path = folder / name
    if not path.exists():
        raise NoBenchmark(f"{path} is not there: set {DATA_VARIABLE} to the folder that holds it")
    return path


def in_its_own_process(case: Case) -> Sequence[Row]:
    """The rows of a case, whose peak memory is then its own. Raises NoBenchmark where an extra is not installed."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_with_bars, case).result()


def trained_rows(parts: Split, settings: TrainSettings, progress: Progress) -> list[Row]:
    """A row for each task, of LED in closed form trained on parts.train."""
    started = time.process_time()
    choice = choose(parts.train, settings, progress)
    chosen = time.process_time()
    model = fit(parts.train, settings, choice, progress)
    training = Training(
        d=model.input_embeddings.shape[1],
        settings={"a": choice.a, "p": choice.p, "bias": choice.bias},
        tried=_tried(settings.grid) if choice.validation else 0,
        choose_seconds=chosen - started,
        train_seconds=time.process_time() - chosen,
        peak_mb=peak_mb(),
    )
    scorer = folding(model.input_embeddings, model.output_embeddings, model.biases)
    return [Row(name, "led", measure(scorer, task, progress=progress), training) for name, task in parts.tasks.items()]


def print_rows(rows: Iterable[Row], *, as_json: bool) -> None:
    """To standard output: each row as soon as it is there as one JSON object, or a table at the end."""
    if as_json:
        for row in rows:
            print(row_as_json(row), flush=True)
    else:
        print(rows_as_markdown(list(rows)))


def _tried(grid: Grid | None) -> int:
    """How many configurations `choose` measures."""
    return 0 if grid is None else len(grid.a) * len(grid.p) + sum(bias != 0 for bias in grid.bias)


def _with_bars(case: Case) -> Sequence[Row]:
    with progress_bars() as progress:
        try:
            return case.rows(progress)
        except ModuleNotFoundError as error:
            extra = EXTRAS.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            raise NoBenchmark(f"model = {case.model}: {error}: pip install 'ledstream[{extra}]'") from error
