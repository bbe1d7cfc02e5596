"""An answer with its reasons: what every event of the timeline adds to the score of every item.

The user's vector is made from the timeline in float64, not read from the record's running sums, and so are the scores
shown: they are the sum of their reasons. They differ from those of a plain answer by what storing rounds away, a few
ten-thousandths. No event is left out: running sums hold what the timeline holds (`consumers/fold.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import orjson

from led.encoder import F64, Events
from led.explained import inputs_of, shares, terms
from serving.served import Served
from store.entries import entries_of

Shown = tuple[Sequence[int], npt.NDArray[np.floating], Sequence[bytes]]
"""Item rows, best first; their scores; of each its reasons as JSON, or none of any."""


class Explained:
    """One user under one release. record: whole and not empty. kinds: names of kinds by their codes.

    vector: (dim,) the user's.
    """

    def __init__(self, record: bytes, served: Served, kinds: Mapping[int, str]) -> None:
        release, entries = served.release, entries_of(record)
        items = np.array([entry.item for entry in entries], np.uint64)
        timeline = Events(
            users=np.zeros(len(entries), np.int64),
            rows=release.rows(items),
            kinds=np.array([entry.kind for entry in entries], np.uint8),
            times_ms=np.array([entry.time_ms for entry in entries], np.int64),
        )
        self._release = release
        self._shares = shares(release.encoder, timeline)
        self._inputs = inputs_of(release.input_embeddings, timeline)
        self.vector: F64 = self._shares @ self._inputs
        self._events = [
            orjson.dumps(
                {
                    "entry": entry.id,
                    "item_id": release.item_id(row) if row >= 0 else None,
                    "kind": kinds.get(entry.kind),
                    "time_ms": entry.time_ms,
                }
            )[:-1]
            + b',"contribution":'
            for entry, row in zip(entries, timeline.rows.tolist(), strict=True)
        ][::-1]

    def ranked(self, found: Sequence[int]) -> Shown:
        """The rows by their exact scores, float64; reasons name the newest event first."""
        rows = np.asarray(found, np.int64)
        biases = self._release.biases[rows].astype(np.float64)
        added = terms(self._shares, self._inputs, self._release.output_embeddings[rows])
        scores = biases + added.sum(axis=1)
        order = np.argsort(-scores, kind="stable")
        reasons = [self._reasons(biases[place], added[place, ::-1]) for place in order.tolist()]
        return rows[order].tolist(), scores[order], reasons

    def _reasons(self, bias: float, added: F64) -> bytes:
        numbers = orjson.dumps(np.ascontiguousarray(added), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
        events = b",".join([b"%b%b}" % pair for pair in zip(self._events, numbers, strict=True)])
        return b'{"bias":%b,"events":[%b]}' % (orjson.dumps(float(bias)), events)
