"""What is known of an item beside its events: checked at the border, and what the topic `items` carries.

A record's key is the item's id, its value a JSON object of the other fields: whoever keeps a shop's catalogue may write
to the topic as well as post to us. Without a value, or with `{"delete": true}`, the item is deleted. The last record of
an item says all of it, so Kafka may drop those before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from unicodedata import category
from urllib.parse import urlsplit

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from stream.events import DecodeError, Id, InvalidEvent, check_user_id
from stream.log import Batch, Entry

ITEMS_PER_PUT = 1000
MAX_ITEM_BYTES = 4096
MAX_MORE = 8
# Names that mean something else in an answer.
TAKEN = frozenset({"score", "reasons", "release", "in_release", "popularity", "withheld", "x", "y"})
DELETED = b""
NO_TEXT = frozenset({"Cc", "Cs", "Zl", "Zp"})  # controls, halves of surrogate pairs, line and paragraph separators
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_RUN = re.compile(r"\s*(javascript|vbscript|data)\s*:", re.IGNORECASE)
_BREAKS_OUT = re.compile(r"[\s\\\"'<>`]")


class InvalidItem(InvalidEvent):
    """An item refused at the border: which field, what was there, why."""


def _check_text(text: str) -> str:
    """Joiners, soft hyphens and no-break spaces, which do not print by themselves either, are fine."""
    if not text.isprintable() and any(category(character) in NO_TEXT for character in text):
        raise ValueError("holds control characters or line breaks, or is not valid Unicode")
    return text


def _check_address(text: str) -> str:
    """A page or image of the web, or of the shop itself. What a browser would run, or take to another site, is none."""
    if _BREAKS_OUT.search(text):
        raise ValueError("holds a space, a quote, a backslash or an angle bracket: percent-encode it")
    if text.startswith("/") and not text.startswith("//"):
        return text
    parts = urlsplit(text)  # raises ValueError
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must begin with http://, https:// or a single /")
    return text


def _check_not_run(text: str) -> str:
    """A page may put any field of an item into a link."""
    if _RUN.match(text):
        raise ValueError("begins as an address that a browser would run")
    return text


Text = Annotated[str, StringConstraints(max_length=256), AfterValidator(_check_text), AfterValidator(_check_not_run)]
Address = Annotated[
    str, StringConstraints(max_length=1024), AfterValidator(_check_text), AfterValidator(_check_address)
]


class ItemBody(BaseModel):
    """One item as put: all that is to be known of it, for what was known before goes. Further fields are short texts.

    Without a stock it is never out of stock; with none left, or deleted, it is recommended to nobody.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Text]

    item_id: Id
    title: Text | None = None
    url: Address | None = Field(None, description="http://…, https://… or /… of the shop's own site")
    image: Address | None = Field(None, description="as url")
    category: Text | None = None
    price: Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)] | None = None
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] | None = None
    stock: Annotated[int, Field(ge=0, lt=1 << 53)] | None = None
    delete: bool = Field(False, description="nothing is to be known of it any more, nor is it to be recommended")


@dataclass(frozen=True, slots=True)
class Item:
    """What is known of one item. fields: a JSON object without the id; DELETED where it is deleted."""

    item_id: str
    fields: bytes
    is_withheld: bool

    def as_entry(self, now_ms: int) -> Entry:
        """What is appended to the topic."""
        return Entry(self.item_id.encode(), self.fields, now_ms)


def accept_item(raw: object) -> Item:
    """The item in one decoded JSON value; raises InvalidItem naming the first offending field and its value."""
    try:
        _check_names(raw)
        body = ItemBody.model_validate(raw)
        check_user_id(body.item_id)  # which is what any id must be
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "item"
        raise InvalidItem(where, first["input"], first["msg"].removeprefix("Value error, ")) from None
    except InvalidItem:
        raise
    except InvalidEvent as error:
        raise InvalidItem("item_id", error.value, error.reason) from None
    if body.delete:
        return Item(body.item_id, DELETED, is_withheld=True)
    fields = orjson.dumps(body.model_dump(exclude={"item_id", "delete"}, exclude_none=True))
    if len(fields) > MAX_ITEM_BYTES:
        raise InvalidItem("item", body.item_id, f"{len(fields)} bytes of fields, at most {MAX_ITEM_BYTES} allowed")
    return Item(body.item_id, fields, is_withheld=body.stock == 0)


def read_item(key: bytes, value: bytes) -> Item:
    """The item in a record of the topic. Raises DecodeError."""
    try:
        item_id = key.decode()
        raw: Any = orjson.loads(value) if value else {"delete": True}
        if not isinstance(raw, dict):
            raise DecodeError(f"value = {value[:40]!r}: not a JSON object")
        if raw.setdefault("item_id", item_id) != item_id:
            raise DecodeError(f"item_id = {raw['item_id']!r:.140}: the record's key is another, {item_id!r:.140}")
        return accept_item(raw)
    except (UnicodeDecodeError, orjson.JSONDecodeError) as error:
        raise DecodeError(f"no item: {error}") from None
    except InvalidItem as error:
        raise DecodeError(str(error)) from None


@dataclass(frozen=True)
class Items:
    """The readable items of consecutive records of one partition, in their order. next_offset: where it goes on.

    ends: the offset behind each.
    """

    partition: int
    items: Sequence[Item]
    ends: Sequence[int]
    next_offset: int


class ItemsDecoder:
    """Batches to items. See `stream.decoding.Decoder`."""

    def decode(self, batch: Batch) -> tuple[Items, Mapping[int, str]]:
        """The readable items, and by place in the batch why each of the others is none."""
        items, ends, refused = [], [], {}
        for place, (offset, key, value) in enumerate(zip(batch.offsets, batch.keys, batch.values, strict=True)):
            try:
                items.append(read_item(key, value))
                ends.append(offset + 1)
            except DecodeError as error:
                refused[place] = str(error)
        return Items(batch.partition, items, ends, batch.next_offset), refused


def _check_names(raw: object) -> None:
    if not isinstance(raw, dict):
        return
    more = [name for name in raw if name not in ItemBody.model_fields]
    if len(more) > MAX_MORE:
        raise InvalidItem(more[MAX_MORE], raw[more[MAX_MORE]], f"at most {MAX_MORE} fields beside those that are known")
    for name in more:
        if not _NAME.fullmatch(name):
            raise InvalidItem("field", name, "a name has 1 to 32 small letters, digits and _, a letter first")
        if name in TAKEN:
            raise InvalidItem(name, raw[name], "this name means something else in an answer")
