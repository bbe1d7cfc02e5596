"""What the shop sells, told to the recommender's catalogue: all of it at first, then what is new and what is gone."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import aiohttp
import orjson

from ledstream.own_system import SystemFailed
from ledstream.shop.products import Assortment, Product
from stream.simulator import Simulator

ITEMS_AT_ONCE = 1000  # as many as a PUT may hold
BUSY = (429, 503)


class Stocking:
    """shop, server: addresses, of the pages that the catalogue names and of the catalogue."""

    def __init__(
        self,
        assortment: Assortment,
        shop: str,
        server: str,
        simulator: Simulator,
        *,
        look_every_s: float = 2.0,
    ) -> None:
        self._assortment, self._shop, self._server, self._simulator = assortment, shop, server, simulator
        self._look_every_s = look_every_s

    async def follow(self) -> None:
        """Keep shop and catalogue as the simulator's world is, until cancelled. Raises SystemFailed."""
        untold: dict[str, dict[str, Any]] = {}
        async with aiohttp.ClientSession(self._server, timeout=aiohttp.ClientTimeout(total=10)) as session:
            while True:
                new, gone = self._assortment.change(self._simulator.on_sale())
                untold |= {one.item_id: self._described(one, stock=9) for one in new}
                untold |= {one.item_id: self._described(one, stock=0) for one in gone}
                with suppress(aiohttp.ClientError, TimeoutError):  # the next look tries again
                    await self._tell(session, untold)
                await asyncio.sleep(self._look_every_s)

    async def _tell(self, session: aiohttp.ClientSession, untold: dict[str, dict[str, Any]]) -> None:
        """Tell what is untold, as far as one PUT goes; what was taken is untold no more. Raises SystemFailed."""
        items = list(untold.values())[:ITEMS_AT_ONCE]
        if not items:
            return
        headers = {"content-type": "application/json"}
        async with session.put("/v1/items", data=orjson.dumps({"items": items}), headers=headers) as response:
            body = await response.read()
        if response.status in BUSY:
            return
        verdicts = orjson.loads(body)["verdicts"] if response.status == 202 else []
        if not verdicts or any(verdict["status"] == "rejected" for verdict in verdicts):
            raise SystemFailed(f"PUT /v1/items: {response.status} {body[:200].decode(errors='replace')}")
        for item, verdict in zip(items, verdicts, strict=True):
            if verdict["status"] == "accepted":
                del untold[item["item_id"]]

    def _described(self, product: Product, *, stock: int) -> dict[str, Any]:
        return {
            "item_id": product.item_id,
            "title": product.title,
            "url": f"{self._shop}/items/{product.item_id}",
            "image": f"{self._shop}/pictures/{product.item_id}.svg",
            "category": product.category.name,
            "price": round(product.price, 2),
            "currency": "EUR",
            "stock": stock,
        }
