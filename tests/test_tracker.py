"""The tracker in a real browser, on a page of another origin than the server's."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from serving.collector.origins import Origins
from serving.collector.paths import Door
from serving.collector.sites import Sites
from serving.parts import wall_clock_ms
from store.connection import connect
from stream.events import Event, decode_event
from stream.log import Log
from stream.topics import EVENTS, IMPRESSIONS
from tests.browser import browsing, chromium, shop
from tests.conftest import missing
from tests.eventually import until
from tests.small_server import parts_of
from tests.wire import in_the_servers_loop, serving

ROOT = Path(__file__).parents[1]
BUILT, CLIENT, GUIDE = ROOT / "serving/collector/ledstream.js", ROOT / "clients/js", ROOT / "docs/tracking.md"
KEY = "shop-key-1"
SETTLED_MS = 900  # longer than the tracker gathers events


@dataclass
class World:
    """A server, a shop's pages by path, where they are, and a browser."""

    log: Log
    server: str
    pages: dict[str, str]
    address: str
    browser: Any

    def page(self, path: str, body: str) -> str:
        """The address of a page with the tracker."""
        script = f'<script src="{self.server}/ledstream.js" data-key="{KEY}"></script>'
        self.pages[path] = f"<!doctype html><title>Shop</title>{script}<body>{body}</body>"
        return self.address + path

    def events(self, item: str, topic: str = EVENTS) -> list[Event]:
        """What is in the log about an item."""
        numbers = range(self.log.partitions(topic))
        found = [decode_event(one.value) for number in numbers for one in self.log.read(topic, number, 0, 10_000)]
        return [event for event in found if event.item_id == item]

    def wait_for(self, item: str, tab: Any = None) -> None:
        """Returns once there is an event about the item. tab: one whose requests are answered here meanwhile."""
        until(lambda: bool((tab and tab.wait_for_timeout(50)) or self.events(item)))


@pytest.fixture(scope="module")
def world(redis_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    executable = chromium()
    if executable is None:
        missing("no Chromium: Debian's package `chromium`, or LEDSTREAM_TEST_CHROMIUM=/path/to/one")
    found: Future[tuple[Log, int]] = Future()
    stop, pages = threading.Event(), dict[str, str]()

    async def serve(origin: str) -> None:
        with connect(redis_address) as client:
            folder = tmp_path_factory.mktemp("tracked")
            parts = replace(parts_of(client, f"tracked-{os.getpid()}", folder), now_ms=wall_clock_ms)
            door = Door(Sites.of(f"shop={KEY}", "", is_local=True), Origins.of(origin))
            async with serving(parts, door=door) as port:
                found.set_result((parts.log, port))
                await asyncio.to_thread(stop.wait)

    with shop(pages) as address, browsing(executable) as browser:
        thread = threading.Thread(target=lambda: in_the_servers_loop(serve(address)))
        thread.start()
        try:
            log, port = found.result(30)
            yield World(log, f"http://127.0.0.1:{port}", pages, address, browser)
        finally:
            stop.set()
            thread.join()


@pytest.fixture
def visitor(world: World) -> Iterator[Any]:
    """A browser's context: cookies and storage of its own."""
    context = world.browser.new_context()
    yield context
    context.close()


def test_without_consent_nothing_is_sent_and_nothing_stored(world: World, visitor: Any) -> None:
    button = '<button data-ledstream-item="c-2">A hat</button>'
    address = world.page(
        "/no", f'<p data-ledstream-item="c-1" data-ledstream-event="view">{button}<i data-ledstream-recs>'
    )
    tab, asked = visitor.new_page(), list[str]()
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(address)
    tab.click("button")
    tab.evaluate("ledstream.view('c-3'); ledstream.identify('ana')")
    tab.wait_for_timeout(SETTLED_MS)
    tab.goto("about:blank")
    assert [url for url in asked if "/v1/" in url] == []
    tab.goto(address)
    assert tab.evaluate("[document.cookie, localStorage.length]") == ["", 0]


def test_where_the_browser_asks_for_privacy_consent_is_not_taken(world: World, visitor: Any) -> None:
    visitor.add_init_script("Object.defineProperty(navigator, 'globalPrivacyControl', {value: true})")
    tab, asked = visitor.new_page(), list[str]()
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(world.page("/gpc", ""))
    assert tab.evaluate("[ledstream.consent(true), ledstream.view('g-1')]") == [False, False]
    tab.wait_for_timeout(SETTLED_MS)
    assert [url for url in asked if "/v1/" in url] == []
    assert tab.evaluate("[document.cookie, localStorage.length]") == ["", 0]


def test_attributes_and_calls_become_events_of_one_visitor_until_consent_ends(world: World, visitor: Any) -> None:
    body = """<h1 data-ledstream-item="d-1" data-ledstream-event="view">A hat</h1>
        <button data-ledstream-item="d-2" data-ledstream-event="sale" data-ledstream-value="39.5"><b>Buy</b></button>"""
    tab = visitor.new_page()
    tab.goto(world.page("/hat", body))
    assert tab.evaluate("ledstream.consent(true)")
    tab.click("b")
    tab.evaluate("ledstream.click(17, {context: {colour: 'red'}})")
    until(lambda: all(world.events(item) for item in ("d-1", "d-2", "17")))
    view, sale, click = (world.events(item)[0] for item in ("d-1", "d-2", "17"))
    assert (view.kind, sale.kind, sale.value, click.context) == ("view", "sale", 39.5, {"colour": "red"})
    assert view.user_id == sale.user_id == click.user_id == tab.evaluate("document.cookie.split('=')[1]")
    assert view.user_id.startswith("anon-")
    tab.goto(world.page("/next", '<p data-ledstream-item="d-3" data-ledstream-event="view">'))  # consent is remembered
    world.wait_for("d-3")
    assert tab.evaluate("[ledstream.consent(false), document.cookie, localStorage.length]") == [False, "", 0]


def test_what_was_done_offline_is_delivered_once_and_by_a_later_page_if_need_be(world: World, visitor: Any) -> None:
    address = world.page("/away", "")
    tab = visitor.new_page()
    tab.goto(address)
    tab.evaluate("ledstream.consent(true)")
    visitor.set_offline(True)
    tab.evaluate("ledstream.view('o-1')")
    tab.wait_for_timeout(SETTLED_MS)
    tab.evaluate("ledstream.view('o-2')")
    assert world.events("o-1") == []
    tab.close(run_before_unload=False)
    visitor.set_offline(False)
    tab = visitor.new_page()
    tab.goto(address)
    world.wait_for("o-1")
    visitor.set_offline(True)
    tab.evaluate("ledstream.view('o-3')")
    tab.wait_for_timeout(SETTLED_MS)
    visitor.set_offline(False)
    world.wait_for("o-3")
    tab.wait_for_timeout(SETTLED_MS)
    # A beacon of the page that was closed may have come through beside what the next page sent: the same event twice.
    assert [len({event.event_id for event in world.events(item)}) for item in ("o-1", "o-3")] == [1, 1]
    assert tab.evaluate("Object.keys(localStorage)") == ["ledstream_on"]


def test_leaving_a_page_delivers_what_it_had_gathered(world: World, visitor: Any) -> None:
    tab = visitor.new_page()
    tab.goto(world.page("/leave", ""))
    tab.evaluate("ledstream.consent(true)")
    tab.evaluate("ledstream.click('l-1'); location = 'about:blank'")
    world.wait_for("l-1")
    assert len(world.events("l-1")) == 1


def test_a_try_that_fails_is_repeated_with_the_same_id_and_counts_once(world: World, visitor: Any) -> None:
    tab, tries = visitor.new_page(), list[Any]()
    tab.goto(world.page("/retry", ""))

    def lose(route: Any) -> None:
        tries.append(json.loads(route.request.post_data))
        if len(tries) == 1:
            route.abort()
        elif len(tries) == 2:
            route.fulfill(status=503, body="{}", headers={"access-control-allow-origin": world.address})
        else:
            route.continue_()

    tab.route("**/v1/events*", lose)
    tab.evaluate("ledstream.consent(true); ledstream.view('r-1')")
    world.wait_for("r-1", tab)
    first, second, third = (posted["events"][0]["event_id"] for posted in tries)
    assert first == second == third == world.events("r-1")[0].event_id


def test_who_is_identified_asks_for_the_merge_once_and_is_that_user_from_then_on(world: World, visitor: Any) -> None:
    tab, asked = visitor.new_page(), list[Any]()
    tab.goto(world.page("/login", ""))

    def merge(route: Any) -> None:
        asked.append(json.loads(route.request.post_data))
        route.fulfill(status=202, body="{}", headers={"access-control-allow-origin": world.address})

    tab.route("**/v1/identify*", merge)
    tab.evaluate("ledstream.consent(true); ledstream.view('i-1'); ledstream.identify('eve'); ledstream.view('i-2')")
    world.wait_for("i-2", tab)
    tab.evaluate("ledstream.identify('eve')")
    tab.wait_for_timeout(SETTLED_MS)
    before, after = world.events("i-1")[0], world.events("i-2")[0]
    assert asked == [{"anonymous_id": before.user_id, "user_id": "eve"}]
    assert (before.user_id[:5], after.user_id) == ("anon-", "eve")
    tab.evaluate("ledstream.reset(); ledstream.view('i-3')")
    world.wait_for("i-3", tab)
    assert world.events("i-3")[0].user_id not in (before.user_id, "eve")


def test_a_slot_is_filled_and_what_is_seen_and_clicked_in_it_carries_the_answers_id(world: World, visitor: Any) -> None:
    template = '<template><a href="#{item_id}" title="{score}{nothing}">Take {item_id}</a></template>'
    tab = visitor.new_page()
    tab.goto(world.page("/home", f'<div data-ledstream-recs="home" data-k="3">{template}<p>Our classics</p></div>'))
    assert tab.inner_text("[data-ledstream-recs]") == "Our classics"
    tab.evaluate("document.addEventListener('ledstream:recs', (told) => window.answer = told.detail)")
    tab.evaluate("ledstream.consent(true)")
    tab.wait_for_selector("a")
    answer = tab.evaluate("window.answer")
    items = [item["item_id"] for item in answer["items"]]
    assert [link.get_attribute("href") for link in tab.query_selector_all("a")] == [f"#{item}" for item in items]
    until(lambda: all(world.events(item, IMPRESSIONS) for item in items))
    tab.click("a:nth-of-type(2)")
    until(lambda: any(event.kind == "click" for event in world.events(items[1])))
    (click,) = (event for event in world.events(items[1]) if event.context)
    assert click.context == {"answer": answer["answer_id"], "slot": "home", "place": "1"}
    assert [event.context for event in world.events(items[1], IMPRESSIONS)] == [click.context]


def test_a_slot_that_was_refused_is_asked_for_again_and_shows_what_it_showed_meanwhile(
    world: World, visitor: Any
) -> None:
    tab, tries = visitor.new_page(), list[str]()
    tab.goto(world.page("/busy", '<div data-ledstream-recs data-k="1"><template><a>{item_id}</a></template>Wait</div>'))

    def refuse(route: Any) -> None:
        tries.append(tab.inner_text("[data-ledstream-recs]"))
        if len(tries) == 1:
            route.fulfill(status=503, body='{"error": {}}', headers={"access-control-allow-origin": world.address})
        else:
            route.continue_()

    tab.route("**/v1/slot*", refuse)
    tab.evaluate("ledstream.consent(true)")
    tab.wait_for_selector("a")
    assert tries == ["Wait", "Wait"]


def test_the_page_of_the_guide_works_as_it_stands(world: World, visitor: Any) -> None:
    page, agreed = re.findall(r"```(?:html|js)\n(.*?)```", GUIDE.read_text(), re.DOTALL)[:2]
    world.pages["/guide"] = page.replace("https://rec.example.org", world.server).replace("shop-key-2026", KEY)
    tab = visitor.new_page()
    tab.goto(f"{world.address}/guide")
    tab.evaluate(agreed)
    tab.wait_for_selector("[data-ledstream-recs] a:nth-of-type(4)")
    tab.click("button")
    until(lambda: any(event.value == 39.9 for event in world.events("hat-01")))
    assert {event.kind for event in world.events("hat-01")} >= {"view", "sale"}


def test_the_commands_of_the_guide_are_answered_as_it_says(world: World) -> None:
    if shutil.which("curl") is None:
        missing("no curl")
    commands, _token = re.findall(r"```sh\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    commands = commands.replace("localhost:8080", world.server).replace("shop-key-2026", KEY)
    done = subprocess.run(["bash", "-e"], input=commands, capture_output=True, text=True, check=True)
    assert re.findall(r'"accepted":(\d+),"rejected":0,"failed":0', done.stdout) == ["1", "2", "2"]


def test_the_tracker_is_under_four_kilobytes_as_it_is_served() -> None:
    assert BUILT.stat().st_size < 4096


def test_what_is_served_is_what_its_source_makes_and_its_types_hold(tmp_path: Path) -> None:
    tools = CLIENT / "node_modules/.bin"
    if shutil.which("node") is None or not (tools / "esbuild").exists():
        missing("the tracker is not built here: Node, and `npm ci` in clients/js (`make test` does it where npm is)")
    made = tmp_path / "ledstream.js"
    scripts = json.loads((CLIENT / "package.json").read_text())["scripts"]
    command = scripts["build"].replace("../../serving/collector/ledstream.js", str(made)).split()
    subprocess.run([tools / command[0], *command[1:], "--log-level=error"], cwd=CLIENT, check=True)
    assert made.read_bytes() == BUILT.read_bytes(), "run `npm run build` in clients/js"
    subprocess.run([tools / scripts["types"].split()[0], *scripts["types"].split()[1:]], cwd=CLIENT, check=True)
