"""Which topic an event belongs to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stream.events import Border, Event
from stream.topics import EVENTS, IMPRESSIONS

IMPRESSION = "impression"  # a kind of its own, unless it is among those that make timelines


class Sorter:
    """Events that may come in, and where they go: what was shown to somebody is no part of a timeline."""

    def __init__(self, border: Border) -> None:
        self._border, self._impressions = border, replace(border, kinds=(IMPRESSION,))
        self._takes_impressions = IMPRESSION not in border.kinds

    def accept(self, raw: Any, now_ms: int) -> tuple[Event, str]:
        """The event in a decoded JSON value, and its topic. Raises InvalidEvent."""
        if self._takes_impressions and isinstance(raw, dict) and raw.get("kind") == IMPRESSION:
            return self._impressions.accept(raw, now_ms), IMPRESSIONS
        return self._border.accept(raw, now_ms), EVENTS
