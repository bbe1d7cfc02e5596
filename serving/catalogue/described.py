"""Shapes of what is put and asked of items."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from serving.schemas import ItemDetails
from stream.items import ITEMS_PER_PUT, ItemBody


class ItemsBody(BaseModel):
    """Items as they are from now on; of each of them everything is replaced."""

    model_config = ConfigDict(extra="forbid")

    items: Annotated[list[ItemBody], Field(min_length=1, max_length=ITEMS_PER_PUT)]


class ItemAnswer(ItemDetails):
    item_id: str
    release: str | None = Field(description="the current release")
    in_release: bool = Field(description="whether it can be recommended by it")
    popularity: float | None = Field(description="weighted events in the release's data; null where it is not in it")
    withheld: bool = Field(description="out of stock or deleted, so that it is recommended to nobody")


class DeletionAnswer(BaseModel):
    item_id: str
    status: str = "accepted"


class FoundItem(ItemDetails):
    item_id: str
    popularity: float | None = Field(description="in the current release; null where it is not in it")


class FoundItems(BaseModel):
    items: list[FoundItem]
    complete: bool = Field(description="whether all items were looked at; of a large catalogue only a part may be")


class PeriodEntry(BaseModel):
    from_ms: int = Field(description="when the hour or the day (UTC) began, Unix milliseconds")
    events: int


class MapItem(BaseModel):
    item_id: str
    x: float
    y: float
    title: str | None
    category: str | None
    popularity: float


class MapAnswer(BaseModel):
    """The most popular items in a plane, x and y in [-1, 1]: near each other what the release holds for alike."""

    release: str | None
    items: list[MapItem]
