"""One table in the place of two: where fine-tuning with tied tables begins, when a model comes with two.

With input rows u and output rows v, a user of one item scores that item <u, v>. Three tables stand for both:

    outputs     v
    inputs      u
    between     sqrt(|u| |v|) times the direction of u / |u| + v / |v|

The last keeps lengths between those of the two: of the closed form, whose popular items are short on the way in and
long on the way out by the same factor, it is the singular vectors without either. Where u = v all three are the same.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from led.encoder import F32
from training.finetune.network import Network
from training.finetune.settings import FinetuneSettings
from training.finetune.start import Start
from training.finetune.validation import Validation, ndcg

TABLES = ("between", "outputs", "inputs")


def tied(start: Start, validation: Validation | None, settings: FinetuneSettings) -> tuple[str, Start]:
    """The start as one table, and which it is: the best by ndcg on the validation; `between` without one.

    A start that is one table already stays as it is, and is called "same".
    """
    if np.array_equal(start.inputs, start.outputs):
        return "same", start
    starts = {name: replace(start, inputs=table, outputs=table) for name, table in tables(start).items()}
    if validation is None:
        return TABLES[0], starts[TABLES[0]]
    found = {
        name: ndcg(Network(one, settings, np.random.default_rng([settings.seed, 0])), validation)
        for name, one in starts.items()
    }
    best = max(TABLES, key=lambda name: found[name])  # the first of equals
    return best, starts[best]


def tables(start: Start) -> dict[str, F32]:
    """The three by name, (items, dim) float32."""
    into, out = (np.linalg.norm(table, axis=1, keepdims=True) for table in (start.inputs, start.outputs))
    middle = start.inputs / np.maximum(into, 1e-30) + start.outputs / np.maximum(out, 1e-30)
    middle *= np.sqrt(into * out) / np.maximum(np.linalg.norm(middle, axis=1, keepdims=True), 1e-30)
    return {"between": middle.astype(np.float32), "outputs": start.outputs, "inputs": start.inputs}
