"""An event as the address of an image: for mails, and pages without scripts."""

from __future__ import annotations

from typing import Any

from serving.questions import read_query
from serving.refusals import Refused

# One transparent pixel.
GIF = bytes.fromhex("47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b")
FIELDS = ("user_id", "item_id", "kind", "event_id", "value")


def read_pixel(query: bytes) -> tuple[dict[str, Any], list[str]]:
    """The event in a query string, a view unless it says otherwise, and its write keys. Raises Refused."""
    given = read_query(query, (*FIELDS, "key"))
    raw: dict[str, Any] = {"kind": "view"} | {name: given[name][0] for name in FIELDS if given[name]}
    if "value" in raw:
        try:
            raw["value"] = float(raw["value"])
        except ValueError:
            raise Refused("value", raw["value"], "must be a number") from None
    return raw, given["key"]
