"""What a person sees while the demo runs: a table in place on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table


@dataclass(frozen=True)
class Moment:
    """One look at the running system. Rates and quantiles are of the time since the look before.

    lag_records, users_alive: None while the server cannot tell.
    """

    at_s: float
    events_per_s: float
    answers_per_s: float
    p50_ms: float
    p99_ms: float
    lag_records: float | None
    users_known: int
    users_alive: float | None
    release: str | None
    doing: str
    recall_personal: float
    recall_popular: float
    answer_errors: int

    @property
    def users_expired(self) -> float | None:
        return None if self.users_alive is None else max(0.0, self.users_known - self.users_alive)


class View(Protocol):
    """Two kinds: `on_terminal` and `in_lines`."""

    def show(self, moment: Moment) -> None:
        """The newest look."""

    def say(self, sentence: str) -> None:
        """Something that happened and stays readable."""


@contextmanager
def opened(console: Console, *, every_s: float = 3.0) -> Iterator[View]:
    """The view that fits: in place on a terminal, otherwise a line at most every every_s seconds."""
    if not console.is_terminal:
        yield _Lines(console, every_s)
        return
    with Live(console=console, auto_refresh=False) as live:
        yield _InPlace(live)


class _InPlace:
    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, moment: Moment) -> None:
        self._live.update(_panel(moment), refresh=True)

    def say(self, sentence: str) -> None:
        self._live.console.print(sentence, highlight=False)


class _Lines:
    def __init__(self, console: Console, every_s: float) -> None:
        self._console, self._every_s = console, every_s
        self._next_s = 0.0

    def show(self, moment: Moment) -> None:
        if moment.at_s >= self._next_s:
            self._next_s = moment.at_s + self._every_s
            self.say(_line(moment))

    def say(self, sentence: str) -> None:
        self._console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def counted(value: float | None) -> str:
    """A whole number, or a question mark for one nobody knows."""
    return "?" if value is None else f"{value:,.0f}"


def _panel(moment: Moment) -> Panel:
    table = Table.grid(padding=(0, 3))
    table.add_row("events", f"{moment.events_per_s:,.0f}/s", f"lag {counted(moment.lag_records)} records")
    quantiles = f"p50 {moment.p50_ms:.1f} ms   p99 {moment.p99_ms:.1f} ms"
    errors = f"[red]{moment.answer_errors} errors[/red]" if moment.answer_errors else "no errors"
    table.add_row("requests", f"{moment.answers_per_s:,.0f}/s", f"{quantiles}   {errors}")
    table.add_row("users", f"{counted(moment.users_alive)} alive", f"{counted(moment.users_expired)} expired")
    table.add_row("release", moment.release or "none yet", moment.doing)
    table.add_row(
        "recall@20",
        f"[green]{moment.recall_personal:.3f} personal[/green]",
        f"{moment.recall_popular:.3f} most popular lately",
    )
    return Panel(table, title=f"ledstream, {moment.at_s:.0f} s", title_align="left", expand=False)


def _line(moment: Moment) -> str:
    return (
        f"{moment.at_s:4.0f} s  events {moment.events_per_s:.0f}/s, lag {counted(moment.lag_records)};  "
        f"requests {moment.answers_per_s:.0f}/s, p50 {moment.p50_ms:.1f} ms, p99 {moment.p99_ms:.1f} ms, "
        f"{moment.answer_errors} errors;  "
        f"users {counted(moment.users_alive)} alive, {counted(moment.users_expired)} expired;  "
        f"release {moment.release or 'none'} ({moment.doing});  "
        f"recall@20 {moment.recall_personal:.3f} personal, {moment.recall_popular:.3f} popular"
    )
