"""`ledstream badrows`: events that were refused at the border, and how to send them again once they would be taken."""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser, Namespace
from collections import deque
from collections.abc import Iterator

from ledstream.listing import add_replaying, add_window, count, is_within, print_table, when
from ledstream.settings import Settings
from serving.collector.post import put_right
from serving.collector.sorter import Sorter
from serving.publisher import entry_of
from store.tombstones import Tombstones
from stream.bad_rows import BadRow, note_replayed, read_replayed, read_rows
from stream.erased_records import is_row_of_erased
from stream.events import InvalidEvent
from stream.kept import appended
from stream.log import Log, LogUnavailable
from stream.spool import Addressed

AT_ONCE = 500
COLUMNS = {name: name for name in ("row", "when", "site", "replayed", "field", "value", "reason", "event")}


def add_arguments(parser: ArgumentParser) -> None:
    """The command's own flags."""
    parser.add_argument("action", nargs="?", choices=("list", "replay"), default="list")
    chosen = parser.add_argument_group("which rows (all of them unless told)")
    chosen.add_argument("--at", type=int, nargs="+", metavar="ROW", help="just these")
    chosen.add_argument("--field", help="refused for this field, as kind")
    chosen.add_argument("--reason", metavar="TEXT", help="whose reason has this text in it")
    chosen.add_argument("--site", help="of this site")
    add_window(chosen)
    listing = parser.add_argument_group("list")
    listing.add_argument("--limit", type=count, default=50, metavar="N", help="the newest N (default 50)")
    listing.add_argument("--json", action="store_true", help="one JSON object a line, events whole")
    add_replaying(parser)


def run(settings: Settings, arguments: Namespace) -> int:
    """Exit code 1 where a row could not be replayed; 0 otherwise."""
    from ledstream import parts

    log = parts.open_log(settings)
    try:
        if arguments.action == "list":
            _list(log, parts.tombstones(settings), arguments)
            return 0
        return _replay(log, Sorter(parts.border(settings)), parts.tombstones(settings), arguments)
    finally:
        log.close()


def _chosen(log: Log, arguments: Namespace) -> Iterator[BadRow]:
    for row in read_rows(log):
        if (
            (arguments.at is None or row.place in arguments.at)
            and (arguments.field is None or arguments.field == row.field)
            and (arguments.reason is None or arguments.reason in row.reason)
            and (arguments.site is None or arguments.site == row.site)
            and is_within(arguments, row.received_ms)
        ):
            yield row


def _list(log: Log, tombstones: Tombstones, arguments: Namespace) -> None:
    """Without rows of users who were erased since."""
    replayed = read_replayed(log)
    chosen = (row for row in _chosen(log, arguments) if not is_row_of_erased(row, tombstones))
    rows = [_described(row, replayed) for row in reversed(deque(chosen, arguments.limit))]
    if arguments.json:
        for row in rows:
            print(json.dumps(row))
        return
    print_table(rows, COLUMNS, "no bad rows", cut=COLUMNS)


def _described(row: BadRow, replayed: set[int]) -> dict[str, object]:
    return {
        "row": row.place,
        "when": when(row.received_ms),
        "site": row.site,
        "replayed": "yes" if row.place in replayed else "",
        "field": row.field,
        "value": row.value,
        "reason": row.reason,
        "event": row.raw.decode(errors="backslashreplace"),
        "agent": row.agent,
        "cut": row.is_cut,
    }


def _replay(log: Log, sorter: Sorter, tombstones: Tombstones, arguments: Namespace) -> int:
    """An event is judged as of when it came, by what is set now."""
    replayed, failed = read_replayed(log), 0
    ready: list[tuple[BadRow, Addressed]] = []
    for row in _chosen(log, arguments):
        if row.place in replayed and not arguments.again:
            print(f"row {row.place}: left alone: replayed before; --again sends it again, under the same event id")
            continue
        try:
            event, topic = sorter.accept(put_right(row.event(), row.ahead_ms), row.received_ms)
        except (InvalidEvent, ValueError) as error:
            failed += 1
            print(f"row {row.place}: refused: {error}")
            continue
        if min(event.time_ms, row.received_ms) <= (tombstones.until_ms(event.user_id) or -1):
            failed += 1
            print(f"row {row.place}: refused: its user was erased since")
            continue
        if arguments.dry_run:
            print(f"row {row.place}: would be replayed to {topic}")
        else:
            ready.append((row, entry_of(event, int(time.time() * 1000), topic)))
    for first in range(0, len(ready), AT_ONCE):
        failed += _send(log, ready[first : first + AT_ONCE])
    return 1 if failed else 0


def _send(log: Log, rows: list[tuple[BadRow, Addressed]]) -> int:
    """Append and tell; returns how many failed."""
    outcomes = appended(log, [entry for _, entry in rows])
    sent = [row.place for (row, _), outcome in zip(rows, outcomes, strict=True) if not isinstance(outcome, Exception)]
    for (row, entry), outcome in zip(rows, outcomes, strict=True):
        if isinstance(outcome, LogUnavailable):
            print(f"row {row.place}: failed, it may have been stored all the same: {outcome}")
        else:
            print(f"row {row.place}: replayed to {entry.topic}/{outcome.partition}@{outcome.offset}")
    if sent:
        note_replayed(log, sent, int(time.time() * 1000))
    return len(rows) - len(sent)
