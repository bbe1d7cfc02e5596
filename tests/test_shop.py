"""What the demo's shop sells and shows, apart from browsers and servers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from itertools import islice, pairwise
from xml.etree import ElementTree

import pytest
from aiohttp import web

from ledstream.own_system import SystemFailed
from ledstream.shop.pictures import picture_of
from ledstream.shop.products import CATEGORIES, SKINS, Assortment, Product, product_of
from ledstream.shop.stocking import Stocking
from stream.items import accept_item
from stream.simulator import Placed, Simulator, SimulatorSettings


def products() -> list[Product]:
    return [product_of(placed) for placed in Simulator(SimulatorSettings()).on_sale()]


def test_an_item_is_the_same_product_always_and_a_ring_is_a_category() -> None:
    assert products() == products()
    placed = Simulator(SimulatorSettings()).on_sale()
    rings = {one.taste: {product_of(other).category for other in placed if other.taste == one.taste} for one in placed}
    assert sorted(category.name for (category,) in rings.values()) == sorted(category.name for category in CATEGORIES)


def test_neighbours_on_a_ring_look_alike_and_have_names_of_their_own() -> None:
    ring = [product_of(placed) for placed in Simulator(SimulatorSettings()).on_sale()[:40]]
    assert all(other.hue - one.hue == 9 for one, other in pairwise(ring))
    assert len({product.title for product in products()}) == len(products())
    assert {product.skin for product in products()} == set(range(SKINS))


def test_every_picture_is_an_svg_that_needs_nothing_from_elsewhere() -> None:
    for product in islice(products(), 0, None, 13):
        picture = picture_of(product)
        assert ElementTree.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"
        assert set(re.findall(r"https?://[^\"]+", picture)) == {"http://www.w3.org/2000/svg"}
        assert "$" not in picture
        assert set(re.findall(r"url\(#(\w+)\)", picture)) <= set(re.findall(r'id="(\w+)"', picture))


def test_what_is_retired_is_no_longer_on_sale_and_still_known() -> None:
    assortment = Assortment()
    hat, mug = Placed("item-00281", 7, 1, 40), Placed("item-00002", 0, 2, 40)
    new, gone = assortment.change([hat, mug])
    assert ([one.item_id for one in new], gone) == ([hat.item_id, mug.item_id], [])
    assert assortment.change([hat, mug]) == ([], [])
    heir = Placed("item-01000", 0, 2, 40)
    new, gone = assortment.change([hat, heir])
    assert ([one.item_id for one in new], [one.item_id for one in gone]) == (["item-01000"], ["item-00002"])
    assert not assortment.is_on_sale("item-00002")
    assert assortment.find("item-00002") == product_of(mug)
    assert [one.item_id for one in assortment.of_category(CATEGORIES[0])] == ["item-01000"]


Answer = Callable[[web.Request], Awaitable[web.Response]]


def told(answer: Answer, *, for_s: float) -> None:
    """Stock a catalogue that answers so, for a moment."""

    async def story() -> None:
        app = web.Application()
        app.router.add_put("/v1/items", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        stocking = Stocking(
            Assortment(), "http://shop", f"http://{host}:{port}", Simulator(SimulatorSettings()), look_every_s=0.05
        )
        try:
            await asyncio.wait_for(stocking.follow(), for_s)
        except TimeoutError:
            pass
        finally:
            await runner.cleanup()

    asyncio.run(story())


def test_the_catalogue_is_told_every_product_until_it_has_taken_it() -> None:
    puts: list[list[str]] = []

    async def busy_then_choosy(request: web.Request) -> web.Response:
        items = [accept_item(raw).item_id for raw in (await request.json())["items"]]
        puts.append(items)
        if len(puts) == 1:
            return web.Response(status=503)
        verdicts = [{"status": "failed" if len(puts) == 2 and place < 2 else "accepted"} for place in range(len(items))]
        return web.json_response({"verdicts": verdicts}, status=202)

    told(busy_then_choosy, for_s=0.8)
    assert [len(items) for items in puts] == [1000, 1000, 2]
    assert puts[2] == puts[1][:2]


def test_a_catalogue_that_refuses_a_product_ends_the_stocking_with_its_words() -> None:
    async def strict(_: web.Request) -> web.Response:
        return web.json_response({"error": {"field": "items", "reason": "too many"}}, status=400)

    with pytest.raises(SystemFailed, match=r"400 .*too many"):
        told(strict, for_s=0.8)
