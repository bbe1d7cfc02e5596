"""What people ask of items now and then: one of them, those that are called so, all of them on a map.

Everything here may wait for the store: call it from a thread that may.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from heapq import nsmallest
from typing import Any

import numpy as np
import orjson

from led.projection import plane
from serving.catalogue.described import FoundItem, FoundItems, ItemAnswer, MapAnswer, MapItem, PeriodEntry
from serving.parts import Parts
from serving.refusals import Overloaded, Refused
from serving.served import Served
from store.popularity import Period
from stream.events import item_key

SEARCHES_S = 2.0
ON_THE_MAP = 2000


class Shelf:
    """Used by any thread. served: the current release."""

    def __init__(self, parts: Parts, served: Callable[[], Served | None]) -> None:
        self._catalogue, self._counts, self._now_ms, self._served = (
            parts.catalogue,
            parts.popularity,
            parts.now_ms,
            served,
        )
        self._searching = threading.Lock()
        self._drawing = threading.Lock()
        self._drawn: tuple[str, list[int], np.ndarray[Any, np.dtype[np.float32]]] | None = None

    def item(self, item_id: str) -> ItemAnswer:
        """Raises Refused (404) where neither the catalogue nor the release knows the item, StoreUnavailable."""
        fields = self._catalogue.read([item_id])[0] if self._catalogue else None
        served = self._served()
        row = _row(served, item_id)
        if fields is None and row < 0:
            raise Refused("item_id", item_id, "neither put nor in the current release", status=404)
        known = orjson.loads(fields) if fields else {}
        return ItemAnswer(
            item_id=item_id,
            release=served.version if served else None,
            in_release=row >= 0,
            popularity=_popularity(served, row),
            withheld=known.get("stock") == 0 or (served is not None and item_key(item_id) in served.withheld),
            **known,
        )

    def find(self, text: str, k: int) -> FoundItems:
        """Items whose id begins with the text, or whose title has words that begin with all its words.

        The most popular first, an item of just this id before them. What is not looked at within SEARCHES_S is not
        found, and the answer says so. Of what was never put, the most popular are looked at. Raises StoreUnavailable.
        """
        wanted, words = text.casefold(), text.casefold().split()
        served, until = self._served(), time.monotonic() + SEARCHES_S
        found: dict[str, dict[str, Any]] = {}
        complete = True
        if not self._searching.acquire(timeout=SEARCHES_S):  # it takes a core: two at once would take both
            raise Overloaded("searches")
        try:
            for item, fields in self._catalogue.scan() if self._catalogue else ():
                item_id = item.decode()
                known = orjson.loads(fields)
                if item_id.casefold().startswith(wanted) or _has_words(known.get("title", ""), words):
                    found[item_id] = known
                if time.monotonic() > until:
                    complete = False
                    break
        finally:
            self._searching.release()
        for item_id in _popular_ids(served):
            if item_id.casefold().startswith(wanted):
                found.setdefault(item_id, {})
        if served is not None and served.knows(text):
            found.setdefault(text, {})
        popularity = {item_id: _popularity(served, _row(served, item_id)) for item_id in found}
        best = nsmallest(k, found, key=lambda one: (one != text, -(popularity[one] or 0), one))
        items = [FoundItem(item_id=one, popularity=popularity[one], **found[one]) for one in best]
        return FoundItems(items=items, complete=complete)

    def popularity(self, item_id: str, by: Period) -> list[PeriodEntry]:
        """Events of the item of late, oldest first. Raises StoreUnavailable."""
        found = self._counts.read(item_key(item_id), by, self._now_ms()) if self._counts else []
        return [PeriodEntry(from_ms=from_ms, events=events) for from_ms, events in found]

    def map(self) -> MapAnswer:
        """The most popular items of the release where they lie to each other. Raises StoreUnavailable."""
        served = self._served()
        if served is None:
            return MapAnswer(release=None, items=[])
        rows, points = self._draw(served)
        ids = [served.release.item_id(row) for row in rows]
        known = self._catalogue.read(ids) if self._catalogue else [None] * len(ids)
        items = []
        for row, item_id, fields, (x, y) in zip(rows, ids, known, points.tolist(), strict=True):
            of_item = orjson.loads(fields) if fields else {}
            popularity = _popularity(served, row) or 0.0
            named = {"title": of_item.get("title"), "category": of_item.get("category")}
            items.append(MapItem(item_id=item_id, x=x, y=y, popularity=popularity, **named))
        return MapAnswer(release=served.version, items=items)

    def _draw(self, served: Served) -> tuple[list[int], np.ndarray[Any, np.dtype[np.float32]]]:
        """Rows and their points, once for a release."""
        with self._drawing:
            if self._drawn is None or self._drawn[0] != served.version:
                popularity = np.nan_to_num(served.release.popularity)
                order = np.lexsort((np.arange(len(popularity)), -popularity))[:ON_THE_MAP]
                self._drawn = served.version, order.tolist(), plane(served.release.output_embeddings[order])
            return self._drawn[1:]


def _row(served: Served | None, item_id: str) -> int:
    return -1 if served is None else int(served.release.rows(np.array([item_key(item_id)], np.uint64))[0])


def _popularity(served: Served | None, row: int) -> float | None:
    return None if served is None or row < 0 else float(served.release.popularity[row])


def _popular_ids(served: Served | None) -> list[str]:
    return [] if served is None else [served.release.item_id(row) for row, _ in served.most_popular]


def _has_words(title: str, words: list[str]) -> bool:
    theirs = title.casefold().split()
    return bool(words) and all(any(word.startswith(one) for word in theirs) for one in words)
