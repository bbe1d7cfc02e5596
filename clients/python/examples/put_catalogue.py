"""Items of a CSV file (item_id, title, price, stock).

python put_catalogue.py http://localhost:8080 catalogue.csv
"""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

from ledstream_client import CatalogueItem, Client


def main(address: str, name: str) -> None:
    with Path(name).open(newline="") as file:
        items = [
            CatalogueItem(row["item_id"], title=row["title"], price=float(row["price"]), stock=int(row["stock"]))
            for row in csv.DictReader(file)
        ]
    with Client(address, admin_key=os.environ.get("SHOP_ADMIN_KEY", "")) as client:
        put = client.put_items(items)
    print(f"{put.accepted} of {len(items)} put")
    for verdict in put.rejected:
        print(f"  {verdict.about.item_id}: {verdict.field} = {verdict.value}: {verdict.reason}")


if __name__ == "__main__":
    main(*sys.argv[1:])
