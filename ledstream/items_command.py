"""`ledstream items import`: what a shop's export says of its items, a JSON object a line or a CSV, to their topic."""

from __future__ import annotations

import csv
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from ledstream.settings import Settings, SettingsError
from stream.items import InvalidItem, Item, accept_item
from stream.log import Log, LogUnavailable
from stream.topics import ITEMS

AT_ONCE = 1000
SHOWN = 20
READ_AS: Mapping[str, Callable[[str], object]] = {
    "price": float,
    "stock": int,
    "delete": {"true": True, "1": True, "false": False, "0": False}.__getitem__,
}


def add_arguments(parser: ArgumentParser) -> None:
    """The command's own flags."""
    parser.add_argument("action", choices=("import",))
    parser.add_argument("file", type=Path, help="items.jsonl, a JSON object a line, or items.csv with a line of names")
    parser.add_argument("--dry-run", action="store_true", help="say what is wrong, and put nothing")


def run(settings: Settings, arguments: Namespace) -> int:
    """Exit code 1 where an item was refused: the others are put; 0 otherwise. Again does no harm."""
    from ledstream import parts

    put = refused = 0
    log = None if arguments.dry_run else parts.open_log(settings)
    try:
        verdicts = _read(arguments.file)
        while some := list(islice(verdicts, AT_ONCE)):
            items = [item for _, item in some if isinstance(item, Item)]
            for line, error in some:
                if isinstance(error, ValueError):
                    refused += 1
                    if refused <= SHOWN:
                        sys.stderr.write(f"{arguments.file}, line {line}: {error}\n")
            if log is not None:
                _append(log, items)
            put += len(items)
    finally:
        if log is not None:
            log.close()
    print(f"{put} items {'would be put' if log is None else 'put'}, {refused} refused")
    return 1 if refused else 0


def _append(log: Log, items: Iterable[Item]) -> None:
    now_ms = int(time.time() * 1000)
    for outcome in log.append(ITEMS, [item.as_entry(now_ms) for item in items]):
        if isinstance(outcome, LogUnavailable):
            raise outcome


def _read(path: Path) -> Iterator[tuple[int, Item | ValueError]]:
    """Each item with its line, or what is wrong with it. Raises SettingsError for a file that cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = _rows_of_csv(file) if path.suffix.lower() == ".csv" else _rows_of_json(file)
            for line, read in rows:
                try:
                    yield line, accept_item(read())
                except (InvalidItem, ValueError, KeyError) as error:
                    yield line, error if isinstance(error, ValueError) else ValueError(f"no such value: {error}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"{path}: {error}") from None


def _rows_of_json(file: Iterable[str]) -> Iterator[tuple[int, Callable[[], Any]]]:
    for line, text in enumerate(file, 1):
        if text.strip():
            yield line, lambda text=text: orjson.loads(text)  # type: ignore[misc]


def _rows_of_csv(file: Iterable[str]) -> Iterator[tuple[int, Callable[[], Any]]]:
    """What is empty is not said."""
    rows = csv.DictReader(file, strict=True)
    for row in rows:
        yield rows.line_num, lambda row=row: {name: _value(name, text) for name, text in row.items() if text}  # type: ignore[misc]


def _value(name: str | None, text: Any) -> object:
    if name is None:
        raise ValueError(f"more values than names: {text}")
    return READ_AS.get(name, str)(text)
