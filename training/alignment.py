"""A retrained model turned to lie as the release before it did, so that a user's vector moves little between the two.

Embeddings are determined up to a rotation: with R orthogonal, <u R, v R> = <u, v>, and every score stays. Of all R the
one is taken that brings the input embeddings of items in common nearest to where they were (orthogonal Procrustes),
popular items weighing more, since users are averages of what they did.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from led.encoder import F32, F64, I64
from store.releases import Model, Release
from stream.events import item_keys

ROWS_AT_ONCE = 1 << 16


def aligned(model: Model, before: Release) -> Model:
    """The model, rotated onto the release; `about["alignment"]` says what that did, or why it was left as it was.

    cosine_before, cosine_after: between an item's two input embeddings, the mean over items in common by popularity.
    Scores are the same up to rounding. Items that are new turn with the others; items that are gone do not matter.
    """
    dim = model.input_embeddings.shape[1]
    if dim != before.dim:
        return _told(model, before, {"skipped": f"dimension {dim}, and {before.dim} before"})
    old_rows = before.rows(item_keys(model.item_ids))
    rows = np.flatnonzero(old_rows >= 0)
    if not len(rows):
        return _told(model, before, {"skipped": "no item in common"})
    weights = _weights(model.popularity[rows])
    pairs = _Pairs(model.input_embeddings, before.input_embeddings, rows, old_rows[rows], weights)
    rotation = pairs.rotation()
    turned = replace(
        model,
        input_embeddings=model.input_embeddings @ rotation,
        output_embeddings=model.output_embeddings @ rotation,
        sample_vectors=None if model.sample_vectors is None else model.sample_vectors @ rotation,
    )
    cosines = pairs.cosine(), replace(pairs, new=turned.input_embeddings).cosine()
    figures = dict(zip(("cosine_before", "cosine_after"), (round(cosine, 4) for cosine in cosines), strict=True))
    return _told(turned, before, {"items": len(rows), **figures})


@dataclass(frozen=True)
class _Pairs:
    """Embeddings of the same items in two tables, at `rows` of the new one and `old_rows` of the old, with weights."""

    new: F32
    old: F32
    rows: I64
    old_rows: I64
    weights: F64

    def rotation(self) -> F32:
        """Orthogonal R (dim, dim) for which the weighted sum of |new R - old|^2 is least."""
        dim = self.new.shape[1]
        products = np.zeros((dim, dim))
        for some in range(0, len(self.rows), ROWS_AT_ONCE):
            new, old, weights = self._part(some)
            products += (new * weights[:, None]).T @ old
        left, _, right = np.linalg.svd(products)
        return np.asarray(left @ right, np.float32)

    def cosine(self) -> float:
        """The weighted mean of cosines; rows of zeros are left out."""
        total = weight = 0.0
        for some in range(0, len(self.rows), ROWS_AT_ONCE):
            new, old, weights = self._part(some)
            lengths = np.linalg.norm(new, axis=1) * np.linalg.norm(old, axis=1)
            has_both = lengths > 0
            cosines = np.einsum("nd,nd->n", new, old)[has_both] / lengths[has_both]
            total += float(cosines @ weights[has_both])
            weight += float(weights[has_both].sum())
        return total / weight if weight else 0.0

    def _part(self, start: int) -> tuple[F64, F64, F64]:
        some = slice(start, start + ROWS_AT_ONCE)
        new, old = self.new[self.rows[some]], self.old[self.old_rows[some]]
        return new.astype(np.float64), old.astype(np.float64), self.weights[some]


def _weights(popularity: F32) -> F64:
    """Popularity as weights; equal ones where nothing is popular."""
    weights = popularity.astype(np.float64)
    return weights if weights.any() else np.ones(len(weights))


def _told(model: Model, before: Release, what: dict[str, object]) -> Model:
    return replace(model, about={**model.about, "alignment": {"release": before.version, **what}})
