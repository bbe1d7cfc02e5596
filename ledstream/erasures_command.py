"""`ledstream erasures`: who was erased, what is left of them, and what a receipt is worth."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ledstream.listing import print_table, when
from ledstream.settings import Settings, SettingsError

if TYPE_CHECKING:
    from ledstream.erasure_stores import Stores

ACTIONS = ("list", "verify", "compact", "check", "restore")
LISTED = {name: name for name in ("user", "erased", "log")}
FOUND = {name: name for name in ("store", "where", "user", "events", "until")}


def add_arguments(parser: ArgumentParser) -> None:
    """The command's own flags."""
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list")
    parser.add_argument(
        "receipts",
        nargs="*",
        metavar="RECEIPT",
        help="files of receipts, or - for standard input: for check and restore",
    )
    parser.add_argument(
        "--user", metavar="ID", help="list: of this user alone; check: whether the receipt is of this user"
    )
    parser.add_argument("--strict", action="store_true", help="verify: also fail for what the log keeps for now")
    parser.add_argument("--json", action="store_true", help="list, verify: one JSON object a line")


def run(settings: Settings, arguments: Namespace) -> int:
    """Exit code 1 where verify found something, or a receipt is not good; 0 otherwise."""
    if arguments.action == "list":
        return _list(settings, arguments)
    if arguments.action == "check":
        return _check(settings, arguments)
    if arguments.action == "restore":
        return _restore(settings, arguments)
    return _verify(settings, arguments) if arguments.action == "verify" else _compact(settings)


def _list(settings: Settings, arguments: Namespace) -> int:
    from ledstream import parts

    tombstones = parts.tombstones(settings)
    wanted = None if arguments.user is None else tombstones.key.name(arguments.user)
    rows: list[dict[str, object]] = [
        {
            "user": one.name.hex(),
            "erased": when(one.time_ms),
            "log": "" if one.place is None else f"{one.place.log:016x}/{one.place.partition}@{one.place.offset}",
        }
        for one in tombstones.all()
        if wanted in (None, one.name)
    ]
    _show(rows, LISTED, "nobody was erased", as_json=arguments.json)
    return 0


def _verify(settings: Settings, arguments: Namespace) -> int:
    with _stores(settings) as places:
        found = list(places.found())
        erased = len(places.tombstones)
    rows = [one._asdict() | {"user": one.name, "until": one.until or "must not be there"} for one in found]
    _show(rows, FOUND, f"nothing is left of {erased} erased users", as_json=arguments.json)
    wrong = [one for one in found if arguments.strict or not one.until]
    if wrong:
        sys.stderr.write(f"{len(wrong)} findings: run `ledstream erasures compact`, then verify again\n")
    return 1 if wrong else 0


def _compact(settings: Settings) -> int:
    from ledstream.compacting import clear
    from ledstream.erasure_stores import compaction

    with _stores(settings) as places:
        done = clear(places, compaction(places))
    for what, count in done.items():
        print(f"{count:>8,} {what} {'rewritten' if what == 'archive files' else 'removed'}")
    return 0


def _check(settings: Settings, arguments: Namespace) -> int:
    from ledstream import parts
    from store.receipts import BadReceipt, checked

    key, bad = parts.tombstones(settings).key, 0
    for path, text in _texts(arguments):
        try:
            receipt = checked(text, key)
        except BadReceipt as error:
            print(f"{path}: refused: {error}")
            bad += 1
            continue
        is_of = arguments.user is None or receipt["user"] == key.name(arguments.user).hex()
        bad += not is_of
        told = "good" if is_of else "signed here, but of another user"
        print(f"{path}: {told}: user {receipt['user']} erased {when(receipt['erased_ms'])}")
    return 1 if bad else 0


def _restore(settings: Settings, arguments: Namespace) -> int:
    """Tombstones from receipts, for a disk that no longer knows of them; nothing is taken where one is not good."""
    from ledstream import parts
    from store.receipts import BadReceipt, checked, tombstones_of

    tombstones = parts.tombstones(settings)
    try:
        receipts = [checked(text, tombstones.key) for _, text in _texts(arguments)]
    except BadReceipt as error:
        raise SettingsError(f"nothing restored: {error}") from None
    tombstones.add(one for receipt in receipts for one in tombstones_of(receipt))
    print(f"{len(receipts)} receipts: {len(tombstones)} users are known to be erased; now `ledstream erasures compact`")
    return 0


def _texts(arguments: Namespace) -> Iterator[tuple[str, str]]:
    """Receipts: of each file, or of each of its lines."""
    if not arguments.receipts:
        raise SettingsError(f"erasures {arguments.action}: name a file with a receipt, or -")
    for name in arguments.receipts:
        try:
            text = sys.stdin.read() if name == "-" else Path(name).read_text()
        except OSError as error:
            raise SettingsError(f"{name}: {error.strerror}") from None
        lines = [line for line in text.splitlines() if line.strip()]
        is_by_line = len(lines) > 1 and lines[0].startswith("{") and lines[0].rstrip().endswith("}")
        yield from ((name, part) for part in (lines if is_by_line else [text]))


@contextmanager
def _stores(settings: Settings) -> Iterator[Stores]:
    from ledstream import parts
    from ledstream.erasure_stores import stores

    log = parts.open_log(settings)
    try:
        with parts.open_store(settings) as client:
            yield stores(settings, log, parts.erased_users(settings, client))
    finally:
        log.close()


def _show(rows: list[dict[str, object]], columns: dict[str, str], nothing: str, *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            print(json.dumps({name: row[name] for name in columns}))
        return
    print_table(rows, columns, nothing, cut=("where", "until"))
