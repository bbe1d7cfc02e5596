"""What pages ask of the server, for the OpenAPI page; `serving/collector/paths.py` answers before it gets this far."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from serving import schemas
from serving.collector.identity import ANONYMOUS
from serving.collector.paths import IDENTIFY, PIXEL, SLOT
from stream.events import Id

KEY = Field(None, description="a write key, where keys are needed; or header x-ledstream-key")
IMAGES: dict[int | str, dict[str, Any]] = {
    status: {"content": {"image/gif": {}}} for status in (200, 400, 401, 403, 429, 503)
}
REFUSED: dict[int | str, dict[str, Any]] = {status: {"model": schemas.ErrorAnswer} for status in (401, 403)}


class PixelQuery(BaseModel):
    user_id: str
    item_id: str
    kind: str = "view"
    event_id: str | None = None
    value: float | None = None
    key: str | None = KEY


class MergeBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    anonymous_id: str = Field(pattern=f"^{ANONYMOUS.pattern}$", description="as trackers draw them")
    user_id: Id


class MergeAnswer(BaseModel):
    user: str
    merged: int = Field(description="events that were the visitor's and are the user's now")
    token: str | None = Field(None, description="to ask after these events (`after` of recommendations)")


class SlotQuery(schemas.RecommendationsQuery):
    key: str | None = KEY


class SlotAnswer(schemas.RecommendationsAnswer):
    answer_id: str = Field(description="of this answer; events that follow from it carry it in their context")


def add_collector(app: FastAPI) -> None:
    """Describe the collector's own endpoints."""

    @app.get(PIXEL, tags=["events"], response_class=Response, responses=IMAGES)
    async def pixel(query: Annotated[PixelQuery, Query()]) -> Response:  # noqa: ARG001
        """An event as the address of an image, for mails and pages without scripts. A header says what was wrong."""
        raise AssertionError

    @app.post(IDENTIFY, status_code=202, tags=["users"], responses=REFUSED)
    async def identify(body: MergeBody) -> MergeAnswer:  # noqa: ARG001
        """A visitor's events become a user's. 503 while the last of them are on their way: ask again."""
        raise AssertionError

    @app.get(SLOT, tags=["recommendations"], responses=REFUSED)
    async def slot(query: Annotated[SlotQuery, Query()]) -> SlotAnswer:  # noqa: ARG001
        """Recommendations for a page, of another origin too, with an id of the answer."""
        raise AssertionError
