"""What `ledstream deadletters` and `ledstream badrows` have in common: which ones, how many, and how they are shown."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace, _ArgumentGroup
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime

SHOWN, PIPE_WIDTH = 60, 200


def add_window(chosen: _ArgumentGroup) -> None:
    """--since and --until."""
    chosen.add_argument("--since", type=time_ms, metavar="TIME", help="as 2026-11-21 or 2026-11-21T08:00, UTC")
    chosen.add_argument("--until", type=time_ms, metavar="TIME", help="before this time")


def is_within(arguments: Namespace, at_ms: int) -> bool:
    """Whether a time, Unix milliseconds, is in the window asked for."""
    return (arguments.since or 0) <= at_ms < (arguments.until or float("inf"))


def add_replaying(parser: ArgumentParser) -> None:
    """--dry-run and --again."""
    replaying = parser.add_argument_group("replay")
    replaying.add_argument("--dry-run", action="store_true", help="say what would happen and send nothing")
    replaying.add_argument("--again", action="store_true", help="also what was replayed before")


def print_table(
    rows: Sequence[Mapping[str, object]], columns: Mapping[str, str], nothing: str, *, cut: Collection[str]
) -> None:
    """Fields of each row under their headers, long ones shortened; `nothing` without rows. cut: may be cut to fit."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for field, header in columns.items():
        table.add_column(header, no_wrap=True, overflow="ellipsis" if field in cut else "ignore")
    for row in rows:
        shown = [str(row[field]) for field in columns]
        table.add_row(*(Text(text[:SHOWN] + "…" if len(text) > SHOWN else text) for text in shown))
    console = Console()
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(table if rows else nothing)


def when(at_ms: int) -> str:
    """A time, Unix milliseconds, as it is shown: to the second, UTC."""
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def time_ms(text: str) -> int:
    """A time on the command line, as Unix milliseconds; without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text} is not a time, as in 2026-11-21T08:00") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def count(text: str) -> int:
    """A number on the command line that is 1 or more."""
    number = int(text)
    if number < 1:
        raise ArgumentTypeError(f"{text} is not 1 or more")
    return number
