"""The HTTP interface: every endpoint, every refusal, and a real server around it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgpack
import orjson
import pytest

from serving.app import create_app
from serving.parts import Limits, Parts
from store.connection import Client
from store.releases import Release
from store.user_state import UserStates
from stream.announcements import announce
from stream.events import Border, decode_event
from stream.log import Entry, LogUnavailable, Position
from stream.memory_log import MemoryLog
from stream.topics import EVENTS, topics
from tests.records import lengths, put
from tests.running import running
from tests.worlds import KINDS, NOW_MS, records, releases, row_of, two_tastes, viewed

Story = Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]


class FailingLog(MemoryLog):
    """A log whose appends can be held, or fail for some users."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: Callable[[Entry], bool] = lambda _: False
        self.may_append = threading.Event()
        self.may_append.set()

    def append(self, topic: str, entries: Sequence[Entry]) -> list[Position | LogUnavailable]:
        assert self.may_append.wait(5)
        stored = super().append(topic, [entry for entry in entries if not self.failing(entry)])
        following = iter(stored)
        return [LogUnavailable("not acknowledged") if self.failing(e) else next(following) for e in entries]

    def events(self) -> list[Any]:
        """Everything in the events topic, decoded."""
        parts = range(self.partitions(EVENTS))
        return [decode_event(record.value) for number in parts for record in self.read(EVENTS, number, 0, 10_000)]


class World:
    def __init__(self, client: Client, namespace: str, folder: Path, *, limits: Limits | None = None) -> None:
        self.log, self.limits = FailingLog(), limits
        for topic, partitions in topics(2).items():
            self.log.create_topic(topic, partitions)
        self.client = client
        self.states = UserStates(client, namespace, lengths)
        self.releases = releases(folder)
        self.release: Release = self.releases.load(self.releases.publish(two_tastes(), now_ms=NOW_MS))
        announce(self.log, self.release.version, NOW_MS)

    def run(self, story: Story) -> None:
        async def whole() -> None:
            parts = Parts(self.log, self.states, self.releases, Border(KINDS), lambda: NOW_MS)
            async with running(create_app(parts, self.limits)) as client:
                await story(client)

        asyncio.run(whole())


@pytest.fixture
def world(redis_client: Client, namespace: str, tmp_path: Path) -> World:
    return World(redis_client, namespace, tmp_path / "releases")


def event(**changed: Any) -> dict[str, Any]:
    return {"user_id": "ana", "item_id": "hat-01", "kind": "view"} | changed


def test_recommendations_say_what_they_are(world: World) -> None:
    put(world.states, records({"ana": viewed("ana", "hat-01")}, world.release))

    async def story(client: httpx.AsyncClient) -> None:
        response = await client.get("/v1/recommendations?user=ana&k=3&exclude=hat-02,hat-03&exclude=hat-04")
        answer = response.json()
        assert response.headers["content-type"] == "application/json"
        assert list(answer) == ["user", "items", "release", "as_of", "source", "degraded"]
        assert [set(item) for item in answer["items"]] == [{"item_id", "score"}] * 3
        assert not {"hat-01", "hat-02", "hat-03", "hat-04"} & {item["item_id"] for item in answer["items"]}
        assert (answer["user"], answer["release"], answer["as_of"]) == ("ana", world.release.version, NOW_MS)
        assert (answer["source"], answer["degraded"]) == ("personal", False)
        assert len((await client.get("/v1/recommendations?user=zo%C3%A9+b")).json()["items"]) == 20
        assert (await client.get("/v1/recommendations?user=zo%C3%A9+b")).json()["user"] == "zoé b"

    world.run(story)


def test_a_timeline_in_the_request_answers_as_a_stored_one_and_stores_nothing(world: World) -> None:
    put(world.states, records({"ana": viewed("ana", "hat-01", "hat-02")}, world.release))

    async def story(client: httpx.AsyncClient) -> None:
        stored = (await client.get("/v1/recommendations?user=ana&k=5")).json()
        timeline = [{"item_id": "hat-01", "kind": "view"}, {"item_id": "hat-02", "kind": "view", "time_ms": NOW_MS}]
        asked = (await client.post("/v1/recommendations", json={"timeline": timeline, "k": 5})).json()
        assert [item["item_id"] for item in asked["items"]] == [item["item_id"] for item in stored["items"]]
        assert (asked["user"], asked["source"], asked["as_of"]) == (None, "personal", NOW_MS)
        empty = (await client.post("/v1/recommendations", json={"timeline": []})).json()
        assert (empty["source"], empty["as_of"], len(empty["items"])) == ("popular", None, 20)
        assert world.log.events() == []

    world.run(story)


def test_many_users_in_one_call_are_answered_as_each_alone(world: World) -> None:
    users = [f"user-{number}" for number in range(100)] + ["nobody"]
    put(world.states, records({user: viewed(user, "hat-01", "belt-02") for user in users[:-1]}, world.release))

    async def story(client: httpx.AsyncClient) -> None:
        asked = {"users": users, "k": 4, "exclude": ["hat-03"]}
        together = await client.post("/v1/recommendations/batch", json=asked)
        alone = [(await client.get(f"/v1/recommendations?user={user}&k=4&exclude=hat-03")).json() for user in users]
        assert together.json() == {"answers": alone}
        headers = {"accept": "application/msgpack"}
        packed = await client.post("/v1/recommendations/batch", json=asked, headers=headers)
        assert msgpack.unpackb(packed.content) == together.json()

    world.run(story)


def test_similar_items_are_those_for_a_user_of_that_item(world: World) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        similar = (await client.get("/v1/items/hat-01/similar?k=4")).json()
        asked = await client.post("/v1/recommendations", json={"timeline": [event_of("hat-01")], "k": 4})
        assert similar["items"] == asked.json()["items"]
        assert (similar["item_id"], similar["release"]) == ("hat-01", world.release.version)
        assert all(item["item_id"].startswith("hat") for item in similar["items"])
        unknown = await client.get("/v1/items/umbrella/similar")
        assert (unknown.status_code, unknown.json()["error"]["value"]) == (404, "umbrella")

    def event_of(item: str) -> dict[str, str]:
        return {"item_id": item, "kind": "view"}

    world.run(story)


def test_each_event_of_a_post_gets_its_verdict_and_the_good_ones_are_in_the_log(world: World) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        posted = [event(event_id="e1"), event(kind="wink"), event(item_id="hat-02"), event(colour="red"), 7]
        response = await client.post("/v1/events", json={"events": posted})
        assert response.status_code == 202
        answer = response.json()
        assert (answer["accepted"], answer["rejected"], answer["failed"]) == (2, 3, 0)
        assert [verdict["status"] for verdict in answer["verdicts"]] == [
            "accepted", "rejected", "accepted", "rejected", "rejected",
        ]  # fmt: skip
        assert [verdict.get("field") for verdict in answer["verdicts"]] == [None, "kind", None, "colour", "event"]
        first, second = world.log.events()
        assert (first.item_id, first.event_id, first.time_ms) == ("hat-01", "e1", NOW_MS)
        assert (second.item_id, bool(second.event_id)) == ("hat-02", True)
        assert (await client.post("/v1/events", json=event())).status_code == 202
        assert (await client.post("/v1/events", json=[event(), event()])).json()["accepted"] == 2
        text = (await client.get("/metrics")).text
        assert "ledstream_events_accepted_total 5.0" in text
        assert "ledstream_events_rejected_total 3.0" in text
        assert "ledstream_lag_records 5.0" in text

    world.run(story)


def test_a_post_of_only_bad_events_is_400_with_verdicts(world: World) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        response = await client.post("/v1/events", json=[event(user_id=""), event(time_ms=NOW_MS + 10**9)])
        assert response.status_code == 400
        assert [verdict["field"] for verdict in response.json()["verdicts"]] == ["user_id", "time_ms"]

    world.run(story)


def test_what_the_log_did_not_take_is_said_so(world: World) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        world.log.failing = lambda entry: entry.key == b"bob"
        some = await client.post("/v1/events", json=[event(), event(user_id="bob"), event(kind="wink")])
        assert some.status_code == 202
        assert [verdict["status"] for verdict in some.json()["verdicts"]] == ["accepted", "failed", "rejected"]
        none = await client.post("/v1/events", json=event(user_id="bob"))
        assert (none.status_code, none.headers["retry-after"]) == (503, "1")
        assert none.json()["verdicts"] == [{"status": "failed", "reason": "not acknowledged"}]
        assert (await client.delete("/v1/users/bob")).status_code == 503

    world.run(story)


def test_more_than_can_wait_is_refused_with_503_and_a_time_to_try_again(
    redis_client: Client, namespace: str, tmp_path: Path
) -> None:
    world = World(redis_client, namespace, tmp_path, limits=Limits(waiting_events=10))

    async def story(client: httpx.AsyncClient) -> None:
        world.log.may_append.clear()
        waiting = asyncio.create_task(client.post("/v1/events", json=[event()] * 8))
        await asyncio.sleep(0.05)
        refused = await client.post("/v1/events", json=[event()] * 8)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert (await client.get("/v1/recommendations?user=ana")).status_code == 200
        world.log.may_append.set()
        assert (await waiting).status_code == 202
        assert (await client.post("/v1/events", json=[event()] * 8)).status_code == 202

    world.run(story)


def test_a_user_can_be_looked_at_and_forgotten(world: World) -> None:
    put(world.states, records({"ana/b": viewed("ana/b", "hat-01", "umbrella")}, None))

    async def story(client: httpx.AsyncClient) -> None:
        user = (await client.get("/v1/users/ana%2Fb")).json()
        assert (user["user"], user["events"], user["as_of"]) == ("ana/b", 2, NOW_MS)
        assert [entry["item_id"] for entry in user["timeline"]] == [None, "hat-01"], "newest first"
        assert [entry["kind"] for entry in user["timeline"]] == ["view", "view"]
        hat = int(world.release.item_keys[row_of(world.release, "hat-01")])
        assert user["timeline"][1]["item_key"] == f"{hat:016x}"
        assert (await client.get("/v1/users/nobody")).status_code == 404
        assert (await client.delete("/v1/users/ana%2Fb")).status_code == 202
        (erasure,) = world.log.events()
        assert (erasure.user_id, erasure.kind) == ("ana/b", "erase")

    world.run(story)


MANY = ",".join(["x"] * 201)
BAD = [
    ("GET", "/v1/recommendations", None, 400, "user"),
    ("GET", "/v1/recommendations?user=", None, 400, "user"),
    ("GET", "/v1/recommendations?user=" + "a" * 129, None, 400, "user"),
    ("GET", "/v1/recommendations?user=%00", None, 400, "user"),
    ("GET", "/v1/recommendations?user=%ff", None, 400, "user"),
    ("GET", "/v1/recommendations?user=a&user=b", None, 400, "user"),
    ("GET", "/v1/recommendations?user=a&k=0", None, 400, "k"),
    ("GET", "/v1/recommendations?user=a&k=201", None, 400, "k"),
    ("GET", "/v1/recommendations?user=a&k=ten", None, 400, "k"),
    ("GET", "/v1/recommendations?user=a&k=", None, 400, "k"),
    ("GET", "/v1/recommendations?user=a&k=%D9%A3", None, 400, "k"),
    ("GET", "/v1/recommendations?user=a&k=" + "9" * 5000, None, 400, "k"),
    ("GET", "/v1/recommendations?user=a&seen=perhaps", None, 400, "seen"),
    ("GET", "/v1/recommendations?user=a&exclude=" + MANY, None, 400, "exclude"),
    ("GET", "/v1/recommendations?user=a&exclude=" + "a" * 129, None, 400, "exclude"),
    ("GET", "/v1/recommendations?user=a&limit=5", None, 400, "limit"),
    ("GET", "/v1/items/hat-01/similar?k=0", None, 400, "k"),
    ("GET", "/v1/items/hat-01/similar?n=5", None, 400, "n"),
    ("GET", "/v1/users/a?full=1", None, 400, "full"),
    ("GET", "/v1/users/" + "a" * 129, None, 400, "user_id"),
    ("DELETE", "/v1/users/%01", None, 400, "user_id"),
    ("GET", "/v1/nothing", None, 404, "path"),
    ("PUT", "/v1/events", None, 405, "path"),
    ("POST", "/v1/events", b"", 400, "body"),
    ("POST", "/v1/events", b"{", 400, "body"),
    ("POST", "/v1/events", b"\xff\xfe", 400, "body"),
    ("POST", "/v1/events", b"[" * 5000, 400, "body"),
    ("POST", "/v1/events", b"[]", 400, "events"),
    ("POST", "/v1/events", b'{"events": {}}', 400, "events"),
    ("POST", "/v1/events", b'{"events": [], "more": 1}', 400, "more"),
    ("POST", "/v1/events", b"[" + b",".join([b"1"] * 1001) + b"]", 400, "events"),
    ("POST", "/v1/events", b" " * (4 << 20) + b"{}", 413, "body"),
    ("POST", "/v1/recommendations", b"nonsense", 400, "body"),
    ("POST", "/v1/recommendations", b"[]", 400, "body"),
    ("POST", "/v1/recommendations", b"{}", 400, "timeline"),
    ("POST", "/v1/recommendations", b'{"timeline": [{"item_id": "a", "kind": "wink"}]}', 400, "timeline.0.kind"),
    ("POST", "/v1/recommendations", b'{"timeline": [{"item_id": "", "kind": "view"}]}', 400, "timeline.0.item_id"),
    (
        "POST",
        "/v1/recommendations",
        b'{"timeline": [{"item_id": "a", "kind": "view", "time_ms": 9000000000000}]}',
        400,
        "timeline.0.time_ms",
    ),
    ("POST", "/v1/recommendations", b'{"timeline": [], "k": "5"}', 400, "k"),
    ("POST", "/v1/recommendations", b'{"timeline": [], "exclude": ["a", 1]}', 400, "exclude.1"),
    ("POST", "/v1/recommendations", b'{"timeline": [], "when": 1}', 400, "when"),
    ("POST", "/v1/recommendations", b" " * (4 << 20) + b"{}", 413, "body"),
    ("POST", "/v1/recommendations/batch", b'{"users": []}', 400, "users"),
    ("POST", "/v1/recommendations/batch", b'{"users": ["a", "\\u0001"]}', 400, "users.1"),
    ("POST", "/v1/recommendations/batch", b'{"users": ["a"], "k": 0}', 400, "k"),
    ("POST", "/v1/recommendations/batch", b'{"users": [' + b",".join([b'"a"'] * 1001) + b"]}", 400, "users"),
    ("POST", "/v1/releases/..%2F..%2Fetc/activate", None, 404, "path"),
    ("POST", "/v1/releases/../activate", None, 404, "path"),
    ("POST", "/v1/releases/x/activate?now=1", None, 400, "now"),
]


def test_bad_input_is_refused_by_name_and_never_a_5xx(world: World) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        for method, url, body, status, field in BAD:
            response = await client.request(method, url, content=body)
            asked = f"{method} {url[:80]} {(body or b'')[:40]!r}: {response.text[:200]}"
            assert response.status_code == status, asked
            error = response.json()["error"]
            assert set(error) == {"field", "value", "reason"}, asked
            assert error["field"] == field, asked
            assert len(response.content) < 1000, asked

    world.run(story)


def test_the_page_of_the_interface_describes_every_path_and_needs_no_network(world: World) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        page = (await client.get("/openapi.json")).json()
        paths = {(method, path) for path, methods in page["paths"].items() for method in methods}
        assert {("get", "/v1/recommendations"), ("post", "/v1/recommendations"), ("post", "/v1/events")} <= paths
        assert {"EventBody", "TimelineBody", "RecommendationsAnswer"} <= set(page["components"]["schemas"])
        text = orjson.dumps(page).decode()
        for reference in {part.split('"')[0] for part in text.split('"$ref":"')[1:]}:
            assert reference.startswith("#/components/schemas/")
            assert reference.rsplit("/", 1)[1] in page["components"]["schemas"]
        docs = await client.get("/docs")
        assert docs.status_code == 200
        assert "cdn." not in docs.text
        assert (await client.get("/static-offline-docs/swagger-ui-bundle.js")).status_code == 200

    world.run(story)


def test_metrics_count_requests_by_endpoint_and_answer(world: World) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        await client.get("/v1/recommendations?user=a")
        await client.get("/v1/recommendations")
        await client.get("/v1/users/nobody")
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        text = (await client.get("/metrics")).text
        assert 'ledstream_requests_total{code="200",endpoint="/v1/recommendations"} 1.0' in text
        assert 'ledstream_requests_total{code="400",endpoint="/v1/recommendations"} 1.0' in text
        assert 'ledstream_requests_total{code="404",endpoint="/v1/users/{user_id:path}"} 1.0' in text
        assert "ledstream_answer_seconds_count 1.0" in text
        assert "ledstream_users " in text

    world.run(story)
