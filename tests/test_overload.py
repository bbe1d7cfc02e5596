"""Too much, too large, too slow, and a store that is away: each costs whoever asks for it, and nobody else."""

from __future__ import annotations

import asyncio
import resource
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from serving.bodies import MAX_BODY_BYTES
from serving.bounded import MAX_AHEAD, MAX_URL_BYTES
from serving.hot import REFUSED_AFTER_S
from serving.parts import Limits, Parts
from store.connection import Client
from tests.small_server import ANA, EVENT, GET_ANA, parts_of, told
from tests.wire import Response, ask, wired


@pytest.fixture
def parts(redis_client: Client, namespace: str, tmp_path: Path) -> Parts:
    return parts_of(redis_client, namespace, tmp_path / "releases")


@asynccontextmanager
async def others_are_answered_meanwhile(port: int, *, within_s: float = 0.5) -> AsyncIterator[None]:
    """Another client asks all the time, and never waits long."""
    waits: list[float] = []

    async def go_on() -> None:
        async with wired(port) as wire:
            while True:
                begun = time.monotonic()
                wire.send(GET_ANA)
                assert (await wire.response()).status == 200
                waits.append(time.monotonic() - begun)
                await asyncio.sleep(0.005)

    asking = asyncio.create_task(go_on())
    yield
    await asyncio.sleep(0.02)
    if asking.done():
        asking.result()
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking
    assert waits
    assert max(waits) < within_s


def ids(number: int, length: int) -> list[str]:
    return [f"{place:0{length}}" for place in range(number)]


AT_THE_LIMIT: list[tuple[str, str, Any]] = [
    ("GET", f"{ANA}&exclude=" + ",".join(ids(200, 60)), None),
    ("GET", "/v1/recommendations?user=" + "a" * 128 + "&k=200", None),
    ("POST", "/v1/recommendations", {"timeline": [{"item_id": "hat-02", "kind": "view"}] * 1000, "k": 200}),
    ("POST", "/v1/recommendations", {"timeline": [], "exclude": ids(200, 128)}),
    ("POST", "/v1/recommendations/batch", {"users": ids(1000, 128), "k": 200}),
    ("POST", "/v1/events", [{"user_id": "a" * 128, "item_id": "b" * 128, "kind": "view"}] * 1000),
]
OVER_THE_LIMIT: list[tuple[str, str, Any, int, str]] = [
    ("GET", f"{ANA}&exclude=" + ",".join(ids(201, 60)), None, 400, "exclude"),
    ("GET", "/v1/recommendations?user=" + "a" * 129, None, 400, "user"),
    ("GET", "/v1/recommendations?user=a&k=201", None, 400, "k"),
    ("GET", "/v1/recommendations?user=" + "a" * 100_000, None, 414, "url"),
    ("GET", "/" + "a" * MAX_URL_BYTES, None, 414, "url"),
    ("POST", "/v1/recommendations", {"timeline": [{"item_id": "b", "kind": "view"}] * 1001}, 400, "timeline"),
    ("POST", "/v1/recommendations", {"timeline": [], "exclude": ids(201, 8)}, 400, "exclude"),
    ("POST", "/v1/recommendations", {"timeline": [], "exclude": ids(1, 129)}, 400, "exclude.0"),
    ("POST", "/v1/recommendations/batch", {"users": ids(1001, 8)}, 400, "users"),
    ("POST", "/v1/recommendations/batch", {"users": ids(1, 129)}, 400, "users.0"),
    ("POST", "/v1/events", [{}] * 1001, 400, "events"),
    ("POST", "/v1/events", {"a" * MAX_BODY_BYTES: 1}, 413, "body"),
    ("POST", "/v1/recommendations/batch", {"a" * MAX_BODY_BYTES: 1}, 413, "body"),
]


def test_what_is_at_its_limit_is_answered_and_what_is_beyond_is_refused_by_name(parts: Parts) -> None:
    async def story(port: int) -> None:
        for method, target, value in AT_THE_LIMIT:
            response = await ask(port, target, method, orjson.dumps(value) if value is not None else b"")
            assert response.status in (200, 202), (target[:60], response.body[:200])
        for method, target, value, status, field in OVER_THE_LIMIT:
            response = await ask(port, target, method, orjson.dumps(value) if value is not None else b"")
            assert (response.status, orjson.loads(response.body)["error"]["field"]) == (status, field), target[:60]

    told(parts, story)


# A second and more of the loop's time each, when every unknown field was an error of its own.
MANY_NAMES = {f"a{number}": 1 for number in range(200_000)}
LARGE = [
    ("/v1/recommendations", MANY_NAMES),
    ("/v1/recommendations", {"timeline": [MANY_NAMES]}),
    ("/v1/recommendations/batch", MANY_NAMES),
    ("/v1/events", MANY_NAMES),
    ("/v1/events", {"user_id": "a", "item_id": "b", "kind": "view", "context": MANY_NAMES}),
    ("/v1/events", {"events": MANY_NAMES}),
]


def test_a_body_of_megabytes_of_nonsense_keeps_nobody_waiting(parts: Parts) -> None:
    async def story(port: int) -> None:
        bodies = [(target, orjson.dumps(value)) for target, value in LARGE]
        async with others_are_answered_meanwhile(port):
            for target, body in bodies:
                assert (await ask(port, target, "POST", body)).status == 400

    told(parts, story)


@pytest.mark.parametrize("path", ["/v1/events", "/v1/recommendations", "/v1/recommendations/batch"])
def test_json_nested_thousands_deep_is_refused(parts: Parts, path: str) -> None:
    async def story(port: int) -> None:
        for deep in (b"[" * 1000 + b"]" * 1000, b'{"users":' * 1000 + b"1" + b"}" * 1000):
            assert (await ask(port, path, "POST", deep)).status == 400

    told(parts, story)


def test_headers_have_a_limit_whether_they_come_at_once_or_never_end(parts: Parts) -> None:
    async def story(port: int) -> None:
        within = await ask(port, ANA, more=f"x: {'a' * 60_000}\r\n")
        assert within.status == 200
        for more in (f"x: {'a' * 70_000}\r\n", f"x: {'a' * 1_000_000}\r\n", "a: b\r\n" * 30_000):
            response = await ask(port, ANA, more=more)
            assert (response.status, response.headers.get("connection")) == (431, "close"), len(more)
            assert orjson.loads(response.body)["error"]["field"] == "headers"
        async with wired(port) as wire:
            wire.send(GET_ANA[:-2])
            for _ in range(100):
                wire.send(b"x: " + b"a" * 5000 + b"\r\n")
                await asyncio.sleep(0.001)
            assert (await wire.response()).status == 431
            assert await wire.has_ended()

    told(parts, story)


def test_a_large_body_is_not_taken_for_headers(parts: Parts) -> None:
    async def story(port: int) -> None:
        body = b" " * 300_000 + EVENT
        head = b"POST /v1/events HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\n\r\n" % len(body)
        async with wired(port) as wire:
            wire.send((head + body) * 3 + GET_ANA[:30])
            await asyncio.sleep(0.1)
            wire.send(GET_ANA[30:])
            assert [(await wire.response()).status for _ in range(4)] == [202, 202, 202, 200]

    told(parts, story)


def test_what_is_not_http_is_refused_in_the_shape_of_all_refusals(parts: Parts) -> None:
    async def story(port: int) -> None:
        for said in (
            b"nonsense\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01",
            b"GET \xff HTTP/1.1\r\n\r\n",
            GET_ANA[:-2] + b"\0:\r\n",
        ):
            async with wired(port) as wire:
                wire.send(said)
                response = await wire.response()
                assert (response.status, orjson.loads(response.body)["error"]["field"]) == (400, "request"), said
                assert await wire.has_ended()

    told(parts, story)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET /v1/recomm",
        GET_ANA[:-2],
        b"POST /v1/events HTTP/1.1\r\nhost: here\r\ncontent-length: 99\r\n\r\n{",
        b"POST /v1/recommendations HTTP/1.1\r\nhost: here\r\ncontent-length: 99\r\n\r\n{",
        GET_ANA[:-2] + b"content-length: 99\r\n\r\n",
        b"GET /v1/none HTTP/1.1\r\nhost: here\r\ncontent-length: 99\r\n\r\n",
    ],
)
def test_a_request_that_never_ends_is_ended_also_if_a_byte_comes_now_and_then(
    parts: Parts, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(port: int) -> None:
        begun = time.monotonic()
        async with others_are_answered_meanwhile(port), wired(port) as quiet, wired(port) as dripping:
            quiet.send(said)
            dripping.send(said)
            while not dripping.reader.at_eof() and time.monotonic() - begun < 2:
                dripping.send(b"a" if said else b"")
                await asyncio.sleep(0.05)
            for wire in (quiet, dripping):
                assert (await wire.response()).status in (0, 404, 408)
                assert await wire.has_ended()
        assert time.monotonic() - begun < 3

    told(parts, story, within_s=0.4)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


def test_who_waits_between_requests_is_not_hung_up_on(parts: Parts) -> None:
    async def story(port: int) -> None:
        async with wired(port) as wire:
            for _ in range(3):
                wire.send(GET_ANA)
                assert (await wire.response()).status == 200
                await asyncio.sleep(0.4)

    told(parts, story, within_s=0.2)


def test_who_sends_nothing_but_blank_lines_after_an_answer_is_hung_up_on(parts: Parts) -> None:
    async def story(port: int) -> None:
        async with wired(port) as wire:
            for _ in range(2):
                wire.send(GET_ANA)
                assert (await wire.response()).status == 200
                wire.send(b"\r\n")
            assert await asyncio.wait_for(wire.has_ended(), 5)

    told(parts, story, within_s=0.3)


def test_a_body_without_an_end_is_refused_once_it_is_too_large(parts: Parts) -> None:
    async def story(port: int) -> None:
        for path in ("/v1/events", "/v1/recommendations"):
            async with wired(port) as wire:
                wire.send(f"POST {path} HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n".encode())
                async with others_are_answered_meanwhile(port):
                    for _ in range(70):
                        wire.send(b"10000\r\n" + b" " * 65536 + b"\r\n")
                        await asyncio.sleep(0)
                    assert (await wire.response()).status == 413

    told(parts, story)


def test_bodies_that_are_not_whole_take_no_more_memory_than_is_set_aside_for_them(parts: Parts) -> None:
    """Nearly 100 MB, of which each is within its own limit; 64 MiB are taken, and the others can come again."""
    begun = b"POST /v1/events HTTP/1.1\r\nhost: here\r\ncontent-length: 4000000\r\n\r\n" + b" " * 3_900_000

    async def story(port: int) -> None:
        async with AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(wired(port)) for _ in range(25)]
            for wire in wires:
                wire.send(begun)
            responses = [asyncio.create_task(wire.response()) for wire in wires]
            async with asyncio.timeout(20):
                while sum(response.done() for response in responses) < 8:
                    await asyncio.sleep(0.02)
            refused = [response.result() for response in responses if response.done()]
            assert {(one.status, one.headers["retry-after"]) for one in refused} == {(503, "1")}
            assert len(refused) < 25
            for response in responses:
                response.cancel()
            assert (await ask(port, ANA)).status == 200
        await asyncio.sleep(0.05)
        assert (await ask(port, "/v1/events", "POST", b" " * 3_900_000 + EVENT)).status == 202

    told(parts, story)


def test_who_never_reads_its_answers_is_hung_up_on_and_takes_little_memory(parts: Parts) -> None:
    """Forty thousand answers of ten kilobytes were asked for."""
    wide = f"GET /v1/recommendations?user=ana&k=200 HTTP/1.1\r\nhost: here\r\nx: {'a' * 60}\r\n\r\n".encode()

    async def story(port: int) -> None:
        async with wired(port) as wire:
            wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
            before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            async with others_are_answered_meanwhile(port):
                for _ in range(4000):
                    wire.send(wide * 10)
                    if wire.writer.transport.is_closing():
                        break
                    with suppress(ConnectionError, TimeoutError):
                        await asyncio.wait_for(wire.writer.drain(), 0.05)
                    if wire.writer.transport.get_write_buffer_size() > 1 << 20:
                        await asyncio.sleep(0.05)
            assert wire.writer.transport.is_closing()
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 100_000

    told(parts, story, within_s=1.0)


def test_so_many_requests_may_be_sent_ahead_and_who_sends_more_is_hung_up_on(parts: Parts) -> None:
    async def story(port: int) -> None:
        async with wired(port) as wire:
            wire.send(GET_ANA * MAX_AHEAD)
            assert [(await wire.response()).status for _ in range(MAX_AHEAD)] == [200] * MAX_AHEAD
            wire.send(GET_ANA * 1000)
            answered = 0
            while (await wire.response()).status:
                answered += 1
            assert answered < 1000

    told(parts, story)


def test_who_asks_whether_to_go_on_with_a_body_is_told_so(parts: Parts) -> None:
    async def story(port: int) -> None:
        async with wired(port) as wire:
            wire.send(GET_ANA[:-2] + b"expect: 100-continue\r\ncontent-length: 2\r\n\r\n")
            begun = time.monotonic()
            wire.send(b"{}")
            response = await wire.response()
            assert response.status in (100, 200)
            assert time.monotonic() - begun < 5

    told(parts, story)


def test_questions_that_need_no_look_up_are_all_answered_however_many_come_at_once(parts: Parts) -> None:
    """More than one batch of them, and nothing else that would come back from the store and look after them."""
    body = orjson.dumps({"timeline": [{"item_id": "hat-01", "kind": "view"}], "k": 3})

    async def story(port: int) -> None:
        head = f"POST /v1/recommendations HTTP/1.1\r\nhost: here\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        async with AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(wired(port)) for _ in range(50)]
            for wire in wires:
                wire.send(head + body)
            answered = await asyncio.wait_for(asyncio.gather(*(wire.response() for wire in wires)), 5)
            assert {response.status for response in answered} == {200}

    told(parts, story, Limits(batch=2))


def test_beyond_what_can_wait_requests_are_refused_and_right_after_all_is_as_before(parts: Parts) -> None:
    """Five hundred clients at once, where eight questions may wait. Each refusal is held back, whatever was asked."""

    async def timed(*asked: Any) -> tuple[float, Response]:
        begun = time.monotonic()
        response = await ask(*asked)
        return time.monotonic() - begun, response

    async def story(port: int) -> None:
        many = [b'{"users":%b,"k":200}' % orjson.dumps(ids(200, 100))] * 500
        begun = time.monotonic()
        responses = await asyncio.gather(
            *(timed(port, "/v1/recommendations/batch", "POST", body) for body in many[:100]),
            *(timed(port, f"/v1/recommendations?user=user-{number}&k=200") for number in range(400)),
        )
        statuses = Counter(response.status for _, response in responses)
        assert set(statuses) == {200, 503}, statuses
        assert statuses[200] >= 8
        assert time.monotonic() - begun < 20
        for seconds, response in responses:
            if response.status == 503:
                assert seconds > 0.9 * REFUSED_AFTER_S
                assert response.headers["retry-after"] == "1"
                assert orjson.loads(response.body)["error"]["field"] == "questions"
        waits = []
        for _ in range(20):
            begun = time.monotonic()
            assert (await ask(port, ANA)).status == 200
            waits.append(time.monotonic() - begun)
        assert sorted(waits)[10] < 0.05

    told(parts, story, Limits(batch=4, waiting_questions=8))
