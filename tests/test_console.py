"""The console in a real browser: what it shows is so, and what is done in it happens."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import serving.console
from stream.announcements import read_announcement
from stream.bad_rows import read_replayed
from tests.accessibility import violations
from tests.browser import browsing, chromium
from tests.conftest import missing
from tests.console_world import Console, console
from tests.eventually import until

KEY = "console-admin-key"
VIEWS = {  # with what is there once all is
    "live": ".plot path",
    "users": ".event",
    "users/ana": ".why",
    "items": "canvas[aria-label*='60 items']",
    "items/hat-04": "meter",
    "releases": ".compare",
    "trouble": "#panel-badrows tbody",
    "training": ".plot .dot",
}
FILES = sorted(
    path for path in Path(serving.console.__file__).parent.iterdir() if path.suffix in (".js", ".css", ".html")
)
WAITED_MS = 8000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = chromium()
    if executable is None:
        missing("no Chromium: Debian's package `chromium`, or LEDSTREAM_TEST_CHROMIUM=/path/to/one")
    with browsing(executable) as browser:
        yield browser


@pytest.fixture(scope="module")
def world(redis_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    with console(redis_address, f"console-{os.getpid()}", tmp_path_factory.mktemp("console")) as world:
        yield world


@contextmanager
def page_of(browser: Any, *, expected: str = "^$", **more: Any) -> Iterator[Any]:
    """A page of a visitor of its own, who sees no error and breaks no policy. expected: what is no error."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **more)
    context.set_default_timeout(WAITED_MS)
    page, errors = context.new_page(), list[str]()
    page.on("console", lambda told: errors.append(told.text) if told.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    try:
        yield page
    finally:
        context.close()
    assert not [error for error in errors if not re.search(expected, error)]


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    with page_of(browser) as page:
        yield page


@pytest.fixture
def shown(world: Console, page: Any) -> Callable[[str], Any]:
    """The page at a view."""

    def at(view: str) -> Any:
        page.goto(f"{world.address}/console#/{view}")
        page.wait_for_selector("main h1")
        return page

    return at


def wait(page: Any, is_so: Callable[[], bool]) -> None:
    """Returns once it is so; the page goes on meanwhile, which it does only while it is asked something."""
    until(lambda: bool(page.wait_for_timeout(50)) or is_so(), WAITED_MS / 1000)


def answer(page: Any, verb: str) -> None:
    """What the page asks."""
    page.click(f"dialog[open] button:text-is('{verb}')")


def test_the_address_of_the_server_leads_to_figures_that_live(world: Console, page: Any) -> None:
    page.goto(world.address)
    assert page.url.startswith(f"{world.address}/console")
    tiles = page.locator(".tile")
    assert tiles.count() == 8
    wait(page, lambda: page.locator(".tile .spark path").count() > 4)
    world.view("dot", *[f"hat-{n:02}" for n in range(20)])
    events = page.locator(".tile:has(.label:text-is('Events')) .value")
    wait(page, lambda: float(events.inner_text()) > 0)
    fresh = page.locator(".tile:has(.label:text-is('Freshness p99')) .value")
    wait(page, lambda: "ms" in fresh.inner_text())
    page.wait_for_selector("table:has-text('timelines') .badge:text-is('running')")
    assert page.inner_text("#state") == "healthy"


def test_a_server_that_does_not_answer_is_told_and_what_was_known_stays(world: Console, browser: Any) -> None:
    with page_of(browser, expected="ERR_FAILED") as page:
        page.goto(f"{world.address}/console#/live")
        page.wait_for_selector("#state .good")
        page.route("**/v1/console/live", lambda route: route.abort())
        page.wait_for_selector("main [role=alert]:has-text('does not answer')")
        assert page.inner_text("#state") == "no answer"
        assert page.locator(".tile", has_text="Users alive").locator(".value").inner_text() != "–"


def test_a_user_is_looked_up_with_reasons_and_an_event_that_is_struck_changes_the_list(
    world: Console, shown: Callable[[str], Any]
) -> None:
    world.view("cleo", "hat-02", "hat-03", "belt-05", "belt-06")
    page = shown("users")
    page.fill("input[type=search]", "cleo")
    page.press("input[type=search]", "Enter")
    page.wait_for_selector("h2:text-is('cleo')")
    entries = page.locator("[aria-label='Timeline, newest first'] > li")
    wait(page, lambda: entries.count() == 4)
    before = page.locator(".ranked .names").all_inner_texts()
    assert len(before) == 10
    assert page.locator(".why").count() == 10
    page.locator(".why summary").first.click()
    told = page.locator(".why table").first.inner_text()
    assert page.locator("li .mark.key").count() == 4  # each event has its colour on both sides
    assert "bias of the item" in told
    assert "belt-05" in told
    entries.filter(has_text="belt-06").locator("button").click()
    answer(page, "Strike")
    wait(page, lambda: entries.count() == 3)
    wait(page, lambda: page.locator(".ranked .names").all_inner_texts() != before)
    assert [entry["item_id"] for entry in world.ask("GET", "/v1/users/cleo")["timeline"]].count("belt-06") == 0


def test_a_user_is_erased_once_that_is_confirmed(world: Console, browser: Any) -> None:
    world.view("finn", "hat-02", "hat-03")
    with page_of(browser, expected="404") as page:
        page.goto(f"{world.address}/console#/users/finn")
        page.click("button:text-is('Erase…')")
        answer(page, "Cancel")
        assert page.locator("[aria-label='Timeline, newest first'] > li").count() == 2
        page.click("button:text-is('Erase…')")
        answer(page, "Erase")
        page.wait_for_selector("text=Nobody knows this user")
        assert '"user": "finn"' in page.inner_text("pre")


def test_an_item_is_found_and_shown_with_what_is_like_it(world: Console, shown: Callable[[str], Any]) -> None:
    page = shown("items")
    page.fill("input[type=search]", "number 04")
    page.press("input[type=search]", "Enter")
    page.click("a:has-text('Hat number 04')")
    page.wait_for_selector("h2:text-is('Hat number 04')")
    assert "29.90 EUR" in page.inner_text(".facts")
    page.wait_for_selector("li:has(meter)")
    similar = [item["item_id"] for item in world.ask("GET", "/v1/items/hat-04/similar?k=12")["items"]]
    assert page.locator("li:has(meter) .id").all_inner_texts() == similar
    page.wait_for_selector("canvas[aria-label*='hat-04']")
    page.click(f"li:has(meter) >> text='{similar[0]}'")
    page.wait_for_selector(f".head:has-text('{similar[0]}') img")
    page.click("button:text-is('28 days')")
    page.wait_for_selector("figure:has(button[aria-pressed=true]:text-is('28 days'))")


def test_what_the_catalogue_says_is_shown_whole_and_anew_after_half_a_minute(
    world: Console, shown: Callable[[str], Any]
) -> None:
    page = shown("users/ana")
    page.wait_for_selector(".event .title:text-is('Hat number 21')")
    told = {"title": "Bowler", "url": "/hats/30", "price": 1234.5, "currency": "EUR", "stock": 12000, "brand": "Miller"}
    world.ask("PUT", "/v1/items", json={"items": [{"item_id": "hat-21", **told}]})
    until(lambda: world.ask("GET", "/v1/items/hat-21")["title"] == "Bowler", WAITED_MS / 1000)
    page.evaluate("() => { const now = Date.now; Date.now = () => now() + 30_000; }")
    page.click("button:text-is('Look again')")
    page.locator(".event .title:text-is('Bowler')").first.click()
    page.wait_for_selector("h2:text-is('Bowler')")
    facts = [page.locator(f".facts {part}").all_inner_texts() for part in ("dt", "dd")]
    shown_facts = dict(zip(*facts, strict=True))
    assert shown_facts == {"price": "1,234.50 EUR", "stock": "12,000", "url": "/hats/30", "brand": "Miller"}
    assert page.locator(".facts a").count() == 0, "a server cannot know which site it is of"


def test_an_address_typed_by_hand_is_looked_up_as_it_is(browser: Any, world: Console) -> None:
    with page_of(browser, expected="40[04]") as page:
        page.goto(f"{world.address}/console#/items/100%")
        page.wait_for_selector("h2:text-is('100%')")


def test_what_a_shop_writes_is_text_and_fits_a_phone(browser: Any, world: Console) -> None:
    evil, long = "<img src=x onerror=alert(1)>", "x" * 128
    items = [{"item_id": evil, "title": evil, "category": evil}, {"item_id": long, "title": "W" * 256}]
    world.ask("PUT", "/v1/items", json={"items": items})
    until(lambda: bool(world.ask("GET", f"/v1/items?q={long}")["items"]), WAITED_MS / 1000)
    with page_of(browser, expected="404") as page:
        page.set_viewport_size({"width": 320, "height": 700})
        for item_id, title in ((long, "W" * 256), (evil, evil)):
            page.goto(f"{world.address}/console#/items/{quote(item_id)}")
            page.wait_for_selector(f"h2:text-is('{title}')")
            assert page.evaluate("document.documentElement.scrollWidth") <= 320
            assert page.locator("img[src=x]").count() == 0


def test_releases_are_compared_tried_promoted_and_rolled_back_from_the_page(
    world: Console, shown: Callable[[str], Any]
) -> None:
    first, second, refused = world.versions
    page = shown("releases")
    page.wait_for_selector(f"tr[data-version='{second}'] .badge:text-is('current')")
    assert "recall of the newest events" in page.inner_text(f"tr[data-version='{refused}']")
    page.check(f"tr[data-version='{refused}'] input")
    assert page.locator(".compare thead th").count() == 3
    page.click(f"tr[data-version='{refused}'] button.plain")
    page.wait_for_selector("tr.opened:has-text('recall@20 .29, champion .31')")

    page.click(f"tr[data-version='{first}'] button:text-is('Try…')")
    answer(page, "Begin")
    page.wait_for_selector("h2:has-text('On trial')")
    page.click("button:text-is('Promote')")
    answer(page, "Promote")
    page.wait_for_selector(f"tr[data-version='{first}'] .badge:text-is('current')")

    page.click("#rollback")
    answer(page, "Roll back")
    page.wait_for_selector(f"tr[data-version='{second}'] .badge:text-is('current')")
    announced = read_announcement(world.log)
    assert announced is not None
    assert (announced.version, announced.canary) == (second, None)


def test_bad_rows_and_dead_letters_are_listed_with_reasons_and_sent_again(
    world: Console, shown: Callable[[str], Any]
) -> None:
    page = shown("trouble")
    page.wait_for_selector("td:has-text('known kinds are')")
    page.fill("#filter-badrows", "wink")
    wait(page, lambda: page.locator("#panel-badrows tbody tr").count() == 1)
    page.check("[aria-label='Select 0']")
    page.click("#panel-badrows button:text-is('Replay selected (1)')")
    page.wait_for_selector("tr.outcome:has-text('known kinds are')")
    assert read_replayed(world.log) == set()  # what is still bad is not sent
    page.press("#tab-badrows", "ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-deadletters"
    page.click("#panel-deadletters button:has-text('Replay all (3)')")
    answer(page, "Replay")
    page.wait_for_selector("#panel-deadletters .badge:has-text('replayed to events/')")


def test_curves_are_read_by_arrow_keys(shown: Callable[[str], Any]) -> None:
    page = shown("training")
    chart = page.locator("figure", has_text="Training loss").locator(".plot")
    chart.focus()
    assert chart.locator("text").all_text_contents()[-4:] == ["epoch 0", "epoch 4", "epoch 8", "epoch 12"]
    page.keyboard.press("End")
    assert page.locator("figure", has_text="Training loss").locator("[aria-live]").inner_text().startswith("epoch 12")
    page.keyboard.press("ArrowLeft")
    assert page.locator("figure", has_text="Training loss").locator(".tip").inner_text().startswith("epoch 11")


def test_the_first_tab_stop_leads_past_the_navigation(shown: Callable[[str], Any]) -> None:
    page = shown("live")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    assert page.url.endswith("#/live")


def test_without_the_key_figures_are_shown_users_are_not_and_a_wrong_key_is_told(
    browser: Any, redis_address: str, tmp_path: Path
) -> None:
    with (
        console(redis_address, f"console-keyed-{os.getpid()}", tmp_path, admin_key=KEY) as world,
        page_of(browser, expected="401") as page,
    ):
        page.goto(f"{world.address}/console#/live")
        page.wait_for_selector("#state .badge:text-is('healthy')")
        page.goto(f"{world.address}/console#/users/ana")
        page.click(".empty button:text-is('Enter the key')")
        for wrong in ("another-key", "ключ"):
            page.fill("#key-input", wrong)
            page.click("dialog[open] button:text-is('Use it')")
            page.wait_for_selector("#key-wrong:text-is('That is not the admin key of this server.')")
            page.fill("#key-input", "")
        page.fill("#key-input", KEY)
        page.press("#key-input", "Enter")
        page.wait_for_selector("[aria-label='Timeline, newest first'] > li")
        assert page.evaluate("[Object.values(sessionStorage), document.cookie]") == [[KEY], ""]
        assert KEY not in page.evaluate("JSON.stringify(localStorage)")
        page.click("#access:text-is('Forget the key')")
        page.wait_for_selector(".empty:has-text('This needs the admin key')")
        assert page.evaluate("sessionStorage.length") == 0


def test_no_view_has_a_barrier_in_either_theme_and_all_fit_a_phone(shown: Callable[[str], Any]) -> None:
    for view, there in VIEWS.items():
        page = shown(view)
        page.wait_for_selector(f"main {there}", state="attached")
        page.set_viewport_size({"width": 1280, "height": 900})
        page.emulate_media(color_scheme="light")
        assert violations(page) == [], view
        page.emulate_media(color_scheme="dark")
        for width in (400, 320):
            page.set_viewport_size({"width": width, "height": 700})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, view
        assert violations(page) == [], view


def test_the_theme_is_chosen_once_and_kept(shown: Callable[[str], Any]) -> None:
    page = shown("live")
    seen = []
    for _ in range(2):
        page.click("#theme")
        seen.append(page.evaluate("getComputedStyle(document.documentElement).colorScheme"))
    page.reload()
    assert seen == ["light", "dark"]
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_the_page_is_small_parts_and_names_no_other_host() -> None:
    assert FILES
    for path in FILES:
        text = path.read_text()
        assert text.count("\n") < 400, path.name
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|\bstyle=", text), (
            path.name
        )
