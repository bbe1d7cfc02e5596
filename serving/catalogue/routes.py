"""The routes about items."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response

from serving import schemas
from serving.bodies import Bodies
from serving.catalogue.described import DeletionAnswer, FoundItems, ItemAnswer, ItemsBody, MapAnswer, PeriodEntry
from serving.catalogue.looked_up import Shelf
from serving.catalogue.puts import Puts
from serving.collector.post import read_json
from serving.hot import Reply
from serving.queries import only
from serving.refusals import Refused
from serving.schemas import DEFAULT_K, MAX_K
from store.popularity import Period
from stream.events import InvalidEvent, check_user_id

UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"model": schemas.ErrorAnswer}}


def add_catalogue(app: FastAPI, shelf: Shelf, puts: Puts, bodies: Bodies) -> None:
    """Called after the routes that begin as these do: an item's id may hold slashes."""
    _add_puts(app, puts, bodies)
    _add_lookups(app, shelf)


def _add_puts(app: FastAPI, puts: Puts, bodies: Bodies) -> None:
    schema = {"application/json": {"schema": {"$ref": f"#/components/schemas/{ItemsBody.__name__}"}}}

    @app.put(
        "/v1/items",
        status_code=202,
        response_model=schemas.VerdictsAnswer,
        tags=["items"],
        dependencies=[Depends(only())],
        openapi_extra={"requestBody": {"required": True, "content": schema}},
        responses={400: {"model": schemas.VerdictsAnswer | schemas.ErrorAnswer}, 413: {"model": schemas.ErrorAnswer}},
    )
    async def put(request: Request) -> Response:
        """Say what is to be known of items. As of events: 202 if any was accepted, otherwise 503 or 400."""
        verdicts = await puts.put(read_json(await bodies.read(request.receive)))
        reply = Reply(verdicts.status, verdicts.to_json())
        response = Response(reply.body, reply.status)
        response.raw_headers = reply.headers()
        return response

    @app.delete(
        "/v1/items/{item_id:path}",
        status_code=202,
        tags=["items"],
        dependencies=[Depends(only())],
        responses=UNKNOWN,
    )
    async def delete(item_id: str) -> DeletionAnswer:
        """Forget what was put of an item, and recommend it to nobody until it is put again."""
        await puts.delete(_checked(item_id))
        return DeletionAnswer(item_id=item_id)


def _add_lookups(app: FastAPI, shelf: Shelf) -> None:
    @app.get("/v1/items", tags=["items"], dependencies=[Depends(only("q", "k"))])
    def find(
        q: Annotated[str, Query(min_length=1, max_length=200, description="beginning of an id, or words of a title")],
        k: Annotated[int, Query(ge=1, le=MAX_K, description="how many items")] = DEFAULT_K,
    ) -> FoundItems:
        """Items by id or title, the most popular first."""
        return shelf.find(q, k)

    @app.get(
        "/v1/items/{item_id:path}/popularity", tags=["items"], dependencies=[Depends(only("by"))], responses=UNKNOWN
    )
    def popularity(
        item_id: str, by: Annotated[Period, Query(description="of the last 48 hours, or of 28 days")] = "hour"
    ) -> list[PeriodEntry]:
        """How many events the item had of late, oldest first. Events are counted within some ten seconds."""
        return shelf.popularity(_checked(item_id), by)

    @app.get("/v1/catalogue/map", tags=["items"], dependencies=[Depends(only())])
    def catalogue_map() -> MapAnswer:
        """The most popular items of the current release, drawn so that alike ones are near each other."""
        return shelf.map()

    @app.get("/v1/items/{item_id:path}", tags=["items"], dependencies=[Depends(only())], responses=UNKNOWN)
    def item(item_id: str) -> ItemAnswer:
        """What is known of an item."""
        return shelf.item(_checked(item_id))


def _checked(item_id: str) -> str:
    try:
        return check_user_id(item_id)  # any id must be like that
    except InvalidEvent as error:
        raise Refused("item_id", item_id, error.reason) from None
