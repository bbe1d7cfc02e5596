"""Where fine-tuning begins: at random, at a pre-trained model, at a release."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from led.encoder import F32, I64


@dataclass(frozen=True)
class Start:
    """inputs, outputs (items, dim), biases (items,), all float32. Tied tables begin as
    `outputs`; `training.finetune.tying` makes both the same.

    kind_weights: (kinds,) above 0; the first counts as 1 afterwards. head_weights: of the newest events; where some are
    learned, as many as are, missing ones being 1.
    """

    inputs: F32
    outputs: F32
    biases: F32
    kind_weights: tuple[float, ...] = (1.0,)
    head_weights: tuple[float, ...] = ()


class Earlier(Protocol):
    """What a warm start takes of a model or a release."""

    @property
    def input_embeddings(self) -> F32: ...
    @property
    def output_embeddings(self) -> F32: ...
    @property
    def biases(self) -> F32: ...


@dataclass(frozen=True)
class WarmStart:
    """Begin at an earlier model's rows of the same item. item_ids: of its rows. new: what other items begin as."""

    earlier: Earlier
    item_ids: Sequence[str]
    new: Literal["random", "zero"] = "random"

    def start(self, item_ids: Sequence[str], rng: np.random.Generator) -> Start:
        """For these items. Random rows are as long, in the mean, as those that are known; biases begin at the least."""
        row_of = {item_id: row for row, item_id in enumerate(self.item_ids)}
        rows = np.array([row_of.get(item_id, -1) for item_id in item_ids], np.int64)
        inputs = self._table(np.asarray(self.earlier.input_embeddings), rows, rng)
        outputs = self._table(np.asarray(self.earlier.output_embeddings), rows, rng)
        known = np.asarray(self.earlier.biases)[rows[rows >= 0]]
        biases = np.full(len(rows), known.min(initial=np.inf) if len(known) else 0.0, np.float32)
        biases[rows >= 0] = known
        return Start(inputs, outputs, biases)

    def _table(self, table: F32, rows: I64, rng: np.random.Generator) -> F32:
        is_known = rows >= 0
        made = np.zeros((len(rows), table.shape[1]), np.float32)
        made[is_known] = table[rows[is_known]]
        if self.new == "random":
            spread = math.sqrt(float(np.square(table).mean())) if table.size else 1.0
            made[~is_known] = rng.normal(0.0, spread, (int((~is_known).sum()), table.shape[1]))
        return made


def random_start(items: int, dim: int, rng: np.random.Generator) -> Start:
    """As LED's code begins: Glorot's uniform rows, biases of sd .001 cut off at two of them."""
    bound = math.sqrt(6.0 / (items + dim))
    inputs, outputs = (rng.uniform(-bound, bound, (items, dim)).astype(np.float32) for _ in range(2))
    return Start(inputs, outputs, np.clip(rng.normal(0.0, 0.001, items), -0.002, 0.002).astype(np.float32))
