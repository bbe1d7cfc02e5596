"""The shop's web server, on an address of its own, as shops have: pages, pictures, and questions to the recommender.

It holds what the shop sells. What visitors do goes from their browsers to the recommender, past it.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

import aiohttp
import orjson
from aiohttp import web

from ledstream.shop.pages import DEPARTMENTS, Pages
from ledstream.shop.pictures import picture_of
from ledstream.shop.products import CATEGORIES, Assortment, Product

FILES = {"shop.css": "text/css", "shop.js": "text/javascript", "shop.svg": "image/svg+xml"}
POPULAR, SIMILAR, OF_A_CATEGORY, FOUND = 12, 8, 8, 24
PATIENCE_S = 1.0  # of a page for the recommender, without which it is shown as well
_Page = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def opened_shop(assortment: Assortment, address: str, server: str) -> AsyncIterator[None]:
    """The shop listens at its address meanwhile. server: the recommender's, which may answer later or never."""
    at = urlsplit(address)
    async with aiohttp.ClientSession(server, timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as session:
        runner = web.AppRunner(Site(assortment, address, server, session).app(), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, at.hostname, at.port).start()
            yield
        finally:
            await runner.cleanup()


class Site:
    """address: the shop's own. session: for questions to the recommender at server."""

    def __init__(self, assortment: Assortment, address: str, server: str, session: aiohttp.ClientSession) -> None:
        self._assortment, self._address, self._session = assortment, address, session
        self._pages, self._other_name = Pages(server), f"localhost:{urlsplit(address).port}"
        self._policy = "; ".join(
            [
                *("default-src 'none'", f"script-src 'self' {server}", "style-src 'self'", "img-src 'self'"),
                *(f"connect-src 'self' {server}", "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"),
            ]
        )

    def app(self) -> web.Application:
        """All that the shop answers."""
        app = web.Application(middlewares=[self._finish])
        app.router.add_get("/", self._home)
        app.router.add_get("/departments/{name}", self._department)
        app.router.add_get("/categories/{slug}", self._category)
        app.router.add_get("/items/{item_id}", self._product)
        app.router.add_get("/search", self._search)
        app.router.add_get("/why", self._why)
        app.router.add_get("/pictures/{item_id}.svg", self._picture)
        for name in FILES:
            app.router.add_get(f"/{name}", self._file)
        return app

    @web.middleware
    async def _finish(self, request: web.Request, handler: _Page) -> web.StreamResponse:
        if request.host == self._other_name:  # to a browser another site, with other cookies
            raise web.HTTPTemporaryRedirect(self._address + request.path_qs)
        try:
            response = await handler(request)
        except web.HTTPNotFound:
            response = _html(self._pages.missing(), 404)
        response.headers["content-security-policy"] = self._policy
        response.headers["x-content-type-options"] = "nosniff"
        response.headers["referrer-policy"] = "no-referrer"
        return response

    async def _home(self, _: web.Request) -> web.Response:
        nobody = f"nobody-{secrets.token_hex(8)}"  # is shown what is popular
        popular = await self._products(f"/v1/recommendations?user={nobody}&k={POPULAR}")
        shown = {
            category: products[place * 7 % len(products)]
            for place, category in enumerate(CATEGORIES)
            if (products := self._assortment.of_category(category))
        }
        return _html(self._pages.home(popular, shown))

    async def _department(self, request: web.Request) -> web.Response:
        for name in DEPARTMENTS:
            if name.lower() == request.match_info["name"]:
                sections = [
                    (
                        f'<a href="/categories/{category.slug}">{category.name}</a>',
                        _some(self._assortment.of_category(category), OF_A_CATEGORY),
                    )
                    for category in CATEGORIES
                    if category.department == name
                ]
                return _html(self._pages.listing(name, sections))
        raise web.HTTPNotFound

    async def _category(self, request: web.Request) -> web.Response:
        for category in CATEGORIES:
            if category.slug == request.match_info["slug"]:
                sections = [("", self._assortment.of_category(category))]
                return _html(self._pages.listing(category.name, sections))
        raise web.HTTPNotFound

    async def _product(self, request: web.Request) -> web.Response:
        product = self._found(request)
        similar = await self._products(f"/v1/items/{quote(product.item_id, safe='')}/similar?k={SIMILAR}")
        is_on_sale = self._assortment.is_on_sale(product.item_id)
        return _html(self._pages.product(product, similar, is_on_sale=is_on_sale))

    async def _search(self, request: web.Request) -> web.Response:
        query = request.query.get("q", "")[:80].strip()
        found = await self._products(f"/v1/items?q={quote(query, safe='')}&k={FOUND}") if query else []
        return _html(self._pages.listing(f"Search: {query}" if query else "Search", [("", found)], query))

    async def _why(self, request: web.Request) -> web.Response:
        """Reasons for what is recommended to who asks, and the names of products in them.

        They tell what somebody did, so that the recommender tells them to servers alone: this one asks for whom the
        visitor's own cookie names. (A shop with accounts would ask for whom it has signed in.)
        """
        cookies = request.cookies
        user = unquote(cookies.get("ledstream_user") or cookies.get("ledstream_id") or "")
        wanted = {name: request.query.get(name, "") for name in ("k", "exclude")}
        query = urlencode({"user": user, **wanted, "explain": "true"})
        items = await self._answer(f"/v1/recommendations?{query}") if user else []
        events = [event for item in items for event in item.get("reasons", {}).get("events", ())]
        found = {event["item_id"]: self._assortment.find(event["item_id"]) for event in events if event["item_id"]}
        titles = {item_id: product.title for item_id, product in found.items() if product}
        return web.Response(body=orjson.dumps({"items": items, "titles": titles}), content_type="application/json")

    async def _picture(self, request: web.Request) -> web.Response:
        picture = picture_of(self._found(request))
        return web.Response(text=picture, content_type="image/svg+xml", headers={"cache-control": "max-age=86400"})

    async def _file(self, request: web.Request) -> web.Response:
        name = request.path.removeprefix("/")
        text = Path(__file__).with_name(name).read_text(encoding="utf-8")
        return web.Response(text=text, content_type=FILES[name], headers={"cache-control": "no-cache"})

    def _found(self, request: web.Request) -> Product:
        product = self._assortment.find(request.match_info["item_id"])
        if product is None:
            raise web.HTTPNotFound
        return product

    async def _products(self, path: str) -> list[Product]:
        """Those of an answer of the recommender."""
        found = [self._assortment.find(item["item_id"]) for item in await self._answer(path)]
        return [product for product in found if product is not None]

    async def _answer(self, path: str) -> list[dict[str, Any]]:
        """Items of an answer of the recommender; none where it does not answer, or not yet."""
        try:
            async with self._session.get(path) as response:
                if response.status != 200:
                    return []
                items: list[dict[str, Any]] = orjson.loads(await response.read())["items"]
        except (aiohttp.ClientError, TimeoutError):
            return []
        return items


def _html(page: str, status: int = 200) -> web.Response:
    return web.Response(text=page, status=status, content_type="text/html", headers={"cache-control": "no-store"})


def _some(products: Sequence[Product], count: int) -> Sequence[Product]:
    """As many, evenly from the first to the last."""
    return [products[place * len(products) // count] for place in range(min(count, len(products)))]
