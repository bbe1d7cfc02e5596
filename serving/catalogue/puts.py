"""`PUT /v1/items`: from a body to a verdict on each item, and the good ones to the topic."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from serving.posts import Verdicts
from serving.publisher import Publisher
from serving.refusals import Refused
from stream.items import DELETED, ITEMS_PER_PUT, InvalidItem, Item, accept_item
from stream.spool import Addressed
from stream.topics import ITEMS

CHECKED_AT_ONCE = 10  # items checked before other requests get a turn: about a quarter of a millisecond


class Puts:
    """Used inside one event loop."""

    def __init__(self, publisher: Publisher, now_ms: Callable[[], int]) -> None:
        self._publisher, self._now_ms = publisher, now_ms

    async def put(self, body: Any) -> Verdicts:
        """Returns when each item is in the log, rejected or failed. Raises Refused for a body that holds no items."""
        verdicts: list[dict[str, Any]] = []
        accepted: list[tuple[int, Item]] = []
        for place, raw in enumerate(_items_of(body)):
            if place and place % CHECKED_AT_ONCE == 0:
                await asyncio.sleep(0)
            try:
                accepted.append((place, accept_item(raw)))
                verdicts.append({"status": "accepted"})
            except InvalidItem as error:
                verdict = {"field": error.field, "value": error.value, "reason": error.reason}
                verdicts.append({"status": "rejected"} | verdict)
        failed = 0
        for (place, _), outcome in zip(accepted, await self._append([item for _, item in accepted]), strict=True):
            if isinstance(outcome, Exception):
                verdicts[place] = {"status": "failed", "reason": str(outcome)}
                failed += 1
        return Verdicts(len(accepted) - failed, len(verdicts) - len(accepted), failed, verdicts)

    async def delete(self, item_id: str) -> None:
        """Nothing is to be known of the item any more. Raises LogUnavailable."""
        (outcome,) = await self._append([Item(item_id, DELETED, is_withheld=True)])
        if isinstance(outcome, Exception):
            raise outcome

    async def _append(self, items: Sequence[Item]) -> Sequence[object]:
        now_ms = self._now_ms()
        entries = [Addressed(ITEMS, item.as_entry(now_ms)) for item in items]
        return await self._publisher.ask(entries, len(entries)) if entries else []


def _items_of(body: Any) -> list[Any]:
    if not isinstance(body, dict) or not isinstance(body.get("items"), list):
        raise Refused("items", None, "the body must be an object with a list of items")
    for name in body.keys() - {"items"}:
        raise Refused(name, body[name], "unknown beside items")
    items: list[Any] = body["items"]
    if not 1 <= len(items) <= ITEMS_PER_PUT:
        raise Refused("items", f"{len(items)} items", f"a put holds 1 to {ITEMS_PER_PUT}")
    return items
