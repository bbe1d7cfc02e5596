"""Whatever is asked of a server, it answers as its OpenAPI document says: no 5xx, no other shape, no waiting.

Examples are the same in each run. LEDSTREAM_TEST_EXAMPLES: how many of each kind (15), for a longer look.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import httpx
import msgpack
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pydantic import TypeAdapter
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from serving import schemas
from store.connection import connect
from tests.small_server import parts_of
from tests.wire import Response, ask, in_the_servers_loop, serving, wired

EXAMPLES = int(os.environ.get("LEDSTREAM_TEST_EXAMPLES", "15"))
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
PATIENCE_S = 10.0
OPERATIONS = [
    ("get", "/v1/recommendations"),
    ("post", "/v1/recommendations"),
    ("post", "/v1/recommendations/batch"),
    ("post", "/v1/events"),
    ("post", "/v1/identify"),
    ("get", "/v1/pixel.gif"),
    ("get", "/v1/slot"),
    ("put", "/v1/items"),
    ("get", "/v1/items"),
    ("get", "/v1/items/{item_id}"),
    ("delete", "/v1/items/{item_id}"),
    ("get", "/v1/items/{item_id}/similar"),
    ("get", "/v1/items/{item_id}/popularity"),
    ("get", "/v1/catalogue/map"),
    ("get", "/v1/users/{user_id}"),
    ("delete", "/v1/users/{user_id}"),
    ("get", "/v1/releases"),
    ("post", "/v1/releases/{version}/activate"),
    ("post", "/v1/releases/rollback"),
    ("get", "/v1/canary"),
    ("post", "/v1/canary"),
    ("post", "/v1/canary/promote"),
    ("post", "/v1/canary/withdraw"),
    ("delete", "/v1/users/{user_id}/timeline/{entry}"),
    ("get", "/v1/console/access"),
    ("get", "/v1/console/events"),
    ("get", "/v1/console/live"),
    ("get", "/v1/console/trainings"),
    ("get", "/v1/console/deadletters"),
    ("post", "/v1/console/deadletters/replay"),
    ("get", "/v1/console/badrows"),
    ("post", "/v1/console/badrows/replay"),
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/metrics"),
]
WITHOUT_WRONG_INPUT = {"/v1/releases", "/v1/users/{user_id}", "/healthz", "/readyz", "/metrics"}  # all is well-formed
WITHOUT_WRONG_INPUT |= {"/v1/items/{item_id}", "/v1/catalogue/map", "/v1/users/{user_id}/timeline/{entry}"}
WITHOUT_WRONG_INPUT |= {"/v1/canary", "/v1/console/access", "/v1/console/live", "/v1/console/trainings"}
MODES = [
    (method, path, mode)
    for method, path in OPERATIONS
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or path not in WITHOUT_WRONG_INPUT
]
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == 15,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def port(redis_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Of a server in a thread of its own."""
    found: Future[int] = Future()
    stop = threading.Event()

    async def serve() -> None:
        folder = tmp_path_factory.mktemp("fuzzed")
        with connect(redis_address) as client:
            async with serving(parts_of(client, f"fuzzed-{os.getpid()}", folder)) as port:
                found.set_result(port)
                await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: in_the_servers_loop(serve()))
    thread.start()
    try:
        yield found.result(30)
    finally:
        stop.set()
        thread.join()


@pytest.fixture(scope="module")
def document(port: int) -> dict[str, object]:
    found: dict[str, object] = httpx.get(f"http://127.0.0.1:{port}/openapi.json").json()
    return found


def test_every_operation_of_the_document_is_tried_here(document: dict[str, dict[str, object]]) -> None:
    described = {(method, path) for path, methods in document["paths"].items() for method in methods}  # type: ignore
    assert described == set(OPERATIONS)


@pytest.mark.parametrize(("method", "path", "mode"), MODES)
def test_answers_are_those_that_the_document_describes(
    port: int, document: dict[str, object], method: str, path: str, mode: GenerationMode
) -> None:
    operation = schemathesis.openapi.from_dict(document)[path][method]
    checks = [*CHECKS, negative_data_rejection] if mode is GenerationMode.NEGATIVE else CHECKS

    @fuzzed
    @given(operation.as_strategy(mode))
    def story(case: schemathesis.Case[Any]) -> None:
        response = case.call(f"http://127.0.0.1:{port}", timeout=PATIENCE_S)
        case.validate_response(response, checks=checks)

    story()


@pytest.fixture(scope="module")
def told(port: int) -> Iterator[Callable[..., Response]]:
    """Asks the server, and fails where there is no answer in time."""
    with asyncio.Runner() as runner:
        yield lambda *asked: runner.run(asyncio.wait_for(ask(port, *asked), PATIENCE_S))


def in_percents(data: bytes) -> bytes:
    return b"".join(b"%%%02x" % byte for byte in data)


def parameters(values: SearchStrategy[bytes]) -> SearchStrategy[bytes]:
    """Query strings of the parameters that there are, and of some that there are not."""
    names = st.sampled_from([b"user", b"k", b"exclude", b"seen", b"k%", b"", b"u\xffer"])
    parts = st.lists(st.tuples(names, values).map(b"=".join), max_size=5)
    return st.tuples(st.sampled_from([b"", b"user=ana&"]), parts.map(b"&".join)).map(b"".join)


PIECES = st.one_of(
    st.binary(max_size=40),
    st.binary(max_size=140).map(in_percents),
    st.text(max_size=140).map(str.encode).map(in_percents),
    st.sampled_from(
        [b"1", b"200", b"0", b"true", b"hat-01,hat-02", b",", b"%", b"%f", b"%00", b"+", b"\xe2\x82", b"#", b"ana"]
    ),
)
QUERIES = st.one_of(st.binary(max_size=200), parameters(PIECES)).map(
    lambda query: bytes(byte for byte in query if byte > 32 and byte != 127)  # the others end a URL
)


def test_any_query_is_answered_or_refused_and_alike_on_both_ways(told: Callable[..., Response]) -> None:
    shape = TypeAdapter(schemas.RecommendationsAnswer)

    @settings(fuzzed, max_examples=10 * EXAMPLES)
    @given(QUERIES)
    def story(query: bytes) -> None:
        short, long = (
            told(f"{path}?{query.decode('latin-1')}") for path in ("/v1/recommendations", "/v1/%72ecommendations")
        )
        assert (short.status, short.body) == (long.status, long.body)
        assert short.status in (200, 400), short
        (shape if short.status == 200 else ERROR).validate_json(short.body)

    story()


ERROR: TypeAdapter[Any] = TypeAdapter(schemas.ErrorAnswer)
JUNK = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), st.text(max_size=150)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=9), inner, max_size=4)),
    max_leaves=12,
)
IDS = st.one_of(st.sampled_from(["ana", "hat-01", "belt-01"]), st.text(min_size=1, max_size=140))
KS = st.integers(0, 201)
EVENTS = st.fixed_dictionaries(
    {"item_id": IDS, "kind": st.sampled_from(["view", "sale", "wink"])}, optional={"time_ms": st.integers(-1, 2**62)}
)
POSTED = st.fixed_dictionaries(
    {"user_id": IDS, "item_id": IDS, "kind": st.sampled_from(["view", "erase", ""])},
    optional={"time_ms": st.integers(), "value": st.floats(), "event_id": IDS, "context": JUNK, "more": JUNK},
)
OPTIONS = {"k": KS | JUNK, "exclude": st.lists(IDS, max_size=5) | JUNK, "seen": st.booleans() | JUNK}
BODIES: dict[str, SearchStrategy[object]] = {
    "/v1/recommendations": st.fixed_dictionaries({"timeline": st.lists(EVENTS | JUNK, max_size=5)}, optional=OPTIONS),
    "/v1/recommendations/batch": st.fixed_dictionaries({"users": st.lists(IDS, max_size=70) | JUNK}, optional=OPTIONS),
    "/v1/events": st.one_of(
        POSTED, st.lists(POSTED | JUNK, max_size=60), st.fixed_dictionaries({"events": st.lists(POSTED) | JUNK})
    ),
}
SHAPES: dict[str, TypeAdapter[Any]] = {
    "/v1/recommendations": TypeAdapter(schemas.RecommendationsAnswer),
    "/v1/recommendations/batch": TypeAdapter(schemas.BatchAnswer),
    "/v1/events": TypeAdapter(schemas.VerdictsAnswer | schemas.ErrorAnswer),
}


@pytest.mark.parametrize("path", BODIES)
def test_any_body_is_answered_or_refused(told: Callable[..., Response], path: str) -> None:
    bodies = st.one_of(
        BODIES[path].map(lambda value: json.dumps(value).encode()),  # NaN and lone surrogates too
        JUNK.map(lambda value: json.dumps(value).encode()),
        st.binary(max_size=100),
    )

    @settings(fuzzed, max_examples=6 * EXAMPLES)
    @given(bodies, st.sampled_from(["", "accept: application/msgpack\r\n"]))
    def story(body: bytes, more: str) -> None:
        response = told(path, "POST", body, more)
        assert response.status in (200, 202, 400), (response, body)
        if response.headers["content-type"] == "application/json":
            (ERROR if response.status == 400 and path != "/v1/events" else SHAPES[path]).validate_json(response.body)
        else:
            SHAPES[path].validate_python(msgpack.unpackb(response.body))

    story()


WHOLE = (
    b"POST /v1/events HTTP/1.1\r\nhost: here\r\ncontent-length: 2\r\n\r\n{}"
    b"GET /v1/recommendations?user=ana HTTP/1.1\r\n\r\n"
)


def test_whatever_bytes_come_the_server_goes_on(port: int, told: Callable[..., Response]) -> None:
    """Requests with a piece of something else in them; then the client says no more."""

    async def say(data: bytes) -> bytes:
        async with wired(port) as wire:
            wire.send(data)
            wire.writer.write_eof()
            with suppress(ConnectionError):
                return await wire.reader.read()
        return b""

    with asyncio.Runner() as runner:

        @settings(fuzzed, max_examples=6 * EXAMPLES)
        @given(st.integers(0, len(WHOLE)), st.integers(0, 20), st.binary(max_size=50))
        def story(place: int, less: int, more: bytes) -> None:
            said = runner.run(asyncio.wait_for(say(WHOLE[:place] + more + WHOLE[place + less :]), PATIENCE_S))
            assert b"HTTP/1.1 5" not in said

        story()
    assert told("/v1/recommendations?user=ana").status == 200
