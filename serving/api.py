"""The routes of FastAPI: everything that is not asked thousands of times a second, and the OpenAPI page of all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from serving import schemas
from serving.administration import Administration
from serving.answering import Answering
from serving.bodies import Disconnected
from serving.catalogue.described import ItemsBody
from serving.catalogue.details import Details
from serving.catalogue.looked_up import Shelf
from serving.catalogue.puts import Puts
from serving.catalogue.routes import add_catalogue
from serving.collector.described import add_collector
from serving.collector.post import read_json
from serving.console.live import LiveFigures
from serving.console.routes import add_console
from serving.erasing import Eraser
from serving.hot import EVENTS, RECOMMENDATIONS, REFUSED_AFTER_S, Hot, Reply, accepted_form, together
from serving.metrics import Metrics
from serving.parts import Parts
from serving.publisher import Publisher
from serving.queries import only
from serving.questions import Question, from_timeline, from_users, record_of
from serving.readiness import Readiness
from serving.refusals import Overloaded, Refused
from serving.schemas import DEFAULT_K, MAX_K
from serving.served import Served
from serving.strikes import Striker, add_strikes
from serving.trials import Trials, add_trials
from store.connection import StoreUnavailable
from stream.current import CurrentRelease
from stream.events import InvalidEvent, check_user_id, item_key
from stream.log import LogUnavailable, Position, UnknownTopic

K = Annotated[int, Query(ge=1, le=MAX_K, description="how many items")]
ABOUT = "Events in, recommendations out, releases switched while requests go on."
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class Routes:
    """What the routes work with."""

    parts: Parts
    hot: Hot
    questions: Answering
    publisher: Publisher
    current: CurrentRelease[Served]
    metrics: Metrics
    details: Details
    token: Callable[[Iterable[Position]], str | None]


def build_api(routes: Routes, lifespan: Lifespan) -> FastAPI:
    """The application; its page is at /docs and needs nothing from the network."""
    errors: dict[int | str, dict[str, Any]] = {status: {"model": schemas.ErrorAnswer} for status in (400, 503)}
    app: FastAPI = FastAPIOffline(
        title="ledstream", description=ABOUT, redoc_url=None, lifespan=lifespan, responses=errors
    )
    _add_hot(app, routes)
    add_collector(app)
    _add_questions(app, routes)
    _add_similar(app, routes)
    shelf = Shelf(routes.parts, routes.current.get)
    add_catalogue(app, shelf, Puts(routes.publisher, routes.parts.now_ms), routes.hot.bodies)
    administration = Administration(routes.parts, routes.current)
    add_strikes(app, Striker(routes.parts, routes.publisher, routes.token))  # before what takes whole paths for ids
    _add_users(app, routes, administration)
    _add_releases(app, administration)
    add_trials(app, Trials(routes.parts))
    readiness = Readiness(routes.parts, routes.current)
    _add_operations(app, routes, readiness)
    add_console(app, routes.parts, LiveFigures(routes.metrics.families, readiness.answer, routes.parts.now_ms))
    _add_errors(app)
    _describe_bodies(app)
    return app


def _add_hot(app: FastAPI, routes: Routes) -> None:
    """Described here, answered by `serving.hot.HotPaths` before a request gets this far."""

    @app.get(
        RECOMMENDATIONS,
        response_model=schemas.RecommendationsAnswer,
        tags=["recommendations"],
        responses={status: {"model": schemas.ErrorAnswer, "description": "to explain"} for status in (401, 403)},
    )
    async def recommendations(
        request: Request,
        query: Annotated[schemas.RecommendationsQuery, Query()],  # noqa: ARG001  described here, read below
    ) -> Response:
        """The best items for a user; the most popular ones for a user nobody knows."""
        return _response(await routes.hot.recommend(request.scope["query_string"], accepted_form(request.headers.raw)))

    @app.post(
        EVENTS,
        status_code=202,
        response_model=schemas.VerdictsAnswer,
        tags=["events"],
        openapi_extra=_body(schemas.PostBody),
        responses={400: {"model": schemas.VerdictsAnswer | schemas.ErrorAnswer}, 413: {"model": schemas.ErrorAnswer}},
    )
    async def events() -> Response:
        """Take events into the log. 202 if any was accepted; otherwise 503 if the log failed, 400 if all were bad."""
        raise AssertionError  # `serving/collector/paths.py` answers before a request gets this far


def _add_questions(app: FastAPI, routes: Routes) -> None:
    @app.post(
        RECOMMENDATIONS,
        response_model=schemas.RecommendationsAnswer,
        tags=["recommendations"],
        openapi_extra=_body(schemas.TimelineBody),
    )
    async def recommendations_for_a_timeline(request: Request) -> Response:
        """The best items for the events in the request. Nothing is stored."""
        body = read_json(await routes.hot.bodies.read(request.receive))
        question = from_timeline(body, routes.parts.border, routes.parts.now_ms())
        (answer,) = await routes.details.asked([question], await routes.questions.ask([question]))
        return _response(Reply(200, answer.to_json()).in_form(accepted_form(request.headers.raw)))

    @app.post(
        f"{RECOMMENDATIONS}/batch",
        response_model=schemas.BatchAnswer,
        tags=["recommendations"],
        openapi_extra=_body(schemas.BatchBody),
    )
    async def recommendations_for_many(request: Request) -> Response:
        """The best items for each of up to 1,000 users, as if each had been asked for alone."""
        questions = from_users(read_json(await routes.hot.bodies.read(request.receive)))
        form = accepted_form(request.headers.raw)
        answers = await routes.details.asked(questions, await routes.questions.ask(questions))
        return _response(await together(answers, form))


def _add_similar(app: FastAPI, routes: Routes) -> None:
    @app.get(
        "/v1/items/{item_id:path}/similar",
        response_model=schemas.SimilarAnswer,
        tags=["recommendations"],
        dependencies=[Depends(only("k", "details"))],
        responses={404: {"model": schemas.ErrorAnswer}},
    )
    async def similar(item_id: str, k: K = DEFAULT_K, details: schemas.Details = False) -> Response:
        """The best items for a user of this one item, without the item itself."""
        served = routes.current.get()
        if served is None or not served.knows(item_id):
            raise Refused("item_id", item_id, "not in the current release", status=404)
        record = record_of([(item_key(item_id), routes.parts.now_ms(), 0, served.heaviest_kind())])
        question = Question(None, record, k, details=details)
        (answer,) = await routes.details.asked([question], await routes.questions.ask([question]))
        shown = orjson.dumps(item_id), answer.items_json(), answer.release
        return _response(Reply(200, b'{"item_id":%b,"items":%b,"release":%b}' % shown))


def _add_users(app: FastAPI, routes: Routes, administration: Administration) -> None:
    eraser = Eraser(routes.parts, routes.publisher)

    @app.get(
        "/v1/users/{user_id:path}",
        tags=["users"],
        dependencies=[Depends(only())],
        responses={404: {"model": schemas.ErrorAnswer}},
    )
    def user(user_id: str) -> schemas.UserAnswer:
        """What is known of a user."""
        return administration.user(_checked_user(user_id))

    @app.delete("/v1/users/{user_id:path}", status_code=202, tags=["users"], dependencies=[Depends(only())])
    async def forget(user_id: str) -> schemas.ErasureAnswer:
        """Forget everything of a user that was accepted before this, for good; the receipt says what was done."""
        return schemas.ErasureAnswer(user=user_id, receipt=await eraser.erase(_checked_user(user_id)))


def _add_releases(app: FastAPI, administration: Administration) -> None:
    @app.get("/v1/releases", tags=["releases"], dependencies=[Depends(only())])
    def releases() -> schemas.ReleasesAnswer:
        """Every release in the folder."""
        return administration.releases()

    @app.post(
        "/v1/releases/{version}/activate",
        tags=["releases"],
        dependencies=[Depends(only("force"))],
        responses={404: {"model": schemas.ErrorAnswer}, 409: {"model": schemas.ErrorAnswer}},
    )
    def activate(
        version: str,
        force: Annotated[bool, Query(description="although its gate refused it")] = False,
    ) -> schemas.ActivationAnswer:
        """Check the release and announce it as the current one, to every process. A rollback is the same."""
        return administration.activate(version, force=force)


def _add_operations(app: FastAPI, routes: Routes, readiness: Readiness) -> None:
    """To a HEAD the HTTP server sends the head of the same answer."""

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", tags=["operations"])
    async def healthz(response: Response) -> Mapping[str, str]:
        """This process answers, and the thread that appends events lives. Otherwise 503: restart it."""
        is_alive = routes.publisher.is_alive()
        response.status_code = 200 if is_alive else 503
        return {"status": "ok" if is_alive else "dead: events"}

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", tags=["operations"], responses={503: {"model": schemas.ReadyAnswer}})
    async def readyz(response: Response) -> schemas.ReadyAnswer:
        """The store and the log answer; consumers that wait or are gone are named, and change nothing in that."""
        ready = await asyncio.to_thread(readiness.answer)
        response.status_code = 200 if ready.ready else 503
        return ready

    @app.get("/metrics", tags=["operations"], response_class=Response)
    def exposition() -> Response:
        """Prometheus metrics of all worker processes of this server."""
        return Response(routes.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_errors(app: FastAPI) -> None:
    def answer(kind: type[Exception], refused: Callable[[Any], Refused], after_s: float = 0) -> None:
        async def handler(_: Request, error: Exception) -> Response:
            await asyncio.sleep(after_s)
            refusal = refused(error)
            return _response(Reply(refusal.status, refusal.to_json()))

        app.add_exception_handler(kind, handler)

    answer(Refused, lambda error: error)
    answer(Overloaded, lambda error: error, REFUSED_AFTER_S)  # as of a question for one user
    answer(Disconnected, lambda _: Refused("body", None, "it did not come to its end"))  # told to nobody
    answer(RequestValidationError, lambda error: schemas.refusal_of(error.errors()[0]))
    answer(HTTPException, lambda error: Refused("path", None, str(error.detail), status=error.status_code))
    answer(StoreUnavailable, lambda error: Refused("store", None, str(error), status=503))
    answer(LogUnavailable, lambda error: Refused("log", None, str(error), status=503))
    answer(UnknownTopic, lambda error: Refused("log", None, str(error), status=503))
    answer(Exception, lambda _: Refused("server", None, "internal error", status=500))  # told in full in the log


def _describe_bodies(app: FastAPI) -> None:
    """What FastAPI does not know of requests and refusals, to the OpenAPI page."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        page = described()
        for model in (schemas.PostBody, schemas.TimelineBody, schemas.BatchBody, ItemsBody):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            page["components"]["schemas"] |= {**schema.pop("$defs", {}), model.__name__: schema}
        for operation in (one for methods in page["paths"].values() for one in methods.values()):
            operation["responses"].pop("422", None)  # FastAPI's own: what is wrong with a request is told with 400 here
        for name in ("HTTPValidationError", "ValidationError"):
            page["components"]["schemas"].pop(name, None)
        return page

    app.openapi = openapi  # type: ignore[method-assign]


def _body(model: type[BaseModel]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
    return {"requestBody": {"required": True, "content": content}}


def _checked_user(user_id: str) -> str:
    try:
        return check_user_id(user_id)
    except InvalidEvent as error:
        raise Refused("user_id", user_id, error.reason) from None


def _response(reply: Reply) -> Response:
    response = Response(reply.body, reply.status)
    response.raw_headers = reply.headers()
    return response
