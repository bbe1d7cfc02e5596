"""What the console asks of a server, and who may: figures of all workers, trials, the way back, what was refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, Metric

from serving.app import create_app
from serving.collector.origins import Origins
from serving.collector.paths import Door
from serving.collector.sites import Sites
from serving.console.live import LiveFigures
from serving.parts import Erasures, Parts
from serving.schemas import ReadyAnswer
from store.connection import Client
from store.erased_users import ErasedUsers
from store.erasure_key import ErasureKey
from store.tombstones import Tombstone, Tombstones
from stream.announcements import announce, read_announcement
from stream.bad_rows import read_replayed
from stream.dead_letters import DeadLetter, bury, read_replays
from stream.probes import new_probe
from stream.topics import EVENTS
from tests.running import running
from tests.small_server import parts_of
from tests.worlds import NOW_MS, two_tastes

Story = Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]
ADMIN = {"x-ledstream-key": "admin-key-1"}
READY = ReadyAnswer.model_validate(
    {"ready": True, "degraded": False, "store": "ok", "log": "ok", "consumers": {}}
    | dict.fromkeys(("release", "announced", "refused", "canary", "canary_share"))
)


@pytest.fixture
def parts(redis_client: Client, namespace: str, tmp_path: Path) -> Parts:
    return parts_of(redis_client, namespace, tmp_path)


def told(parts: Parts, story: Story, admin_key: str = "") -> None:
    async def whole() -> None:
        door = Door(Sites.of("", admin_key, is_local=True), Origins.of(""))
        async with running(create_app(parts, door=door)) as client:
            await story(client)

    asyncio.run(whole())


def two_releases(parts: Parts) -> tuple[str, str]:
    """The one that was current, and the one that is."""
    (one,) = parts.releases.versions()
    two = parts.releases.publish(two_tastes(1), now_ms=NOW_MS + 1)
    announce(parts.log, two, NOW_MS + 1)
    return one, two


def test_figures_of_nobody_are_everybodys_and_all_else_of_the_console_needs_the_key(parts: Parts) -> None:
    (version,) = parts.releases.versions()
    keyed: list[tuple[str, str, Any]] = [
        ("GET", "/v1/console/access", None),
        ("GET", "/v1/console/events", None),
        ("GET", "/v1/console/deadletters", None),
        ("GET", "/v1/console/badrows", None),
        ("POST", "/v1/console/deadletters/replay", {}),
        ("POST", "/v1/console/badrows/replay", {}),
        ("POST", "/v1/canary", {"version": version, "share": 0.1, "for_s": 60.0}),
        ("POST", "/v1/canary/promote", {"version": version}),
        ("POST", "/v1/canary/withdraw", {"version": version}),
        ("POST", "/v1/releases/rollback", {"version": version}),
    ]

    async def story(client: httpx.AsyncClient) -> None:
        for path in ("/console", "/console/app.js", "/v1/console/live", "/v1/console/trainings", "/v1/canary"):
            assert (await client.get(path)).status_code == 200, path
        for method, path, body in keyed:
            assert (await client.request(method, path, json=body)).status_code == 401, path
            assert (await client.request(method, path, json=body, headers=ADMIN)).status_code != 401, path

    told(parts, story, "admin-key-1")


def test_the_page_may_use_nothing_from_elsewhere_and_is_not_sent_twice(parts: Parts) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        page = await client.get("/console")
        policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert "<script>" not in page.text
        assert "style=" not in page.text
        again = await client.get("/console", headers={"if-none-match": page.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert (await client.get("/", follow_redirects=True)).text == page.text
        assert (await client.head("/console")).status_code == 200
        for name in ("routes.py", "..%2Froutes.py", "nothing.js"):
            assert (await client.get(f"/console/{name}")).status_code == 404

    told(parts, story)


def test_counters_and_histograms_of_all_workers_are_added_up() -> None:
    registry = CollectorRegistry()
    accepted = Counter("ledstream_events_accepted", "", ["worker"], registry=registry)
    requests = Counter("ledstream_requests", "", ["endpoint", "code", "worker"], registry=registry)
    seconds = Histogram("ledstream_answer_seconds", "", ["worker"], buckets=(0.001, 0.01), registry=registry)
    for worker, number in (("1", 3), ("2", 4)):
        accepted.labels(worker).inc(number)
        requests.labels("/v1/recommendations", "503", worker).inc(number)
        seconds.labels(worker).observe(0.001 * number)
    asked = []

    def families() -> list[Metric]:
        asked.append(1)
        return list(registry.collect())

    figures = LiveFigures(families, lambda: READY, lambda: NOW_MS)
    answer = figures.answer()
    assert (answer.accepted, answer.failed, answer.answers, answer.lag, answer.freshness_seconds) == (
        7,
        7,
        2,
        None,
        None,
    )
    assert answer.answer_seconds is not None
    assert answer.answer_seconds.at_most == [0.001, 0.01, None]
    assert answer.answer_seconds.counts == [0, 2, 2]
    assert figures.answer() is answer
    assert len(asked) == 1


def test_a_trial_begins_and_ends_and_only_as_whoever_asks_believes(parts: Parts) -> None:
    one, two = two_releases(parts)

    async def story(client: httpx.AsyncClient) -> None:
        begun = await client.post("/v1/canary", json={"version": one, "share": 0.25, "for_s": 60.0})
        assert (begun.json()["current"], begun.json()["canary"]["share"]) == (two, 0.25)
        assert (await client.post("/v1/canary/promote", json={"version": two})).status_code == 409
        assert (await client.post("/v1/canary/withdraw", json={"version": one})).json()["canary"] is None
        assert (await client.post("/v1/canary/withdraw", json={"version": one})).status_code == 409
        await client.post("/v1/canary", json={"version": one, "share": 0.25, "for_s": 60.0})
        promoted = await client.post("/v1/canary/promote", json={"version": one})
        assert (promoted.json()["current"], promoted.json()["rollback_to"]) == (one, two)
        assert (
            await client.post("/v1/canary", json={"version": "no", "share": 0.25, "for_s": 60.0})
        ).status_code == 404
        assert (await client.post("/v1/canary", json={"version": one, "share": 0.25, "for_s": 60.0})).status_code == 409

    told(parts, story)


def test_a_rollback_goes_where_it_was_said_to_go_or_nowhere(parts: Parts) -> None:
    one, two = two_releases(parts)

    async def story(client: httpx.AsyncClient) -> None:
        refused = await client.post("/v1/releases/rollback", json={"version": two})
        assert (refused.status_code, refused.json()["error"]["reason"]) == (409, f"a rollback leads to {one}")
        assert (await client.post("/v1/releases/rollback", json={"version": one})).json()["version"] == one
        assert (await client.post("/v1/releases/rollback", json={"version": two})).status_code == 409

    told(parts, story)
    announced = read_announcement(parts.log)
    assert announced is not None
    assert (announced.version, announced.before) == (one, ())


def test_bad_rows_are_listed_with_reasons_and_those_that_are_good_by_now_are_sent_once(parts: Parts) -> None:
    wrong = {"user_id": "eve", "item_id": "hat-01", "kind": "wish"}

    async def refused(client: httpx.AsyncClient) -> None:
        await client.post("/v1/events", json=[wrong, {**wrong, "kind": "wink"}])
        listed = (await client.get("/v1/console/badrows")).json()
        assert [(row["at"], row["field"]) for row in listed["rows"]] == [(1, "kind"), (0, "kind")]
        assert (await client.get("/v1/console/badrows?text=WINK")).json()["rows"][0]["at"] == 1
        answer = (await client.post("/v1/console/badrows/replay", json={"at": [0, 7]})).json()
        assert [one["status"] for one in answer["outcomes"]] == ["refused", "missing"]

    async def taken(client: httpx.AsyncClient) -> None:
        answer = (await client.post("/v1/console/badrows/replay", json={})).json()
        assert answer["counts"] == {"replayed": 1, "refused": 1}
        assert (await client.post("/v1/console/badrows/replay", json={"at": [0]})).json()["counts"] == {"left": 1}
        listed = (await client.get("/v1/console/badrows")).json()
        assert (listed["total"], listed["waiting"]) == (2, 1)
        newest = (await client.get("/v1/console/events?limit=1")).json()["events"]
        assert (newest[0]["user_id"], newest[0]["kind"]) == ("eve", "wish")

    told(parts, refused)
    told(replace(parts, border=replace(parts.border, kinds=(*parts.border.kinds, "wish"))), taken)
    assert read_replayed(parts.log) == {0}


def test_dead_letters_are_listed_with_their_cause_and_sent_to_their_topic_again(parts: Parts) -> None:
    letters = [
        DeadLetter(EVENTS, 1, at, "not msgpack", b"ana", b"\x01" * size, NOW_MS) for at, size in ((7, 9), (8, 70_000))
    ]
    bury(parts.log, letters)

    async def story(client: httpx.AsyncClient) -> None:
        listed = (await client.get("/v1/console/deadletters")).json()
        assert [(one["at"], one["cut"]) for one in listed["letters"]] == [("events/1@8", True), ("events/1@7", False)]
        assert (listed["total"], listed["waiting"]) == (2, 1)
        sent = (
            await client.post("/v1/console/deadletters/replay", json={"at": ["events/1@7", "events/1@8", "x/0@0"]})
        ).json()
        assert [one["status"] for one in sent["outcomes"]] == ["replayed", "refused", "missing"]
        again = (await client.post("/v1/console/deadletters/replay", json={"at": ["events/1@7"]})).json()
        assert again["counts"] == {"left": 1}
        went = (await client.get("/v1/console/deadletters?text=1@7")).json()["letters"][0]["replayed"]
        assert went.startswith("events/")

    told(parts, story)
    assert {str(place) for place in read_replays(parts.log)} == {"events/1@7"}


def test_nothing_of_an_erased_user_is_sent_again_or_shown_among_the_newest(
    parts: Parts, redis_client: Client, namespace: str, tmp_path: Path
) -> None:
    tombstones = Tombstones([tmp_path / "erasures"], ErasureKey(b"k" * 32))
    users = ErasedUsers(redis_client, namespace, parts.states, idle_after_s=3600)
    elsewhere = Tombstones([tmp_path / "erasures"], ErasureKey(b"k" * 32))
    wrong = {"user_id": "eve", "item_id": "hat-01", "kind": "wish"}
    view = {"item_id": "hat-01", "kind": "view"}
    bury(parts.log, [DeadLetter(EVENTS, 1, 7, "not msgpack", b"eve", b"\x01", NOW_MS)])

    async def refused(client: httpx.AsyncClient) -> None:
        await client.post("/v1/events", json=[wrong, {**view, "user_id": "eve"}, {**view, "user_id": "kim"}])

    async def again(client: httpx.AsyncClient) -> None:
        elsewhere.add([Tombstone(elsewhere.key.name("eve"), NOW_MS)])
        for what, place in (("badrows", 0), ("deadletters", "events/1@7")):
            for body in ({"at": [place]}, {"again": True}):
                answer = (await client.post(f"/v1/console/{what}/replay", json=body)).json()
                assert [one["status"] for one in answer["outcomes"]] == ["refused"], what
                assert answer["outcomes"][0]["says"] == "its user was erased since"
        for what, name in (("badrows", "rows"), ("deadletters", "letters")):
            assert (await client.get(f"/v1/console/{what}")).json() == {name: [], "total": 0, "waiting": 0}
        newest = (await client.get("/v1/console/events")).json()["events"]
        assert [one["user_id"] for one in newest] == ["kim"]

    wired = replace(parts, erasures=Erasures(tombstones, users))
    told(wired, refused)
    told(replace(wired, border=replace(parts.border, kinds=(*parts.border.kinds, "wish"))), again)
    assert not read_replayed(parts.log)
    assert not read_replays(parts.log)


def test_newest_events_are_found_behind_any_number_of_probes(parts: Parts) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        await client.post("/v1/events", json={"user_id": "kim", "item_id": "hat-01", "kind": "view"})
        for _ in range(2):
            probes = [new_probe(NOW_MS) for _ in range(600)]
            parts.log.append(EVENTS, [probe.entry for probe in probes])
        newest = (await client.get("/v1/console/events?limit=2")).json()["events"]
        assert [one["user_id"] for one in newest] == ["kim"]

    told(parts, story)


def test_trainings_show_their_curves_where_they_have_some(parts: Parts) -> None:
    curve = {"title": "validation ndcg@100", "unit": "epoch", "numbers": [0, 1], "values": [0.1, 0.2], "kept": 1}
    story_told = {"curves": [{**curve, "more": 1}], "versions": {"torch": "2"}}
    for content in (orjson.dumps(story_told), b"no JSON"):
        tuned = replace(two_tastes(len(content)), attachments={"training.json": content})
        parts.releases.publish(tuned, now_ms=NOW_MS + len(content))

    async def story(client: httpx.AsyncClient) -> None:
        made = (await client.get("/v1/console/trainings")).json()["trainings"]
        assert [one["curves"] for one in made] == [[curve], [], []]
        assert made[0]["versions"] == {"torch": "2"}

    told(parts, story)


def test_newest_events_are_those_that_happened_last_and_no_erasure_is_among_them(parts: Parts) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        times = [NOW_MS - 3000, NOW_MS - 1000, NOW_MS - 2000]
        view = {"item_id": "hat-01", "kind": "view"}
        await client.post(
            "/v1/events", json=[{**view, "user_id": f"u{n}", "time_ms": at} for n, at in enumerate(times)]
        )
        await client.delete("/v1/users/u9")
        newest = (await client.get("/v1/console/events?limit=2")).json()["events"]
        assert [one["user_id"] for one in newest] == ["u1", "u2"]

    told(parts, story)
