"""Visits to the demo's shop in a real browser: what is recommended follows what is done, and only after a yes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.accessibility import violations
from tests.browser import browsing, chromium
from tests.conftest import missing
from tests.eventually import until
from tests.shop_world import World, shop_world

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1360, "height": 900}
SETTLED_MS = 900  # longer than the tracker gathers events


@dataclass
class Visit:
    """A visitor with a browser's cookies and storage, and all that their pages asked for or complained of."""

    world: World
    context: Any
    tab: Any
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def go(self, path: str) -> None:
        self.tab.goto(self.world.shop + path)

    def agree(self) -> None:
        self.tab.click("#consent [data-consent=on]")

    def like(self, place: int) -> str:
        """The item at that place of a page's list."""
        heart = self.tab.locator(".card .like").nth(place)
        heart.click()
        return str(heart.get_attribute("data-ledstream-item"))

    @property
    def user(self) -> str:
        cookies = {cookie["name"]: cookie["value"] for cookie in self.context.cookies()}
        return str(cookies.get("ledstream_user") or cookies.get("ledstream_id", ""))

    @property
    def recommended(self) -> list[str]:
        return [str(title) for title in self.tab.locator("#recommended .title").all_inner_texts()]

    def wait_for(self, sentence: str) -> None:
        """Returns once the list says so of itself."""
        self.tab.wait_for_function(
            "(words) => document.querySelector('#told').textContent.includes(words)", arg=sentence
        )

    def did(self) -> list[tuple[str, str]]:
        """Item and kind of the timeline, oldest first."""
        events = sorted(self.world.timeline(self.user), key=lambda event: int(event["time_ms"]))
        return [(str(event["item_id"]), str(event["kind"])) for event in events]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = chromium()
    if executable is None:
        missing("no Chromium: Debian's package `chromium`, or LEDSTREAM_TEST_CHROMIUM=/path/to/one")
    with browsing(executable) as browser:
        yield browser


@pytest.fixture(scope="module")
def world(redis_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with shop_world(redis_address, f"shop-{os.getpid()}", tmp_path_factory.mktemp("shop")) as world:
        yield world


@pytest.fixture
def visit(world: World, browser: Any) -> Iterator[Visit]:
    context = browser.new_context(viewport=DESK, reduced_motion="reduce")
    visit = Visit(world, context, context.new_page())
    visit.tab.on("request", lambda request: visit.asked.append(request.url))
    visit.tab.on("console", lambda said: visit.complaints.append(said.text) if said.type == "error" else None)
    visit.tab.on("pageerror", lambda error: visit.complaints.append(str(error)))
    yield visit
    context.close()


def test_what_is_liked_changes_what_is_recommended_and_the_console_shows_both(visit: Visit) -> None:
    visit.go("/categories/mugs")
    visit.agree()
    visit.wait_for("What everybody likes")
    mugs = [visit.like(place) for place in (4, 5, 6)]
    visit.wait_for("after your like")
    until(lambda: bool(visit.tab.wait_for_timeout(50)) or all(" mug, " in title for title in visit.recommended[:5]))
    visit.go("/categories/lamps")
    visit.wait_for("Chosen for you")
    assert not [title for title in visit.recommended if " lamp, " in title]
    lamps = [visit.like(place) for place in (20, 21, 22)]
    last = visit.tab.locator(".card .title").nth(22).inner_text()
    visit.wait_for("after your like")
    until(lambda: bool(visit.tab.wait_for_timeout(50)) or any(" lamp, " in title for title in visit.recommended))
    assert visit.tab.locator("#recommended .new").count() > 0
    until(lambda: visit.did() == [(item, "click") for item in mugs + lamps])
    assert visit.complaints == []
    with visit.context.expect_page() as opened:
        visit.tab.click("#console")
    console = opened.value
    console.wait_for_selector(f"text={visit.user}")
    console.wait_for_function("(title) => document.querySelector('main').innerText.includes(title)", arg=last)
    console.wait_for_function(
        "(title) => document.querySelector('main').innerText.includes(title)", arg=visit.recommended[0]
    )


def test_a_product_page_is_a_view_its_button_a_sale_and_both_change_the_list_on_it(visit: Visit) -> None:
    visit.go("/items/item-00125")
    visit.agree()
    visit.wait_for("after you opened this page")
    assert all(" plant, " in title for title in visit.recommended[:5])
    visit.tab.click(".buy")
    visit.wait_for("after your purchase")
    assert "Thank you" in visit.tab.inner_text("#thanks")
    until(lambda: visit.did() == [("item-00125", "view"), ("item-00125", "sale")])
    visit.tab.locator("#recommended a").first.click()
    visit.wait_for("after you opened this page")
    until(lambda: [kind for _, kind in visit.did()] == ["view", "sale", "click", "view"])
    assert visit.complaints == []


def test_reasons_name_what_was_done_and_add_up_to_the_score(visit: Visit) -> None:
    visit.go("/categories/lamps")
    visit.agree()
    visit.like(7)
    visit.wait_for("after your like")
    visit.go("/items/item-00050")
    visit.wait_for("after you opened this page")
    visit.tab.click("#why")
    visit.tab.wait_for_selector("#recommended .row:first-child .why")
    lines = visit.tab.locator("#recommended .row:first-child .why li").all_inner_texts()
    assert any(line.startswith("liked ") for line in lines)
    assert any(line.startswith("viewed ") for line in lines)
    *parts, score = [float(line.split()[-1].replace("−", "-")) for line in lines]
    assert sum(parts) == pytest.approx(score, abs=0.003), "each is rounded"
    visit.tab.click("#why")
    assert visit.tab.locator(".why").count() == 0
    assert visit.complaints == []


def test_an_event_that_is_rejected_and_reasons_that_nobody_can_give_are_told(visit: Visit) -> None:
    visit.go("/categories/lamps")
    visit.agree()
    visit.wait_for("What everybody likes")
    visit.tab.evaluate("document.querySelector('.card .like').dataset.ledstreamEvent = 'wink'")
    visit.like(0)
    visit.wait_for("did not take your like: kind: known kinds are")
    visit.context.set_offline(True)
    visit.tab.click("#why")
    visit.wait_for("no reasons to show now")
    assert [complaint for complaint in visit.complaints if "ERR_INTERNET" not in complaint] == []


def test_without_a_yes_the_recommender_hears_nothing_and_nothing_is_stored(visit: Visit) -> None:
    visit.go("/")
    assert visit.tab.is_visible("#consent")
    visit.tab.click("#consent [data-consent=no]")
    for path in ("/categories/mugs", "/items/item-00003", "/search?q=mug"):
        visit.go(path)
        assert not visit.tab.is_visible("#consent"), "who was asked is not asked again"
        visit.tab.locator(".like").first.click()
    visit.tab.click(".account summary")
    visit.tab.fill("#user", "ana")
    visit.tab.click("#sign-in button")
    visit.tab.wait_for_timeout(SETTLED_MS)
    visit.go("/")
    assert {url for url in visit.asked if url.startswith(visit.world.server)} == {f"{visit.world.server}/ledstream.js"}
    assert {url for url in visit.asked if not url.startswith((visit.world.shop, visit.world.server))} == set()
    assert visit.tab.evaluate("[document.cookie, localStorage.length]") == ["", 0]


def test_a_browser_that_asks_for_privacy_is_told_so_and_not_asked(visit: Visit) -> None:
    visit.context.add_init_script("Object.defineProperty(navigator, 'globalPrivacyControl', {value: true})")
    visit.go("/items/item-00003")
    assert "Global Privacy Control" in visit.tab.inner_text("#consent")
    assert visit.tab.locator("[data-consent=on]:visible").count() == 0
    visit.tab.click(".buy")
    visit.tab.wait_for_timeout(SETTLED_MS)
    assert [url for url in visit.asked if "/v1/" in url] == []
    assert visit.tab.evaluate("[document.cookie, localStorage.length]") == ["", 0]


def test_who_turns_recommendations_off_again_is_forgotten_by_the_browser(visit: Visit) -> None:
    visit.go("/categories/mugs")
    visit.agree()
    visit.like(2)
    visit.wait_for("after your like")
    visit.tab.click("#visitor [data-consent=off]")
    assert visit.recommended == []
    assert visit.tab.evaluate("[document.cookie, localStorage.length]") == ["", 0]


def test_what_was_liked_offline_is_in_the_timeline_once_after_the_browser_is_online_again(visit: Visit) -> None:
    visit.go("/categories/mugs")
    visit.agree()
    visit.wait_for("What everybody likes")
    visit.context.set_offline(True)
    liked = visit.like(9)
    visit.tab.wait_for_timeout(SETTLED_MS)
    assert visit.did() == []
    visit.context.set_offline(False)
    until(lambda: visit.tab.wait_for_timeout(50) or visit.did() == [(liked, "click")])
    visit.tab.wait_for_timeout(SETTLED_MS)
    assert visit.did() == [(liked, "click")]


def test_who_signs_in_keeps_what_was_liked_before_and_who_signs_out_is_new(visit: Visit) -> None:
    visit.go("/categories/sneakers")
    visit.agree()
    liked = [visit.like(place) for place in (3, 4)]
    visit.wait_for("after your like")
    visitor = visit.user
    visit.tab.click(".account summary")
    visit.tab.fill("#user", "ana")
    visit.tab.click("#sign-in button")
    visit.wait_for("after you became ana")
    assert (visit.user, visit.tab.inner_text("#name")) == ("customer-ana", "ana")
    assert all(" sneaker, " in title for title in visit.recommended[:5])
    assert visit.did() == [(item, "click") for item in liked]
    until(lambda: visit.world.timeline(visitor) == [])
    visit.tab.click(".account summary")
    visit.tab.click("#sign-out button")
    visit.wait_for("What everybody likes")
    assert visit.user not in ("customer-ana", visitor)


@pytest.mark.parametrize(
    ("scheme", "paths"),
    [
        ("light", ["/", "/departments/kitchen", "/items/item-00003", "/search?q=mug", "/nowhere"]),
        ("dark", ["/items/item-00003"]),  # other colours alone
    ],
)
def test_pages_have_no_barriers_that_axe_knows_and_fit_a_phone(
    world: World, browser: Any, scheme: str, paths: list[str]
) -> None:
    context = browser.new_context(viewport=PHONE, color_scheme=scheme, reduced_motion="reduce")
    tab = context.new_page()
    found = []
    for path in paths:
        tab.goto(world.shop + path)
        found += [f"{path}: {violation}" for violation in violations(tab)]
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
    tab.click("#consent [data-consent=on]")
    tab.wait_for_selector("#recommended .row")
    tab.set_viewport_size(DESK)
    found += [f"with recommendations: {violation}" for violation in violations(tab)]
    context.close()
    assert found == []
