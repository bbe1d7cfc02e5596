"""`ledstream deadletters`: what nobody could read, and how to send it again to a program that can."""

from __future__ import annotations

import json
import re
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from base64 import b64encode
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice

from ledstream.listing import add_replaying, add_window, count, is_within, print_table, when
from ledstream.settings import Settings
from store.tombstones import Tombstones
from stream.dead_letters import KEPT_BYTES, DeadLetter, Place, read_letters, read_replays, replay
from stream.erased_records import is_of_erased
from stream.log import Log, Position

Replays = Mapping[Place, Position | None]
AT_ONCE = 100
CUT = ("cause", "key", "value")
COLUMNS = {name: name for name in ("at", "when", "replayed", *CUT)} | {"replayed": "replayed to"}
_PLACE = re.compile(r"(?P<topic>[\w.-]+)/(?P<partition>\d+)@(?P<offset>\d+)")


def add_arguments(parser: ArgumentParser) -> None:
    """The command's own flags."""
    parser.add_argument("action", nargs="?", choices=("list", "replay"), default="list")
    chosen = parser.add_argument_group("which letters (all of them unless told)")
    chosen.add_argument("--at", type=_place, nargs="+", metavar="TOPIC/PARTITION@OFFSET", help="just these")
    chosen.add_argument("--cause", metavar="TEXT", help="whose cause has this text in it")
    chosen.add_argument("--topic", help="of this topic")
    add_window(chosen)
    listing = parser.add_argument_group("list")
    listing.add_argument("--limit", type=count, default=50, metavar="N", help="at most so many (default 50)")
    listing.add_argument("--oldest", action="store_true", help="oldest first instead of newest first")
    listing.add_argument("--json", action="store_true", help="one JSON object a line, values whole")
    add_replaying(parser)


def run(settings: Settings, arguments: Namespace) -> int:
    """Exit code 1 where a letter asked for is missing, or one could not be replayed; 0 otherwise."""
    from ledstream import parts

    log = parts.open_log(settings)
    try:
        replays = read_replays(log)
        if arguments.action == "list":
            return _list(log, replays, parts.tombstones(settings), arguments)
        return _replay(log, replays, parts.tombstones(settings), arguments)
    finally:
        log.close()


def _chosen(log: Log, arguments: Namespace) -> Iterator[DeadLetter]:
    for letter in read_letters(log):
        if (
            (arguments.at is None or letter.place in arguments.at)
            and (arguments.cause is None or arguments.cause in letter.cause)
            and (arguments.topic is None or arguments.topic == letter.topic)
            and is_within(arguments, letter.time_ms)
        ):
            yield letter


def _list(log: Log, replays: Replays, tombstones: Tombstones, arguments: Namespace) -> int:
    """Without letters of users who were erased since."""
    chosen = (letter for letter in _chosen(log, arguments) if not is_of_erased(letter, tombstones))
    letters = list(islice(chosen, arguments.limit) if arguments.oldest else reversed(deque(chosen, arguments.limit)))
    rows = [_described(letter, replays) for letter in letters]
    if arguments.json:
        for row in rows:
            print(json.dumps(row))
    else:
        shown = [{name: field or "" for name, field in row.items()} for row in rows]
        print_table(shown, COLUMNS, "no dead letters", cut=CUT)
    return 1 if arguments.at and len(letters) < min(len(set(arguments.at)), arguments.limit) else 0


def _described(letter: DeadLetter, replays: Replays) -> dict[str, object]:
    return {
        "at": str(letter.place),
        "when": when(letter.time_ms),
        "cause": letter.cause,
        "key": letter.shown_key,
        "value": letter.shown_value,
        "bytes": b64encode(letter.value).decode(),
        "cut": letter.is_cut,
        "replayed": _went(letter, replays[letter.place]) if letter.place in replays else None,
    }


def _replay(log: Log, replays: Replays, tombstones: Tombstones, arguments: Namespace) -> int:
    missing = set(arguments.at or ())
    ready: list[DeadLetter] = []
    failed = 0
    for letter in _chosen(log, arguments):
        missing.discard(letter.place)
        if letter.is_cut:
            failed += 1
            print(f"{letter.place}: refused: cut at {KEPT_BYTES:,} bytes when it was buried, the rest is not known")
        elif is_of_erased(letter, tombstones):
            failed += 1
            print(f"{letter.place}: refused: its user was erased since")
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
