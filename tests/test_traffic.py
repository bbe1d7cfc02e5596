"""The load driver: what it counts, and that nothing lost, doubled or refused escapes it."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from ledstream.scoring import Latencies, Ledger, PopularLately, Recall
from ledstream.settings import read_settings
from ledstream.traffic import Traffic, TrafficError, TrafficSettings, connected
from ledstream.traffic_commands import simulate
from stream.events import Event
from tests.servers import free_ports

# What is popular


def test_the_most_viewed_items_of_the_window_come_first_and_seen_ones_are_left_out() -> None:
    popular = PopularLately(window_ms=1000)
    for item in ["hat", "belt", "hat", "shoe", "hat", "belt"]:
        popular.add(item, 10)
    assert popular.top(2, set(), 10) == ["hat", "belt"]
    assert popular.top(2, {"hat"}, 10) == ["belt", "shoe"]
    assert popular.top(20, set(), 10) == ["hat", "belt", "shoe"]


def test_what_left_the_window_no_longer_counts() -> None:
    popular = PopularLately(window_ms=1000, refresh_ms=0)
    for item, at in [("hat", 0), ("hat", 1), ("belt", 900)]:
        popular.add(item, at)
    assert popular.top(1, set(), 999) == ["hat"]
    assert popular.top(2, set(), 1000) == ["belt", "hat"]
    assert popular.top(2, set(), 1001) == ["belt"]
    assert popular.top(2, set(), 1900) == []


def test_the_ranking_is_renewed_when_it_is_old_and_not_before() -> None:
    popular = PopularLately(refresh_ms=1000)
    popular.add("hat", 0)
    assert popular.top(1, set(), 0) == ["hat"]
    popular.add("belt", 1)
    popular.add("belt", 2)
    assert popular.top(1, set(), 999) == ["hat"]
    assert popular.top(1, set(), 1000) == ["belt"]


# Scores


def test_both_recalls_are_shares_of_the_same_questions() -> None:
    recall = Recall()
    assert (recall.personal, recall.popular) == (0.0, 0.0)
    for personal, popular in [(True, False), (True, True), (False, False), (True, False)]:
        recall.record(personal=personal, popular=popular)
    assert (recall.personal, recall.popular) == (0.75, 0.25)


def test_the_recent_recall_forgets_what_is_a_thousand_questions_old() -> None:
    recall = Recall()
    for number in range(2000):
        recall.record(personal=number >= 1000, popular=number < 1000)
    assert recall.recent() == (1.0, 0.0)
    assert (recall.personal, recall.popular) == (0.5, 0.5)


def test_quantiles_of_latencies_are_right_within_one_percent() -> None:
    latencies = Latencies()
    assert latencies.quantile_ms(0.5) == 0.0
    for number in range(1, 1001):
        latencies.add(number / 1000)
    assert latencies.quantile_ms(0.5) == pytest.approx(500, rel=0.011)
    assert latencies.quantile_ms(0.99) == pytest.approx(990, rel=0.011)
    assert latencies.quantile_ms(1.0) == pytest.approx(1000, rel=0.011)


# The ledger


def ledger_after(*times_s: float, idle_after_s: float | None = None) -> Ledger:
    """Ana had an event at each of the times, all of them accepted."""
    ledger = Ledger(idle_after_s=idle_after_s)
    for at in times_s:
        ledger.sending("ana", f"item-{at:g}", at)
        ledger.accepted(["ana"])
    return ledger


def test_a_record_that_counts_what_was_accepted_settles_the_account() -> None:
    ledger = ledger_after(1, 2, 3)
    assert list(ledger.unchecked()) == ["ana"]
    assert ledger.check("ana", 3)
    assert list(ledger.unchecked()) == []
    assert (ledger.sent, ledger.applied, ledger.lost, ledger.surplus) == (3, 3, 0, 0)


def test_a_late_record_is_asked_for_again_and_only_the_last_answer_counts() -> None:
    ledger = ledger_after(1, 2, 3)
    assert not ledger.check("ana", 2)
    assert (ledger.missing, ledger.lost, list(ledger.unchecked())) == (3, 0, ["ana"])
    assert not ledger.check("ana", 2, final=True)
    assert (ledger.missing, ledger.applied, ledger.lost, ledger.surplus) == (1, 2, 1, 0)


def test_an_event_lost_here_and_one_doubled_there_do_not_cancel_out() -> None:
    ledger = ledger_after(1, 2)
    ledger.sending("bob", "hat", 3)
    ledger.accepted(["bob"])
    ledger.check("ana", 1, final=True)
    ledger.check("bob", 2, final=True)
    assert (ledger.sent, ledger.applied, ledger.lost, ledger.surplus) == (3, 3, 1, 1)


def test_a_user_who_goes_on_is_settled_by_what_the_record_gained() -> None:
    ledger = ledger_after(1, 2)
    ledger.check("ana", 2)
    ledger.sending("ana", "hat", 3)
    ledger.accepted(["ana"])
    assert not ledger.check("ana", 2)
    assert ledger.check("ana", 3)
    assert (ledger.sent, ledger.applied) == (3, 3)


def test_idle_users_are_due_before_their_record_expires_and_start_anew_after_it() -> None:
    ledger = ledger_after(0, 1, idle_after_s=10)
    assert ledger.due(5.9) == []
    assert ledger.due(6.0) == ["ana"]
    assert ledger.check("ana", 2)
    assert ledger.due(6.0) == []
    ledger.sending("ana", "hat", 30)
    ledger.accepted(["ana"])
    assert ledger.seen("ana") == {"hat"}, "the record that knew the rest is gone"
    assert ledger.check("ana", 1)
    assert (ledger.sent, ledger.applied, ledger.lost) == (3, 3, 0)


def test_a_record_that_shrank_without_having_had_the_time_to_expire_lost_events() -> None:
    ledger = ledger_after(0, 1, idle_after_s=10)
    ledger.check("ana", 2)
    ledger.sending("ana", "hat", 5)
    ledger.accepted(["ana"])
    assert not ledger.check("ana", 1)


def test_users_who_are_gone_for_good_cost_no_memory_and_are_still_counted() -> None:
    ledger = ledger_after(0, idle_after_s=10)
    ledger.forget_gone(100)
    assert list(ledger.unchecked()) == ["ana"], "not before the record was compared"
    ledger.check("ana", 1)
    ledger.forget_gone(100)
    assert (ledger.users, ledger.sent, ledger.seen("ana")) == (1, 1, set())


# The driver, against a small server that keeps the contract, or breaks it as told


@dataclass
class Shop:
    """Counts events once by id. The fields say what goes wrong."""

    post_failures: int = 0  # posts answered 503 although the events are stored
    forgets: str | None = None  # a user whose events are accepted and lost
    refuses: str | None = None  # an item that is refused
    failing_verdicts: int = 0  # events with a "failed" verdict at first
    failing_answers: int = 0
    releases: list[str | None] = field(default_factory=lambda: ["r1"])  # of the answers to come; the last one stays
    ids: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    order: list[str] = field(default_factory=list)

    async def events(self, request: web.Request) -> web.Response:
        verdicts = [self._verdict(event) for event in (await request.json())["events"]]
        if self.post_failures:
            self.post_failures -= 1
            return web.json_response({"detail": "the store is away"}, status=503)
        accepted = sum(verdict["status"] == "accepted" for verdict in verdicts)
        return web.json_response({"accepted": accepted, "verdicts": verdicts}, status=202)

    def _verdict(self, event: dict[str, Any]) -> dict[str, str]:
        if event["item_id"] == self.refuses:
            return {"status": "rejected", "field": "item_id", "value": event["item_id"], "reason": "refused"}
        if self.failing_verdicts:
            self.failing_verdicts -= 1
            return {"status": "failed", "reason": "not acknowledged"}
        if event["event_id"] not in self.ids and event["user_id"] != self.forgets:
            self.ids.add(event["event_id"])
            self.counts[event["user_id"]] += 1
            self.order.append(event["item_id"])
        return {"status": "accepted"}

    async def recommendations(self, request: web.Request) -> web.Response:
        if self.failing_answers:
            self.failing_answers -= 1
            return web.Response(status=500)
        release = self.releases.pop(0) if len(self.releases) > 1 else self.releases[0]
        source = "personal" if release and self.counts[request.query["user"]] else "popular"
        items = [{"item_id": "hat", "score": 1.0}]
        return web.json_response({"items": items, "release": release, "source": source, "degraded": False})

    async def user(self, request: web.Request) -> web.Response:
        user = request.match_info["user"]
        if not self.counts[user]:
            return web.Response(status=404)
        return web.json_response({"user": user, "events": self.counts[user]})

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(text='# TYPE lag gauge\nlag{partition="0"} 2\nlag{partition="1"} 3\n')


Drive = Callable[[Traffic], Coroutine[Any, Any, None]]


def with_server(shop: Shop, drive: Drive, *, asked_share: float = 1.0, batch: int = 200) -> Traffic:
    """What is left of a driver after `drive` against the shop."""

    async def run() -> Traffic:
        app = web.Application()
        app.router.add_post("/v1/events", shop.events)
        app.router.add_get("/v1/recommendations", shop.recommendations)
        app.router.add_get("/v1/users/{user}", shop.user)
        app.router.add_get("/metrics", shop.metrics)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        settings = TrafficSettings(
            address=f"http://{host}:{port}", run="test", asked_share=asked_share, paced=False, batch=batch
        )
        try:
            async with connected(settings) as traffic:
                await drive(traffic)
                return traffic
        finally:
            await runner.cleanup()

    return asyncio.run(run())


def sending(events: Iterable[Event]) -> Drive:
    async def drive(traffic: Traffic) -> None:
        await traffic.drive(events, asyncio.Event())
        await traffic.verify(patience_s=0.2)

    return drive


def views(count: int, users: int = 7) -> list[Event]:
    return [Event(f"user/{number % users}", f"item-{number}", "view", 0) for number in range(count)]


def test_everything_sent_is_accepted_asked_about_and_found_again() -> None:
    traffic = with_server(Shop(), sending(views(300)))
    assert (traffic.ledger.sent, traffic.ledger.applied, traffic.ledger.lost) == (300, 300, 0)
    assert (traffic.figures.answers, traffic.figures.answer_errors) == (300, 0)


def test_posts_that_failed_after_they_were_stored_are_sent_again_and_count_once() -> None:
    traffic = with_server(Shop(post_failures=3, failing_verdicts=5), sending(views(100)))
    assert (traffic.ledger.sent, traffic.ledger.applied, traffic.ledger.lost, traffic.ledger.surplus) == (
        100,
        100,
        0,
        0,
    )
    assert traffic.figures.post_retries >= 3


def test_events_that_were_accepted_and_lost_are_counted_exactly() -> None:
    traffic = with_server(Shop(forgets="user/3"), sending(views(70)))
    assert (traffic.ledger.sent, traffic.ledger.applied, traffic.ledger.lost) == (70, 60, 10)


def test_events_that_were_refused_were_not_lost() -> None:
    traffic = with_server(Shop(refuses="item-4"), sending(views(10)))
    assert (traffic.ledger.sent, traffic.ledger.lost, traffic.figures.rejected) == (9, 0, 1)
    assert "item-4" in traffic.figures.errors[0]


def test_an_answer_that_is_no_200_is_an_error_and_not_an_answer() -> None:
    traffic = with_server(Shop(failing_answers=2), sending(views(10)))
    assert (traffic.figures.answers, traffic.figures.answer_errors) == (8, 2)


def test_a_change_from_no_release_is_no_swap_and_one_from_release_to_release_is() -> None:
    assert with_server(Shop(releases=[None, "r1"]), sending(views(10))).figures.swaps == 0
    assert with_server(Shop(releases=[None, "r1", "r1", "r2"]), sending(views(10))).figures.swaps == 1


def test_only_personal_answers_about_an_item_not_yet_seen_are_scored_and_both_are_scored_on_them() -> None:
    story = [
        Event("ana", "belt", "view", 0),  # unknown user: a popular answer
        Event("bob", "hat", "view", 0),
        Event("ana", "hat", "view", 0),  # personal hit; popular knows the hat too
        Event("ana", "hat", "click", 0),  # seen: not scored
        Event("ana", "shoe", "view", 0),  # personal miss, popular miss
    ]
    traffic = with_server(Shop(), sending(story), batch=1)
    assert (traffic.figures.recall.asked, traffic.figures.recall.personal_hits) == (2, 1)
    assert traffic.figures.personal >= 3


def test_the_events_of_a_user_arrive_in_order() -> None:
    shop = Shop(post_failures=2)
    with_server(shop, sending(views(100, users=1)), asked_share=0.5, batch=7)
    assert shop.order == [f"item-{number}" for number in range(100)]


def test_a_post_that_can_never_succeed_ends_the_drive_with_the_servers_words() -> None:
    class Strict(Shop):
        async def events(self, _: web.Request) -> web.Response:
            return web.Response(status=422, text="events: missing")

    with pytest.raises(TrafficError, match="422 events: missing"):
        with_server(Strict(), sending(views(500)))


@contextmanager
def shop_with_keys(*keys: str) -> Iterator[tuple[Shop, int]]:
    """One that takes events with these write keys alone, in a thread of its own; and its port."""

    class Keyed(Shop):
        async def events(self, request: web.Request) -> web.Response:
            if request.headers.get("x-ledstream-key") not in keys:
                return web.Response(status=401, text="no write key of this server")
            return await super().events(request)

    shop, loop, (port,) = Keyed(), asyncio.new_event_loop(), free_ports(1)

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/v1/events", shop.events)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        return runner

    runner = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield shop, port
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_events_go_with_the_key_that_is_given_or_else_with_the_first_that_the_server_would_take() -> None:
    with shop_with_keys("new-shop-key", "old-shop-key") as (shop, port):
        here = {"LEDSTREAM_PORT": str(port)}
        keys = {"LEDSTREAM_WRITE_KEYS": "shop=new-shop-key,mail=old-shop-key"}
        assert simulate(read_settings(here), 200.0, 0.2, 1) == 1, "without a key nothing is taken"
        assert not shop.ids
        assert simulate(read_settings(here), 200.0, 0.2, 1, "old-shop-key") == 0
        first = len(shop.ids)
        assert simulate(read_settings(here | keys), 200.0, 0.2, 2) == 0
        assert len(shop.ids) > first > 0


def test_metrics_are_summed_over_their_labels() -> None:
    figures: dict[str, float] = {}

    async def drive(traffic: Traffic) -> None:
        figures.update(await traffic.metrics())

    with_server(Shop(), drive)
    assert figures["lag"] == 5
