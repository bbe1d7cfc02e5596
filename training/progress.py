"""Progress bars, kept out of the mathematics: whatever takes seconds is given a `Progress` to call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]
"""Called as (what is being done, steps done, steps in all). Steps of one thing rise from 0 to all."""


def silent(what: str, done: int, total: int) -> None:
    """The Progress that shows nothing."""


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """A Progress that draws one bar for each thing, on standard error; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            if done == 0:
                bars.reset(tasks[what], total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield show
