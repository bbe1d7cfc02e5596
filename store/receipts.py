"""What is handed to whoever asked for an erasure: what was done, signed, without the id of the user.

    {"receipt": {"version": 1, "user": "<32 hex>", "erased_ms": …, "visitors": ["<32 hex>", …],
                 "log": [{"identity": "<16 hex>", "partition": 3, "offset": 17}, …], "stores": {…}, "key": "0f1e2d3c"},
     "signature": "<64 hex>"}

`log` has a place for the user and each visitor, in this order, null for one that waits on the disk for the log. The
signature is HMAC-SHA256 of the receipt as JSON with sorted keys and without spaces (`_signed_form`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from store.erasure_key import ErasureKey
from store.tombstones import Place, Tombstone

VERSION = 1


class BadReceipt(ValueError):
    """No receipt, or not one that this key signed; the sentence says which."""


def signed(tombstones: Sequence[Tombstone], stores: Mapping[str, str], key: ErasureKey) -> dict[str, Any]:
    """The receipt of one erasure: of the user first, then of the visitors. stores: by store, what became of it."""
    user, *visitors = tombstones
    receipt = {
        "version": VERSION,
        "user": user.name.hex(),
        "erased_ms": user.time_ms,
        "visitors": [one.name.hex() for one in visitors],
        "log": [_described(one.place) for one in tombstones],
        "stores": dict(stores),
        "key": key.fingerprint,
    }
    return {"receipt": receipt, "signature": key.sign(_signed_form(receipt))}


def checked(text: str, key: ErasureKey) -> dict[str, Any]:
    """The receipt in what `signed` returned, or in the answer of `DELETE /v1/users/{id}` around it, as JSON.

    Raises BadReceipt.
    """
    try:
        given = json.loads(text)
        whole = given.get("receipt", {}) if "signature" not in given else given
        receipt, signature = whole["receipt"], whole["signature"]
        form, version = _signed_form(receipt), receipt["version"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadReceipt(f"no receipt: {type(error).__name__}: {error}") from None
    if version != VERSION:
        raise BadReceipt(f"a receipt of version {version}, {VERSION} is known")
    if receipt.get("key") != key.fingerprint:
        raise BadReceipt(f"signed with key {receipt.get('key')}, {key.fingerprint} is here")
    if not isinstance(signature, str) or not key.has_signed(form, signature):
        raise BadReceipt("the signature is not of this receipt: it was altered")
    assert isinstance(receipt, dict)
    return receipt


def tombstones_of(receipt: Mapping[str, Any]) -> list[Tombstone]:
    """What the receipt says was erased: to put back what a lost disk no longer knows."""
    names, places = [receipt["user"], *receipt["visitors"]], receipt["log"]
    return [
        Tombstone(bytes.fromhex(name), receipt["erased_ms"], _place(place))
        for name, place in zip(names, places, strict=True)
    ]


def _signed_form(receipt: object) -> bytes:
    return json.dumps(receipt, sort_keys=True, separators=(",", ":")).encode()


def _described(place: Place | None) -> dict[str, Any] | None:
    if place is None:
        return None
    return {"identity": f"{place.log:016x}", "partition": place.partition, "offset": place.offset}


def _place(described: Mapping[str, Any] | None) -> Place | None:
    if described is None:
        return None
    return Place(int(described["identity"], 16), described["partition"], described["offset"])
