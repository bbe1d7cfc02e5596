"""`ledstream evaluate`: the model's quality on one's own archive, or on a benchmark with published figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ledstream import parts
from ledstream.settings import Settings
from ledstream.train_command import train_settings
from store.archive import read_archive
from store.erased_archive import without_erased
from stream.events import ERASE
from training.benchmarks import registry
from training.benchmarks.case import print_rows
from training.benchmarks.own_events import archive
from training.evaluate import Row
from training.progress import progress_bars
from training.struck import struck_places, without_struck

ARCHIVE = "archive"


def run(
    settings: Settings,
    benchmark: str,
    dims: Sequence[int] | None,
    *,
    models: Sequence[str] | None = None,
    as_json: bool = False,
) -> None:
    """Print the rows: `archive` is held-out users and events of the archive, everything else a published protocol.

    Raises NoBenchmark for an unknown name or missing data, TooFewEvents for an archive with nothing in it.
    """
    if benchmark == ARCHIVE:
        rows = _own_rows(settings, dims or (settings.dim,))
    else:
        rows = registry.run(benchmark, dims, models=models)
    print_rows(rows, as_json=as_json)


def _own_rows(settings: Settings, dims: Sequence[int]) -> Iterator[Row]:
    archived = read_archive(settings.archive_dir)
    struck = struck_places(lambda columns: [archived.select(columns)])
    events = without_erased(without_struck(archived, struck), parts.tombstones(settings), erase=ERASE)
    chosen = train_settings(settings.model_copy(update={"tune": True}))
    with progress_bars() as progress:
        for dim in dims:
            spectral = replace(chosen.spectral, dim=dim)
            yield from archive(events, replace(chosen, spectral=spectral), progress)
