"""What may be said of an item, and what a record of the topic means."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from stream.events import DecodeError
from stream.items import DELETED, MAX_MORE, InvalidItem, Item, ItemsDecoder, accept_item, read_item
from stream.log import Batch, Record

HAT = {
    "item_id": "hats/felt 1",
    "title": "A felt hat",
    "url": "/items/1?a=b#c",
    "image": "https://img.example.org/1.jpg",
}


def test_an_item_carries_what_was_put_of_it_and_nothing_else() -> None:
    whole = HAT | {"category": "Hats", "price": 39, "currency": "EUR", "stock": 0, "brand": "Ödön\u00a0👩\u200d🎨"}
    item = accept_item(whole)
    assert orjson.loads(item.fields) == {name: value for name, value in whole.items() if name != "item_id"}
    assert (item.item_id, item.is_withheld) == ("hats/felt 1", True)
    assert accept_item({"item_id": "x", "title": None}) == Item("x", b"{}", is_withheld=False)
    assert accept_item({"item_id": "x", "delete": True}) == Item("x", DELETED, is_withheld=True)


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("item", 7),
        ("item_id", {"item_id": ""}),
        ("item_id", {"item_id": "é" * 65}),
        ("item_id", {"item_id": "a\nb"}),
        ("item_id", {"item_id": 1}),
        ("title", {"title": "x" * 257}),
        ("title", {"title": "a\0b"}),
        ("title", {"title": "a\u2028b"}),
        ("title", {"title": "\ud800"}),
        ("title", {"title": "JavaScript:alert(1)"}),
        ("url", {"url": "javascript:alert(1)"}),
        ("url", {"url": " javascript:alert(1)"}),
        ("url", {"url": "java\tscript:alert(1)"}),
        ("url", {"url": "data:text/html,x"}),
        ("url", {"url": "//elsewhere.example.org/"}),
        ("url", {"url": "/\\elsewhere.example.org/"}),
        ("url", {"url": "items/1"}),
        ("url", {"url": "https://"}),
        ("url", {"url": "http://[x"}),
        ("url", {"url": "/a b"}),
        ("url", {"url": '/"onload="x'}),
        ("url", {"url": ""}),
        ("image", {"image": "ftp://example.org/1.jpg"}),
        ("image", {"image": "/" + "x" * 1024}),
        ("price", {"price": -0.01}),
        ("price", {"price": float("nan")}),
        ("price", {"price": "39"}),
        ("price", {"price": True}),
        ("currency", {"currency": "EUR\n"}),
        ("currency", {"currency": "euro"}),
        ("stock", {"stock": -1}),
        ("stock", {"stock": 1.5}),
        ("delete", {"delete": 1}),
        ("brand", {"brand": 7}),
        ("brand", {"brand": "x" * 257}),
        ("link", {"link": "javascript:alert(1)"}),
        ("score", {"score": "1"}),
        ("field", {"Brand": "x"}),
        ("field", {"": "x"}),
        (f"more_{MAX_MORE}", {f"more_{number}": "x" for number in range(MAX_MORE + 1)}),
        ("item", {f"more_{number}": "é" * 256 for number in range(MAX_MORE)} | {"title": "é" * 256}),
    ],
)
def test_what_cannot_be_shown_safely_is_refused_by_its_field(field: str, changed: Any) -> None:
    with pytest.raises(InvalidItem) as refused:
        accept_item(HAT | changed if isinstance(changed, dict) else changed)
    assert refused.value.field == field


def test_a_record_without_a_value_deletes_and_one_of_nonsense_is_a_dead_letter() -> None:
    hat = accept_item(HAT)
    entry = hat.as_entry(5)
    assert read_item(entry.key, entry.value) == hat
    assert read_item(b"x", b"") == read_item(b"x", b'{"delete":true}') == Item("x", DELETED, is_withheld=True)
    assert read_item(b"x", b'{"item_id":"x","stock":0}').is_withheld
    for key, value in (
        (b"x", b"{"),
        (b"x", b"[]"),
        (b"\xff", b"{}"),
        (b"", b"{}"),
        (b"x", b'{"item_id":"y"}'),
        (b"x", b'{"url":"javascript:1"}'),
    ):
        with pytest.raises(DecodeError):
            read_item(key, value)
    records = [Record(3, 0, b"x", b"{}"), Record(4, 0, b"x", b"?"), Record(9, 0, b"y", b"")]
    items, refused = ItemsDecoder().decode(Batch.of(0, records))
    assert ([item.item_id for item in items.items], items.ends, items.next_offset) == (["x", "y"], [4, 10], 10)
    assert list(refused) == [1]
