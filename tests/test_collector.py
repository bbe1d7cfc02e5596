"""What pages may send, from where and with which key; what becomes of what they should not have sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from serving.app import create_app
from serving.collector.bots import is_bot
from serving.collector.origins import Origins
from serving.collector.paths import Door
from serving.collector.rates import Rates, TooMany
from serving.collector.sites import Sites
from serving.parts import Limits, Parts
from store.connection import Client
from stream.bad_rows import read_rows
from stream.events import Event, decode_event
from stream.memory_log import MemoryLog
from stream.topics import EVENTS, IMPRESSIONS
from tests.running import running
from tests.small_server import parts_of
from tests.worlds import NOW_MS

Story = Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]
VIEW = {"user_id": "ana", "item_id": "hat-01", "kind": "view"}
SHOP = "https://shop.example"
PHONE = "Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 Chrome/130.0 Mobile Safari/537.36"


@pytest.fixture
def parts(redis_client: Client, namespace: str, tmp_path: Path) -> Parts:
    return parts_of(redis_client, namespace, tmp_path)


def told(parts: Parts, story: Story, *, door: Door | None = None, limits: Limits | None = None) -> None:
    async def whole() -> None:
        async with running(create_app(parts, limits, door)) as client:
            await story(client)

    asyncio.run(whole())


def logged(parts: Parts, topic: str = EVENTS) -> list[Event]:
    log = parts.log
    assert isinstance(log, MemoryLog)
    numbers = range(log.partitions(topic))
    return [decode_event(record.value) for number in numbers for record in log.read(topic, number, 0, 1000)]


def door(write_keys: str = "", admin_key: str = "", *, origins: str = "", is_local: bool = True) -> Door:
    return Door(Sites.of(write_keys, admin_key, is_local=is_local), Origins.of(origins))


def test_each_of_a_sites_keys_is_good_until_it_is_taken_away_and_others_are_not(parts: Parts) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        for key in ("old-key-1", "new-key-2"):
            posted = await client.post("/v1/events", json=VIEW, headers={"x-ledstream-key": key})
            assert posted.status_code == 202
            assert (await client.post(f"/v1/events?key={key}", json=VIEW)).status_code == 202
        for more in ("", "?key=wrong-key"):
            refused = await client.post(f"/v1/events{more}", json=VIEW)
            assert (refused.status_code, refused.json()["error"]["field"]) == (401, "key")
        assert (await client.get("/v1/slot?user=ana")).status_code == 401

    told(parts, story, door=door("shop=old-key-1,shop=new-key-2"))
    assert len(logged(parts)) == 4


@pytest.mark.parametrize(
    "keys", ["shop", "shop=short", "=long-enough", "a=the-same-key,b=the-same-key", "a=it's a key"]
)
def test_bad_keys_stop_the_start_and_are_not_shown(keys: str) -> None:
    with pytest.raises(ValueError, match="write key") as refused:
        Sites.of(keys, "", is_local=True)
    assert keys not in str(refused.value)


def test_what_changes_something_needs_the_admin_key_and_so_does_a_users_timeline(parts: Parts) -> None:
    version = parts.releases.versions()[0]
    changing = [
        ("POST", f"/v1/releases/{version}/activate"),
        ("DELETE", "/v1/users/ana"),
        ("GET", "/v1/users/ana"),
        ("PUT", "/v1/not/there/yet"),
    ]

    async def story(client: httpx.AsyncClient) -> None:
        for method, path in changing:
            assert (await client.request(method, path)).status_code == 401, path
            by_writer = await client.request(method, path, headers={"x-ledstream-key": "write-key"})
            assert by_writer.status_code == 401, path
            by_admin = await client.request(method, path, headers={"x-ledstream-key": "admin-key"})
            assert by_admin.status_code in (200, 202, 404), (path, by_admin.text)
        for path in ("/v1/recommendations?user=ana", "/v1/releases", "/healthz", "/v1/items/hat-01/similar"):
            assert (await client.get(path)).status_code == 200

    told(parts, story, door=door("shop=write-key", "admin-key"))


def test_without_an_admin_key_only_this_machine_may_change_things_and_no_page_of_another_origin(parts: Parts) -> None:
    async def local(client: httpx.AsyncClient) -> None:
        assert (await client.delete("/v1/users/ana")).status_code == 202
        assert (await client.delete("/v1/users/ana", headers={"origin": "http://test"})).status_code == 202
        assert (await client.delete("/v1/users/ana", headers={"origin": SHOP})).status_code == 403

    async def anybody(client: httpx.AsyncClient) -> None:
        assert (await client.delete("/v1/users/ana")).status_code == 403
        assert (await client.post("/v1/events", json=VIEW)).status_code == 202

    told(parts, local, door=door(origins="*"))
    told(parts, anybody, door=door(is_local=False))


def test_pages_of_listed_origins_may_send_and_read_the_answer_and_others_may_not(parts: Parts) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        preflight = {"origin": SHOP, "access-control-request-method": "POST"}
        allowed = await client.options("/v1/events", headers=preflight)
        assert allowed.headers["access-control-allow-origin"] == SHOP
        assert "x-ledstream-key" in allowed.headers["access-control-allow-headers"]
        posted = await client.post("/v1/events", json=VIEW, headers={"origin": SHOP})
        assert (posted.status_code, posted.headers["access-control-allow-origin"]) == (202, SHOP)
        slot = await client.get("/v1/slot?user=ana&k=2", headers={"origin": SHOP})
        assert slot.headers["access-control-allow-origin"] == SHOP
        for origin in ("https://elsewhere.example", "null", "https://shop.example.evil.example"):
            for answer in (
                await client.options("/v1/events", headers=preflight | {"origin": origin}),
                await client.post("/v1/events", json=VIEW, headers={"origin": origin}),
            ):
                assert answer.status_code == 403
                assert "access-control-allow-origin" not in answer.headers

    told(parts, story, door=door(origins=f"{SHOP}, https://blog.example:8443"))
    assert len(logged(parts)) == 1
    with pytest.raises(ValueError, match=r"shop\.example/hats"):
        Origins.of("https://shop.example/hats")


def test_a_pixel_is_an_event_and_always_an_image(parts: Parts) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        seen = await client.get("/v1/pixel.gif?user_id=ana&item_id=hat-01&value=2.5&event_id=mail-7")
        assert (seen.status_code, seen.headers["content-type"]) == (200, "image/gif")
        assert seen.headers["cache-control"] == "no-store"
        for query, reason in (
            ("user_id=ana&item_id=hat-01&kind=wink", "kind: known kinds"),
            ("user_id=ana", "item_id: "),
            ("user_id=ana&item_id=hat-01&value=much", "value: must be a number"),
            ("user=ana", "user: unknown parameter"),
        ):
            bad = await client.get(f"/v1/pixel.gif?{query}")
            assert (bad.status_code, bad.content) == (400, seen.content)
            assert bad.headers["x-ledstream-refused"].startswith(reason)

    told(parts, story)
    assert logged(parts) == [Event("ana", "hat-01", "view", NOW_MS, "mail-7", 2.5)]


def test_events_come_as_lines_too_and_one_bad_line_spoils_the_post(parts: Parts) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        lines = b"\n".join(orjson.dumps(VIEW | {"event_id": name}) for name in ("a", "b")) + b"\n\n"
        form = {"content-type": "application/x-ndjson"}
        assert (await client.post("/v1/events", content=lines, headers=form)).json()["accepted"] == 2
        assert (await client.post("/v1/events", content=lines + b"{", headers=form)).status_code == 400
        assert (await client.post("/v1/events", content=b"\n", headers=form)).status_code == 400

    told(parts, story)
    assert len(logged(parts)) == 2


def test_a_clock_that_is_wrong_is_put_right_by_the_time_of_sending_and_a_good_one_is_let_be(parts: Parts) -> None:
    hour = 3_600_000

    async def story(client: httpx.AsyncClient) -> None:
        for ahead_ms in (-400 * 24 * hour, 10 * hour, 4000):
            sent_at = NOW_MS + ahead_ms
            event = VIEW | {"time_ms": sent_at - 1000, "event_id": str(ahead_ms)}
            assert (await client.post("/v1/events", json={"events": [event], "sent_at": sent_at})).status_code == 202
        assert (await client.post("/v1/events", json={"events": [VIEW], "sent_at": "now"})).status_code == 400

    told(parts, story)
    assert [event.time_ms - NOW_MS for event in logged(parts)] == [-1000, -1000, 3000]


def test_refused_events_are_kept_with_the_reason_and_as_they_came(parts: Parts) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        headers = {"x-ledstream-key": "write-key", "user-agent": PHONE}
        posted = await client.post("/v1/events", json=[VIEW, VIEW | {"kind": "wink"}, 7], headers=headers)
        assert [verdict["status"] for verdict in posted.json()["verdicts"]] == ["accepted", "rejected", "rejected"]
        bot = headers | {"user-agent": "Googlebot/2.1 (+http://www.google.com/bot.html)"}
        assert (await client.post("/v1/events", json=VIEW, headers=bot)).json()["rejected"] == 1

    told(parts, story, door=door("shop=write-key"))
    wink, number, bot = read_rows(parts.log)
    assert (wink.field, wink.value, wink.site, wink.agent) == ("kind", "wink", "shop", PHONE)
    assert orjson.loads(wink.raw) == VIEW | {"kind": "wink"}
    assert number.raw == b"7"
    assert (bot.field, bot.reason) == ("user-agent", "a program that names itself a bot")


def test_who_sends_nothing_but_rubbish_does_not_fill_the_log_with_it(parts: Parts) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        for _ in range(3):
            assert (await client.post("/v1/events", json=[{}] * 1000)).json()["rejected"] == 1000

    told(parts, story)
    assert 1000 <= len(list(read_rows(parts.log))) < 1500


def test_programs_that_name_themselves_are_bots_and_backends_and_people_are_not() -> None:
    for agent in ("bingbot/2.0", "facebookexternalhit/1.1", "Mozilla/5.0 HeadlessChrome/130.0", "AhrefsBot/7.0"):
        assert is_bot(agent), agent
    for agent in (PHONE, "curl/8.5", "python-requests/2.32", "", "Mozilla/5.0 (X11; Linux) Cubot Note 20"):
        assert not is_bot(agent), agent


def test_what_was_shown_goes_to_a_topic_of_its_own(parts: Parts) -> None:
    shown = VIEW | {"kind": "impression", "context": {"answer": "r1-abc", "slot": "home", "place": "0"}}

    async def story(client: httpx.AsyncClient) -> None:
        assert (await client.post("/v1/events", json=[shown, VIEW])).json()["accepted"] == 2

    told(parts, story)
    assert [event.kind for event in logged(parts)] == ["view"]
    assert [event.context for event in logged(parts, IMPRESSIONS)] == [shown["context"]]


def test_a_slots_answer_has_an_id_that_begins_with_its_release(parts: Parts) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        first, second = [(await client.get("/v1/slot?user=ana&k=3&exclude=hat-02")).json() for _ in range(2)]
        plain = (await client.get("/v1/recommendations?user=ana&k=3&exclude=hat-02")).json()
        assert first.pop("answer_id").startswith(f"{plain['release']}-")
        assert first == plain
        assert second["answer_id"]
        assert (await client.get("/v1/slot?k=3")).status_code == 400

    told(parts, story)


def test_a_site_that_sends_too_much_is_told_when_to_come_back_and_others_go_on(parts: Parts) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        assert (await client.post("/v1/events?key=shop-key", json=[VIEW] * 20)).status_code == 202
        over = await client.post("/v1/events?key=shop-key", json=[VIEW] * 10)
        assert (over.status_code, over.headers["retry-after"]) == (429, "5")
        assert (await client.post("/v1/events?key=blog-key", json=VIEW)).status_code == 202

    told(parts, story, door=door("shop=shop-key,blog=blog-key"), limits=Limits(events_per_s=2))


def test_a_bucket_fills_at_its_rate_and_no_further_than_ten_seconds() -> None:
    clock = [0.0]
    rates = Rates(2, lambda: clock[0])
    rates.spend("shop", 20)
    with pytest.raises(TooMany) as refused:
        rates.spend("shop", 3)
    clock[0] += refused.value.after_s
    rates.spend("shop", 3)
    clock[0] += 1000
    rates.spend("shop", 500)  # larger than the bucket: it passes when that is full, and is paid for
    clock[0] += 240
    with pytest.raises(TooMany):
        rates.spend("shop", 1)


def test_the_tracker_is_served_and_not_sent_again_to_who_has_it(parts: Parts) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        script = await client.get("/ledstream.js")
        assert script.headers["content-type"].startswith("text/javascript")
        again = await client.get("/ledstream.js", headers={"if-none-match": script.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")

    told(parts, story)
