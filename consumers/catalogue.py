"""The topic `items` to the store: what was last put of each item, in the order of the topic.

Redelivery is harmless: the store knows how far it is, and takes nothing twice. This process reads on from there, and
from the beginning of the topic where the store was flushed: Kafka keeps the last record of every item.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress

from store.catalogue import Catalogue, Overwritten, Row
from stream.events import item_key
from stream.items import Items
from stream.loop import Elsewhere

logger = logging.getLogger(__name__)
GROUP = "catalogue"


class CatalogueConsumer:
    """Handler of `stream.loop.Loop` for the topic of items.

    log_identity: `Log.identity` of the topic; offsets of another log are not comparable.
    """

    def __init__(self, catalogue: Catalogue, log_identity: int) -> None:
        self._catalogue, self._log = catalogue, log_identity
        self._at: dict[int, int | None] = {}
        self._stored: dict[int, int] = {}
        self.put = self.deleted = 0

    def assigned(self, partition: int) -> int | None:
        source = self._source(partition)
        position = self._catalogue.position(source)
        if position is None:
            with suppress(Overwritten):  # from now on a missing position means a store that was flushed
                self._catalogue.write(source, None, [], 0)
            position = self._catalogue.position(source)
        self._at[partition] = position
        return position or 0

    def revoked(self, partition: int) -> None:
        self._at.pop(partition, None)
        self._stored.pop(partition, None)

    def handle(self, batches: Sequence[Items]) -> Mapping[int, int]:
        for batch in batches:
            at = self._at[batch.partition]
            rows = [
                Row(item.item_id, item.fields, item_key(item.item_id), item.is_withheld, end)
                for item, end in zip(batch.items, batch.ends, strict=True)
                if at is None or end > at
            ]
            if at is None or batch.next_offset > at:
                self._write(batch.partition, at, rows, batch.next_offset)
                self._at[batch.partition] = batch.next_offset
            self._stored[batch.partition] = batch.next_offset
            self.put += sum(bool(row.fields) for row in rows)
            self.deleted += sum(not row.fields for row in rows)
        if not batches:
            self._look_after_the_store()
        return dict(self._stored)

    def drain(self) -> Mapping[int, int]:
        return dict(self._stored)

    def tallies(self) -> Mapping[str, int]:
        """What became of items so far, by name."""
        return {"items_put": self.put, "items_deleted": self.deleted}

    def _write(self, partition: int, at: int | None, rows: Sequence[Row], next_offset: int) -> None:
        try:
            self._catalogue.write(self._source(partition), at, rows, next_offset)
        except Overwritten as error:
            self._go_to(partition, error.position)

    def _look_after_the_store(self) -> None:
        """Notice a store that was flushed or restored even where no items come to show it."""
        for partition, at in self._at.items():
            position = self._catalogue.position(self._source(partition))
            if position != at:
                self._go_to(partition, position)

    def _go_to(self, partition: int, position: int | None) -> None:
        before, self._at[partition] = self._at.get(partition), position
        self._stored.pop(partition, None)
        why = f"items, partition {partition}: this process was at {before}, the store is at {position}"
        raise Elsewhere({partition: position or 0}, f"{why}: reading on from there")

    def _source(self, partition: int) -> str:
        return f"{self._log:016x}:{partition}"
