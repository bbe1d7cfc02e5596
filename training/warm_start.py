"""Where a retrain's search for singular vectors begins: at those of the release before, which are nearly the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from led.encoder import F32, F64
from store.releases import Release
from stream.events import item_keys
from training.spectral import raised

MUST_KNOW = 0.5  # of the interactions: a start that knows fewer items is no better than chance


def start_from(before: Release | None, item_ids: Sequence[str], item_sums: F64, *, dim: int) -> F32 | None:
    """Guesses at the right singular vectors that span the release's output embeddings, (items, dim), as long as columns
    of normal numbers are; zeros for items that it does not know. None where there is no release that knows enough, or
    none that holds so many singular vectors: another recipe's tables span something else.

    item_sums: weight of all interactions of each item, (items,). dim: how many are looked for.
    """
    if before is None or before.dim < dim or not is_closed_form(before):
        return None
    rows = before.rows(item_keys(item_ids))
    known = rows >= 0
    if item_sums[known].sum() < MUST_KNOW * item_sums.sum():
        return None
    start = np.zeros((len(item_ids), before.dim), np.float32)
    start[known] = before.output_embeddings[rows[known]]
    start *= raised(item_sums, -0.5).astype(np.float32)[:, None]
    return start * np.float32(np.sqrt(start.size) / max(float(np.linalg.norm(start)), 1e-30))


def is_closed_form(release: Release) -> bool:
    """Whether its output embeddings span singular vectors: of the closed form, and not fine-tuned since."""
    about = release.info.about
    return "spectral" in about and "finetuning" not in about
