"""What a shop says of its items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field

from ledstream_client.events import check_number, check_text, shortest

TEXTS = ("title", "url", "image", "category", "currency")


@dataclass(frozen=True)
class CatalogueItem:
    """All that is to be known of an item: what was put of it before goes.

    url, image: http://…, https://… or /… of the shop's own site. currency: three capital letters. stock: with 0 the
    item is recommended to nobody; None is never out of stock. more: short texts by names of your own. Raises Refused
    for what no post can hold; the rest is for the server to judge.
    """

    item_id: str
    _: KW_ONLY
    title: str | None = None
    url: str | None = None
    image: str | None = None
    category: str | None = None
    price: float | None = None
    currency: str | None = None
    stock: int | None = None
    more: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        texts = {name: getattr(self, name) for name in TEXTS if getattr(self, name) is not None}
        for name, text in ({"item_id": self.item_id} | texts | dict(self.more)).items():
            check_text(name, text)
        for name in ("price", "stock"):
            check_number(name, getattr(self, name))

    def to_json(self) -> bytes:
        """As it is put."""
        said = {name: getattr(self, name) for name in ("item_id", *TEXTS, "price", "stock")}
        return shortest({**self.more, **{name: value for name, value in said.items() if value is not None}})
