"""Events of a CSV file (user_id, item_id, kind, time_ms, event_id).

    python import_history.py http://localhost:8080 history.csv

What could not be sent is written beside the file, to be sent by another run; ids of events make that harmless.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ledstream_client import Client, Event, Patience, Unfinished

COLUMNS = ("user_id", "item_id", "kind", "time_ms", "event_id")


def read(path: Path) -> Iterator[Event]:
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            user, item, kind, time_ms, event_id = (row[name] for name in COLUMNS)
            yield Event(user, item, kind, time_ms=int(time_ms), event_id=event_id)


def main(address: str, name: str) -> None:
    path = Path(name)
    with Client(address, write_key=os.environ.get("SHOP_WRITE_KEY", ""), patience=Patience(within_s=60)) as client:
        try:
            taken = client.track_many(read(path))
        except Unfinished as error:
            taken = error.taken
            with path.with_suffix(".rest.csv").open("w", newline="") as file:
                rest = csv.writer(file)
                rest.writerow(COLUMNS)
                rest.writerows([getattr(event, column) for column in COLUMNS] for event in taken.failed)
            print(error)
    print(f"{taken.accepted} taken, {len(taken.rejected)} rejected, {len(taken.failed)} left")
    for verdict in taken.rejected[:10]:
        print(f"  {verdict.about.event_id}: {verdict.field} = {verdict.value}: {verdict.reason}")


if __name__ == "__main__":
    main(*sys.argv[1:])
