"""Forget a user and keep the receipt.

python forget_user.py http://localhost:8080 ana > receipt.json
"""

from __future__ import annotations

import json
import os
import sys

from ledstream_client import Client


def main(address: str, user: str) -> None:
    with Client(address, admin_key=os.environ.get("SHOP_ADMIN_KEY", "")) as client:
        erased = client.erase(user)
    json.dump(erased.receipt, sys.stdout, indent=2)


if __name__ == "__main__":
    main(*sys.argv[1:])
