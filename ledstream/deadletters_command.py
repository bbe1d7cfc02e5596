"""`ledstream deadletters`: what nobody could read, and how to send it again to a program that can."""

from __future__ import annotations

import json
import re
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from base64 import b64encode
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice

from ledstream.settings import Settings
from stream.dead_letters import KEPT_BYTES, DeadLetter, Place, read_letters, read_replays, replay
from stream.log import Log, Position

Replays = Mapping[Place, Position | None]
AT_ONCE = 100
SHOWN, PIPE_WIDTH = 60, 200
_PLACE = re.compile(r"(?P<topic>[\w.-]+)/(?P<partition>\d+)@(?P<offset>\d+)")


def add_arguments(parser: ArgumentParser) -> None:
    """The command's own flags."""
    parser.add_argument("action", nargs="?", choices=("list", "replay"), default="list")
    chosen = parser.add_argument_group("which letters (all of them unless told)")
    chosen.add_argument("--at", type=_place, nargs="+", metavar="TOPIC/PARTITION@OFFSET", help="just these")
    chosen.add_argument("--cause", metavar="TEXT", help="whose cause has this text in it")
    chosen.add_argument("--topic", help="of this topic")
    chosen.add_argument("--since", type=time_ms, metavar="TIME", help="as 2026-11-21 or 2026-11-21T08:00, UTC")
    chosen.add_argument("--until", type=time_ms, metavar="TIME", help="before this time")
    listing = parser.add_argument_group("list")
    listing.add_argument("--limit", type=count, default=50, metavar="N", help="at most so many (default 50)")
    listing.add_argument("--oldest", action="store_true", help="oldest first instead of newest first")
    listing.add_argument("--json", action="store_true", help="one JSON object a line, values whole")
    replaying = parser.add_argument_group("replay")
    replaying.add_argument("--dry-run", action="store_true", help="say what would happen and send nothing")
    replaying.add_argument("--again", action="store_true", help="also what was replayed before")


def run(settings: Settings, arguments: Namespace) -> int:
    """Exit code 1 where a letter asked for is missing, or one could not be replayed; 0 otherwise."""
    from ledstream import parts

    log = parts.open_log(settings)
    try:
        replays = read_replays(log)
        if arguments.action == "list":
            return _list(log, replays, arguments)
        return _replay(log, replays, arguments)
    finally:
        log.close()


def _chosen(log: Log, arguments: Namespace) -> Iterator[DeadLetter]:
    since, until = arguments.since or 0, arguments.until or float("inf")
    for letter in read_letters(log):
        if (
            (arguments.at is None or letter.place in arguments.at)
            and (arguments.cause is None or arguments.cause in letter.cause)
            and (arguments.topic is None or arguments.topic == letter.topic)
            and since <= letter.time_ms < until
        ):
            yield letter


def _list(log: Log, replays: Replays, arguments: Namespace) -> int:
    chosen = _chosen(log, arguments)
    letters = list(islice(chosen, arguments.limit) if arguments.oldest else reversed(deque(chosen, arguments.limit)))
    if arguments.json:
        for letter in letters:
            print(json.dumps(_described(letter, replays)))
    else:
        _print_table(letters, replays)
    return 1 if arguments.at and len(letters) < min(len(set(arguments.at)), arguments.limit) else 0


def _print_table(letters: list[DeadLetter], replays: Replays) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("at", "when", "replayed to", "cause", "key", "value"):
        table.add_column(column, no_wrap=True, overflow="ellipsis" if column in ("cause", "key", "value") else "ignore")
    for letter in letters:
        fields = _described(letter, replays)
        shown = [str(fields[name] or "") for name in ("at", "when", "replayed", "cause", "key", "value")]
        table.add_row(*(Text(text[:SHOWN] + "…" if len(text) > SHOWN else text) for text in shown))
    console = Console()
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(table if letters else "no dead letters")


def _described(letter: DeadLetter, replays: Replays) -> dict[str, object]:
    return {
        "at": str(letter.place),
        "when": f"{datetime.fromtimestamp(letter.time_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}",
        "cause": letter.cause,
        "key": letter.shown_key,
        "value": letter.shown_value,
        "bytes": b64encode(letter.value).decode(),
        "cut": letter.is_cut,
        "replayed": _went(letter, replays[letter.place]) if letter.place in replays else None,
    }


def _replay(log: Log, replays: Replays, arguments: Namespace) -> int:
    missing = set(arguments.at or ())
    ready: list[DeadLetter] = []
    failed = 0
    for letter in _chosen(log, arguments):
        missing.discard(letter.place)
        if letter.is_cut:
            failed += 1
            print(f"{letter.place}: refused: cut at {KEPT_BYTES:,} bytes when it was buried, the rest is not known")
        elif letter.place in replays and not arguments.again:
            print(f"{letter.place}: left alone: {_before(letter, replays[letter.place])}; --again sends it again")
        elif arguments.dry_run:
            print(f"{letter.place}: would be replayed ({len(letter.value):,} bytes, {letter.cause})")
        else:
            ready.append(letter)
        if len(ready) == AT_ONCE:
            failed += _send(log, ready)
            ready = []
    failed += _send(log, ready)
    for place in sorted(missing):
        print(f"{place}: no such letter")
    return 1 if failed or missing else 0


def _send(log: Log, letters: list[DeadLetter]) -> int:
    """Replay and tell; returns how many failed."""
    outcomes = replay(log, letters, int(time.time() * 1000))
    for letter, outcome in zip(letters, outcomes, strict=True):
        if isinstance(outcome, Position):
            print(f"{letter.place}: replayed to {_went(letter, outcome)}")
        else:
            print(f"{letter.place}: failed, it may have been stored all the same: {outcome}")
    return sum(isinstance(outcome, Exception) for outcome in outcomes)


def _before(letter: DeadLetter, to: Position | None) -> str:
    if to is None:
        return "a replay of it began and did not say how it ended, so it may have been stored"
    return f"replayed to {_went(letter, to)} before"


def _went(letter: DeadLetter, to: Position | None) -> str:
    return "unknown" if to is None else str(Place(letter.topic, *to))


def _place(text: str) -> Place:
    found = _PLACE.fullmatch(text)
    if found is None:
        raise ArgumentTypeError(f"{text} is not topic/partition@offset, as in events/3@17")
    return Place(found["topic"], int(found["partition"]), int(found["offset"]))


def time_ms(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text} is not a time, as in 2026-11-21T08:00") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ArgumentTypeError(f"{text} is not 1 or more")
    return number
