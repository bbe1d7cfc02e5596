"""Narrow tables that keep what wide ones know: a user is still an average, an item one row of d numbers.

Truncation to d directions keeps the d largest and is blind to the rest. Ranking needs less: that a user's vector points
nearer to the right items than to others, for which a few dimensions can hold many more than d groups of items. With the
closed form of k > d directions (training/spectral.py, a = 1/2; V its right singular vectors, n_i an item's sum),

    input embeddings D_i^-1/2 V P,    output embedding of item i: unit(v_i Q) * n_i^popular * |v_i|^(1 - level),

and the k x d matrices P and Q, nothing else, are learned: from truncation (the identity above zeros) with some of the
other directions mixed in at random, by Adam on the cosine softmax over baskets. For a user's vector u, the average of
a part of the user's items, a target i from the rest and candidates N drawn for the whole step,

    loss = -log e^(cos(u, i) / t) / (e^(cos(u, i) / t) + sum over j in N of e^(cos(u, j) / t)),

where cos is the cosine times n_i^popular (divided by its root mean square): without it the table ranks rare items too
high. |v_i|, small where the leading directions tell little about the item, counts once all is learned; learned with it,
it gained nothing. What is stored are two tables of (items, d): the wide ones, P and Q are not needed any more, and
users unknown to training are encoded like the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from led.encoder import F32, I64
from training.progress import Progress, silent
from training.spectral import SpectralSettings, averaged, decompose, raised
from training.svd import Sparse

ROWS_AT_ONCE = 256  # of scores with all candidates: what is exponentiated stays in the cache
TINY = 1e-8


@dataclass(frozen=True)
class NarrowSettings:
    """dim, wide: d and k. level, popular: of output rows. temperature: t. mixed_in: size of the random start beside 1.

    masked: share of a user's items that is taken from the input and made target; 0 leaves all in and aims at all.
    targets: of a user in one step, at most. users, candidates: drawn for a step. The rate rises over the first
    steps and falls to next to nothing along a cosine.
    """

    dim: int = 128
    wide: int = 512
    level: float = 0.7
    popular: float = 0.25
    temperature: float = 0.09
    mixed_in: float = 0.3
    masked: float = 0.3
    users: int = 2048
    targets: int = 6
    candidates: int = 2048
    steps: int = 150
    learning_rate: float = 0.015
    oversample: int = 64
    power_iterations: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.dim <= self.wide:
            raise ValueError(f"dim = {self.dim}, wide = {self.wide}: 1 <= dim <= wide is needed")
        if not 0 <= self.level <= 1:
            raise ValueError(f"level = {self.level}: must be from 0 to 1")
        if not 0 <= self.masked < 1:
            raise ValueError(f"masked = {self.masked}: must be at least 0 and below 1")
        for name in ("temperature", "users", "targets", "candidates", "steps", "learning_rate"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0 and finite")
        for name in ("popular", "mixed_in"):
            if not np.isfinite(getattr(self, name)):
                raise ValueError(f"{name} = {getattr(self, name)}: must be finite")
        for name in ("oversample", "power_iterations", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 0")


class Wide(NamedTuple):
    """What is projected. inputs, outputs: (items, k). popular, known: (items,), n^popular and |v|^(1 - level)."""

    inputs: F32
    outputs: F32
    popular: F32
    known: F32


class Lesson(NamedTuple):
    """One step's users. shown, wanted: (users, items), what is averaged and what is to be found."""

    shown: Sparse
    wanted: Sparse


class Slope(NamedTuple):
    """Loss and gradients by what it was computed from."""

    loss: float
    users: F32
    targets: F32
    candidates: F32


class Descent(NamedTuple):
    """Gradients by P and Q, and the loss."""

    into: F32
    out: F32
    loss: float


class Narrow(NamedTuple):
    """Input and output embeddings (items, dim), and the loss of each step before it."""

    inputs: F32
    outputs: F32
    losses: tuple[float, ...]


def narrow_embeddings(matrix: Sparse, settings: NarrowSettings, progress: Progress = silent) -> tuple[F32, F32]:
    """Input and output embeddings (items, dim) of an interaction matrix with at least one cell, none below 0.

    The same matrix and settings give the same tables. dim shrinks where the data has fewer directions.
    """
    found = narrowed(matrix, settings, progress)
    return found.inputs, found.outputs


def narrowed(matrix: Sparse, settings: NarrowSettings, progress: Progress = silent) -> Narrow:
    """The embeddings of `narrow_embeddings`, and how they were learned."""
    wide = widened(matrix, settings, progress)
    rng = np.random.default_rng(settings.seed)
    k = wide.inputs.shape[1]
    dim = min(settings.dim, k)
    start = np.eye(k, dim, dtype=np.float32)
    start += rng.standard_normal((k, dim), dtype=np.float32) * np.float32(settings.mixed_in / np.sqrt(dim))
    into, out, losses = Adam(start.copy()), Adam(start.copy()), []
    for step in range(settings.steps):
        progress("narrow tables", step, settings.steps)
        lesson = drawn(matrix, settings, rng)
        others = rng.integers(0, matrix.shape[1], settings.candidates)
        slopes = descent(wide, (into.value, out.value), lesson, others, settings.temperature)
        rate = _rate(step, settings)
        into.step(slopes.into, rate)
        out.step(slopes.out, rate)
        losses.append(slopes.loss)
    progress("narrow tables", settings.steps, settings.steps)
    outputs = unit(wide.outputs @ out.value)[0] * (wide.popular * wide.known)[:, None]
    return Narrow(*scaled(matrix, wide.inputs @ into.value, outputs), tuple(losses))


def scaled(matrix: Sparse, inputs: F32, outputs: F32) -> tuple[F32, F32]:
    """As long as the closed form's: output rows have a mean square length of 1, users' own items a mean score of 1."""
    outputs = outputs / np.sqrt(np.square(outputs).sum(axis=1).mean())
    users = averaged(matrix)
    own = np.einsum("ud,ud->", users @ inputs, users @ outputs, dtype=np.float64) / users.shape[0]
    return inputs / np.float32(own if own > 0 else 1.0), outputs


def widened(matrix: Sparse, settings: NarrowSettings, progress: Progress = silent) -> Wide:
    """The closed form of `wide` directions, users' averages about as long in each as items are."""
    spectral = SpectralSettings(
        dim=settings.wide,
        a=0.5,
        oversample=settings.oversample,
        power_iterations=settings.power_iterations,
        seed=settings.seed,
    )
    spectrum = decompose(matrix, spectral, progress)
    outputs = spectrum.right * np.float32(np.sqrt(len(spectrum.right)))
    inputs = spectrum.right * raised(spectrum.item_sums, -0.5).astype(np.float32)[:, None]
    inputs /= np.sqrt(np.square(averaged(matrix) @ inputs).mean())
    popular = raised(spectrum.item_sums, settings.popular)
    popular /= np.sqrt(np.square(popular).mean())
    known = np.linalg.norm(spectrum.right, axis=1) ** (1 - settings.level)
    return Wide(inputs, outputs, popular.astype(np.float32), known.astype(np.float32))


def drawn(matrix: Sparse, settings: NarrowSettings, rng: np.random.Generator) -> Lesson:
    """Users drawn without return, their items parted into shown and wanted; each wants `targets` at most."""
    users = np.sort(rng.permutation(matrix.shape[0])[: settings.users])
    rows = matrix[users]
    counts = np.diff(rows.indptr)
    is_hidden = rng.random(rows.nnz) < settings.masked if settings.masked else np.ones(rows.nnz, np.bool_)
    shown = _only(rows, ~is_hidden) if settings.masked else rows
    hidden = np.bincount(np.repeat(np.arange(len(users)), counts)[is_hidden], minlength=len(users))
    is_wanted = is_hidden & (rng.random(rows.nnz) * np.repeat(hidden, counts) < settings.targets)
    return Lesson(shown, _only(rows, is_wanted))


def descent(wide: Wide, tables: tuple[F32, F32], lesson: Lesson, others: I64, temperature: float) -> Descent:
    """The loss, and its gradients by P and Q, given as tables. others: (n,) rows of the candidates.

    Each user with something to find counts the same, and so does each of the user's targets.
    """
    into, out = tables
    cells = lesson.wanted.nnz
    rows = np.concatenate([lesson.wanted.indices, others])
    shown = averaged(lesson.shown) @ wide.inputs
    users, user_lengths = unit(shown @ into)
    features = wide.outputs[rows]
    items, item_lengths = unit(features @ out)
    lengths = wide.popular[rows][:, None]
    found = contrast(
        users, items[:cells] * lengths[:cells], items[cells:] * lengths[cells:], lesson.wanted, temperature
    )
    by_items = np.concatenate([found.targets, found.candidates]) * lengths
    by_out: F32 = features.T @ _through_unit(by_items, items, item_lengths)
    by_into: F32 = shown.T @ _through_unit(found.users, users, user_lengths)
    return Descent(by_into, by_out, found.loss)


def contrast(users: F32, targets: F32, candidates: F32, wanted: Sparse, temperature: float) -> Slope:
    """The loss above, and its gradients, computed together in blocks of users.

    users: (users, d). targets: (cells, d), a row for each cell of `wanted`, in its order. candidates: (n, d). Scores
    must be small beside 88 times the temperature, where float32 ends: no maximum is taken off.
    """
    ends, owners = wanted.indptr, np.repeat(np.arange(len(users)), np.diff(wanted.indptr))
    counts = np.diff(ends).astype(np.float32)
    shares = (1.0 / counts[owners] / max(int(np.count_nonzero(counts)), 1)).astype(np.float32)
    logits = np.einsum("cd,cd->c", users[owners], targets) / np.float32(temperature)
    raised = np.exp(logits)
    by_logits = np.empty_like(logits)
    by_users, by_candidates = np.empty_like(users), np.zeros_like(candidates)
    loss = 0.0
    for start in range(0, len(users), ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, len(users))
        own = slice(ends[start], ends[stop])
        scores = users[start:stop] @ candidates.T
        scores /= np.float32(temperature)
        np.exp(scores, out=scores)
        totals = scores.sum(axis=1)[owners[own] - start] + raised[own]
        loss += float((shares[own] * (np.log(totals) - logits[own])).sum())
        by_logits[own] = shares[own] * (raised[own] / totals - 1)
        pushed = np.bincount(owners[own] - start, shares[own] / totals, stop - start).astype(np.float32)
        scores *= pushed[:, None]
        by_users[start:stop] = scores @ candidates
        by_candidates += scores.T @ users[start:stop]
    pulls = sp.csr_array((by_logits, np.arange(len(logits)), ends), shape=(len(users), len(logits)))
    by_users += pulls @ targets
    by_targets = by_logits[:, None] * users[owners]
    scale = np.float32(1 / temperature)
    return Slope(loss, by_users * scale, by_targets * scale, by_candidates * scale)


class Adam:
    """A matrix that walks down its gradients (Kingma, Ba 2015), with moments of .9 and .99."""

    def __init__(self, value: F32) -> None:
        self.value = value
        self._mean, self._square = np.zeros_like(value), np.zeros_like(value)
        self._steps = 0

    def step(self, gradient: F32, rate: float) -> None:
        """One step down. The sizes of gradients do not matter, only how they differ from one another."""
        self._steps += 1
        self._mean += np.float32(0.1) * (gradient - self._mean)
        self._square += np.float32(0.01) * (gradient * gradient - self._square)
        mean = self._mean / np.float32(1 - 0.9**self._steps)
        size = np.sqrt(self._square / np.float32(1 - 0.99**self._steps)) + np.float32(1e-9)
        self.value -= np.float32(rate) * mean / size


def unit(rows: F32) -> tuple[F32, F32]:
    """Rows of length 1, and the lengths they had (n, 1); rows of zeros stay zeros."""
    lengths = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(TINY))
    return rows / lengths, lengths


def _through_unit(gradient: F32, units: F32, lengths: F32) -> F32:
    """The gradient by rows from the gradient by the units they were made."""
    along = np.einsum("nd,nd->n", gradient, units)[:, None]
    back: F32 = (gradient - along * units) / lengths
    return back


def _rate(step: int, settings: NarrowSettings) -> float:
    warming = min(1.0, (step + 1) / 20)
    falling = 0.05 + 0.95 * 0.5 * (1 + np.cos(np.pi * (step + 1) / settings.steps))
    return float(settings.learning_rate * warming * falling)


def _only(rows: Sparse, is_kept: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Sparse:
    """The matrix with the kept cells alone."""
    counts = np.concatenate([[0], np.cumsum(is_kept)])
    return sp.csr_array((rows.data[is_kept], rows.indices[is_kept], counts[rows.indptr]), shape=rows.shape)
