"""A visitor looks at items and gets recommendations that know of it.

python visit.py http://localhost:8080 ana hat-01
"""

from __future__ import annotations

import os
import sys

from ledstream_client import Client, Event


def main(address: str, user: str, *items: str) -> None:
    with Client(address, write_key=os.environ.get("SHOP_WRITE_KEY", "")) as client:
        taken = client.track_many([Event(user, item, "view") for item in items])
        answer = client.recommend(user, k=5, details=True, after=taken, wait_ms=500)
        print(f"{answer.source}, release {answer.release}")
        for item in answer.items:
            print(f"{item.score:8.3f}  {item.item_id}  {item.title or ''}")


if __name__ == "__main__":
    main(*sys.argv[1:])
