"""The short way of one request through the server, told apart from the long one by nobody who asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgpack
import orjson
import pytest
from uvicorn import Server

from serving.app import create_app
from serving.parts import Parts
from serving.server import configured, listening
from store.connection import Client
from store.user_state import UserStates
from stream.announcements import announce
from stream.events import Border
from stream.memory_log import MemoryLog
from stream.topics import EVENTS, topics
from tests.records import lengths, put
from tests.worlds import KINDS, NOW_MS, records, releases, two_tastes, viewed

ASK = b"GET /v1/recommendations?user=ana&k=3 HTTP/1.1\r\nhost: here\r\n%b\r\n"
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class World:
    def __init__(self, client: Client, namespace: str, folder: Path) -> None:
        self.log, self.states, self.releases = MemoryLog(), UserStates(client, namespace, lengths), releases(folder)
        for topic, partitions in topics(2).items():
            self.log.create_topic(topic, partitions)
        release = self.releases.load(self.releases.publish(two_tastes(), now_ms=NOW_MS))
        announce(self.log, release.version, NOW_MS)
        put(self.states, records({"ana": viewed("ana", "hat-01"), "bob": viewed("bob", "belt-01")}, release))

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        """The port of a server in this loop."""
        parts = Parts(self.log, self.states, self.releases, Border(KINDS), lambda: NOW_MS)
        socket = listening("127.0.0.1", 0)
        server = Server(configured(create_app(parts)))
        running = asyncio.create_task(server.serve([socket]))
        while not server.started:
            await asyncio.sleep(0.01)
        yield socket.getsockname()[1]
        server.should_exit = True
        await running

    def talk(self, talk: Talk) -> None:
        async def whole() -> None:
            async with self.serving() as port:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.wait_for(talk(reader, writer), 10)
                writer.close()

        asyncio.run(whole())


@pytest.fixture
def world(redis_client: Client, namespace: str, tmp_path: Path) -> World:
    return World(redis_client, namespace, tmp_path)


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the next response."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


def test_all_ways_answer_alike(world: World) -> None:
    """A header that says nothing needs a parser; a path written in another way is the same to the long way alone."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        plain, other = b"recommendations", b"%72ecommendations"
        for query in (
            b"user=ana&k=3",
            b"user=nobody",
            b"user=ana&k=0",
            b"k=3",
            b"user=a%FF",
            b"user=ana&exclude=hat-02",
            b"user=ana#k=3",
            b"user=%b" % (b"x" * 2000),
        ):
            for accepted in (b"*/*", b"application/msgpack", b""):
                told = []
                for path, more in (plain, b""), (plain, b"x: y\r\n"), (other, b""):
                    start = b"GET /v1/%b?%b HTTP/1.1\r\nhost: here\r\n" % (path, query)
                    writer.write(start + b"Accept: %b\r\n" % accepted + more + b"\r\n")
                    status, headers, body = await answer(reader)
                    assert "date" in headers
                    told.append((status, headers["content-type"], body))
                assert told[0] == told[1] == told[2], query

    world.talk(talk)


def test_requests_sent_without_waiting_are_answered_in_their_order(world: World) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bob = ASK.replace(b"ana", b"bob")
        writer.write(ASK % b"" + b"GET /healthz HTTP/1.1\r\nhost: here\r\n\r\n" + bob % b"" + ASK % b"")
        told = [orjson.loads((await answer(reader))[2]) for _ in range(4)]
        assert [one.get("user", one.get("status")) for one in told] == ["ana", "ok", "bob", "ana"]

    world.talk(talk)


def test_a_request_may_come_in_pieces_and_with_a_body(world: World) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in (ASK % b"content-length: 5\r\n" + b"hello")[:60], (ASK % b"content-length: 5\r\n" + b"hello")[60:]:
            writer.write(piece)
            await asyncio.sleep(0.02)
        assert orjson.loads((await answer(reader))[2])["user"] == "ana"
        writer.write(ASK % b"")
        assert orjson.loads((await answer(reader))[2])["user"] == "ana"

    world.talk(talk)


def test_what_only_looks_whole_is_left_to_the_parser(world: World) -> None:
    """What the start of a body looks like, and a second request behind the first."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = ASK % b""
        writer.write(b"POST /v1/events HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\n\r\n" % len(body))
        await asyncio.sleep(0.02)
        writer.write(body)
        assert (await answer(reader))[0] == 400
        writer.write(ASK % b"" + (ASK % b"").replace(b"ana", b"bob"))
        assert [orjson.loads((await answer(reader))[2])["user"] for _ in range(2)] == ["ana", "bob"]

    world.talk(talk)


@pytest.mark.parametrize("last", [ASK % b"connection: close\r\n", (ASK % b"").replace(b"1.1", b"1.0")])
def test_the_connection_ends_when_the_client_wants_it(world: World, last: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(last)
        status, headers, _ = await answer(reader)
        assert (status, headers["connection"]) == (200, "close")
        assert await reader.read() == b""

    world.talk(talk)


def test_msgpack_is_the_same_in_another_form(world: World) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ASK % b"accept: application/msgpack\r\n")
        await asyncio.sleep(0.02)
        writer.write(ASK % b"")
        _, headers, packed = await answer(reader)
        _, _, body = await answer(reader)
        assert headers["content-type"] == "application/msgpack"
        assert msgpack.unpackb(packed) == orjson.loads(body)

    world.talk(talk)


def test_who_hangs_up_costs_nobody_an_answer(world: World) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("peername")[1]
        for _ in range(20):
            _, gone = await asyncio.open_connection("127.0.0.1", port)
            gone.write(ASK % b"")
            gone.transport.abort()
        writer.write(ASK % b"")
        assert (await answer(reader))[0] == 200

    world.talk(talk)


def post(body: bytes, path: bytes = b"/v1/events", more: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\n%b\r\n%b" % (path, len(body), more, body)


VIEW = b'{"user_id":"ana","item_id":"hat-01","kind":"view"}'


def test_posts_are_answered_alike_both_ways(world: World) -> None:
    """As above: another way to write the path is the long way, and so is a body without a length."""
    many = b"[%b]" % b",".join([VIEW] * 60)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for body, more in (
            (VIEW, b""),
            (many, b""),
            (VIEW.replace(b"view", b"look"), b""),
            (b"[]", b""),
            (b"{", b""),
            (b"", b""),
            (VIEW + b"\n{\n" + VIEW, b"content-type: application/x-ndjson\r\n"),
            (VIEW, b"origin: https://elsewhere.example\r\n"),
            (VIEW, b"user-agent: Googlebot/2.1\r\n"),
        ):
            told = []
            for path in (b"/v1/events", b"/v1/%65vents"):
                writer.write(post(body, path, more))
                status, headers, answered = await answer(reader)
                verdicts = orjson.loads(answered)
                verdicts.pop("token", None)
                told.append((status, headers["content-type"], verdicts))
            assert told[0] == told[1], body
            assert told[0][0] in (202, 400, 403)
        writer.write(post(VIEW, b"/v1/events?kee=1"))
        assert (await answer(reader))[0] == 400
        writer.write(b"POST /v1/events HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(VIEW), VIEW))
        assert (await answer(reader))[0] == 202

    world.talk(talk)


def test_posts_and_questions_on_one_connection_are_answered_in_their_order(world: World) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(post(VIEW) + ASK % b"" + post(b"{") + post(VIEW * 400) + post(VIEW) + ASK % b"")
        assert [(await answer(reader))[0] for _ in range(6)] == [202, 200, 400, 400, 202, 200]
        whole = post(VIEW)
        for piece in (whole[:30], whole[30:90], whole[90:110], whole[110:]):
            writer.write(piece)
            await asyncio.sleep(0.02)
        assert (await answer(reader))[0] == 202
        writer.write(post(VIEW, more=b"connection: close\r\n"))
        status, headers, _ = await answer(reader)
        assert (status, headers["connection"], await reader.read()) == (202, "close", b"")

    world.talk(talk)


def test_who_hangs_up_after_a_post_has_sent_it(world: World) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("peername")[1]
        for _ in range(20):
            _, gone = await asyncio.open_connection("127.0.0.1", port)
            gone.write(post(VIEW))
            await gone.drain()
            gone.close()
        writer.write(post(VIEW))
        assert (await answer(reader))[0] == 202
        while sum(world.log.end_offsets(EVENTS).values()) < 21:
            await asyncio.sleep(0.01)

    world.talk(talk)
