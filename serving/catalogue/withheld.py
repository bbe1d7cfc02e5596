"""Items that nobody is to be shown, as this process knows them: out of stock, or deleted from the catalogue."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from store.catalogue import Catalogue, Changed
from store.connection import StoreUnavailable

logger = logging.getLogger(__name__)
LOOKS_EVERY_S = 0.5


class Withheld:
    """Looks into the store for what changed, in a thread of its own. catalogue: None where there is none.

    keys: of the items, one set that changes while others look into it. on_change: called after anything about any item
    changed, by that thread.
    """

    def __init__(self, catalogue: Catalogue | None, on_change: Callable[[], None] = lambda: None) -> None:
        self._catalogue, self._on_change = catalogue, on_change
        self.keys: set[int] = set()
        self._last: Changed | None = None
        self._is_away = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_forever, name="withheld", daemon=True)

    def start(self) -> None:
        """Knows what the store knows when it returns, unless the store is away."""
        self._look()
        self._thread.start()

    def stop(self) -> None:
        """Returns when the thread has ended."""
        self._stop.set()
        self._thread.join()

    def _look_forever(self) -> None:
        while not self._stop.wait(LOOKS_EVERY_S):
            self._look()

    def _look(self) -> None:
        """What is known stands while the store is away."""
        if self._catalogue is None:
            return
        try:
            found = self._catalogue.changed(self._last)
        except StoreUnavailable as error:
            if not self._is_away:
                logger.warning("what is out of stock is not known anew: %s", error)
            self._is_away = True
            return
        self._is_away = False
        if self._last is None or found[:2] != self._last[:2]:
            self._take(found)

    def _take(self, found: Changed) -> None:
        withheld = {key for key, is_withheld in found.withheld.items() if is_withheld}
        if self._last is not None and found.epoch == self._last.epoch:
            self.keys.difference_update(found.withheld.keys() - withheld)
        else:
            self.keys.intersection_update(withheld)
        self.keys.update(withheld)
        self._last = found._replace(withheld={})
        self._on_change()
