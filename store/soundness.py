"""Whether a release holds together: what can be told from its own files, without events and without another release.

`Releases.load` asks this in every process, since an announcement may name anything, and the gate before a release is
announced. What training meant is written down as a probe, scores of a few items for a few timelines, computed before
anything is ordered and written; rows under wrong ids, or one table in the place of the other, do not give them again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from led.encoder import F32, F64, I64
from led.ranking import with_one
from store.gate_reports import Check, check

if TYPE_CHECKING:
    from store.releases import Model, Release

PROBE = "probe.json"
PROBES, PROBE_TIMELINE = 64, 3
SAMPLE_IDS, SAMPLE_SEARCHES = 1000, 8
ROWS_AT_ONCE = 1 << 16
MOST_ZERO_ROWS = 0.5
# Honest tables reach some thousands: a row of the closed form goes by the root of the item's events, or its inverse.
LONGEST_TO_MEDIAN = 1e6
SAME = 1e-4  # of the largest score: float32 sums in another order differ by less


def check_model(model: Model) -> None:
    """Raises ValueError for what no release can be made of, before anything is written."""
    n = len(model.item_ids)
    if n == 0:
        raise ValueError("the model has no items")
    for name in ("input_embeddings", "output_embeddings", "biases", "popularity"):
        array = getattr(model, name)
        dimensions = 2 if name.endswith("embeddings") else 1
        if array.dtype != np.float32 or array.ndim != dimensions or len(array) != n:
            raise ValueError(f"{name} is {array.dtype} of shape {array.shape}, float32 of {n} rows expected")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds values that are not finite")
    if model.input_embeddings.shape != model.output_embeddings.shape:
        raise ValueError(f"shapes {model.input_embeddings.shape} and {model.output_embeddings.shape} differ")
    if "" in model.item_ids:
        raise ValueError("item_ids hold an empty id")
    if model.sample_vectors is not None:
        _check_samples(model.sample_vectors, model.input_embeddings.shape[1])
    if not model.output_embeddings.any():
        raise ValueError("output_embeddings are all zero")


def probe(keys: npt.NDArray[np.uint64], inputs: F32, outputs: F32, biases: F32) -> dict[str, list[Any]]:
    """Item keys of timelines and of one item each, and that item's score; arrays by row, in any order."""
    rng = np.random.default_rng(len(keys))
    timelines, items = rng.integers(len(keys), size=(PROBES, PROBE_TIMELINE)), rng.integers(len(keys), size=PROBES)
    scores = _scores(inputs, outputs, biases, timelines, items)
    return {"timelines": keys[timelines].tolist(), "items": keys[items].tolist(), "scores": scores.tolist()}


def read_probe(folder: Path) -> dict[str, Any] | None:
    """What training noted in that release; None for one of before probes were published. Raises ValueError."""
    path = folder / PROBE
    return dict(json.loads(path.read_text())) if path.is_file() else None


def checks(
    release: Release, item_key: Callable[[str], int], probed: Mapping[str, Any] | None, *, every_id: bool
) -> Iterator[Check]:
    """What is to be known of a release whose files have their checksums and whose arrays have their shapes.

    Ends after the first table with values that are not finite: nothing further means anything then.
    every_id: all ids are compared with their keys (two seconds a million), otherwise a sample.
    """
    values = _finite(release)
    yield values
    if values.outcome == "refused":
        return
    yield from _norms(release)
    yield _ids(release, item_key, np.arange(release.items) if every_id else _sample(release.items))
    yield _probe(release, probed)
    if release.has_index:
        yield _index(release)


def _check_samples(vectors: F32, dim: int) -> None:
    if vectors.ndim != 2 or vectors.shape[1] != dim or not len(vectors):
        raise ValueError(f"sample_vectors have shape {vectors.shape}, (one or more, {dim}) expected")
    if not np.isfinite(vectors).all():
        raise ValueError("sample_vectors hold values that are not finite")


def _finite(release: Release) -> Check:
    wrong = {}
    for name in ("input_embeddings", "output_embeddings", "biases", "popularity"):
        array = getattr(release, name)
        sums = _squared_lengths(array) if array.ndim == 2 else array
        count = int(np.count_nonzero(~np.isfinite(sums)))
        if count:
            wrong[name] = count
    if not wrong:
        return check("finite", True, "all values are finite", 0, 0)
    named = ", ".join(f"{count:,} of {release.items:,} rows of {name}" for name, count in wrong.items())
    return check("finite", False, f"values that are not finite: {named}, none allowed", sum(wrong.values()), 0)


def _norms(release: Release) -> Iterator[Check]:
    for name in ("input_embeddings", "output_embeddings"):
        lengths = np.sqrt(_squared_lengths(getattr(release, name)))
        zero = float(np.mean(lengths == 0))
        says = f"{100 * zero:.1f} % of the rows of {name} are zero, at most {100 * MOST_ZERO_ROWS:.0f} % allowed"
        yield check(f"zero rows of {name}", zero <= MOST_ZERO_ROWS, says, zero, MOST_ZERO_ROWS)
        if zero < 1:
            ratio = float(lengths.max() / np.median(lengths[lengths > 0]))
            says = (
                f"the longest row of {name} is {ratio:,.1f} times the median, at most {LONGEST_TO_MEDIAN:,.0f} allowed"
            )
            yield check(f"lengths of {name}", ratio <= LONGEST_TO_MEDIAN, says, ratio, LONGEST_TO_MEDIAN)


def _ids(release: Release, item_key: Callable[[str], int], rows: I64) -> Check:
    unsorted = int(np.count_nonzero(release.item_keys[1:] <= release.item_keys[:-1]))
    if unsorted:
        says = f"{unsorted:,} item keys are not above the one before, none allowed"
        return check("ids", False, says, unsorted, 0)
    wrong = sum(not _is_of_key(release, row, key, item_key) for row, key in _rows_and_keys(release, rows))
    says = f"{wrong:,} of {len(rows):,} ids looked at do not match their keys, none allowed"
    return check("ids", wrong == 0, says, wrong, 0)


def _rows_and_keys(release: Release, rows: I64) -> Iterator[tuple[int, int]]:
    return zip(rows.tolist(), release.item_keys[rows].tolist(), strict=True)


def _is_of_key(release: Release, row: int, key: int, item_key: Callable[[str], int]) -> bool:
    try:
        return item_key(release.item_id(row)) == key
    except UnicodeDecodeError:
        return False


def _probe(release: Release, probed: Mapping[str, Any] | None) -> Check:
    if probed is None:
        return Check("probe", "not judged", "not judged: published without a probe")
    keys = np.array([*np.ravel(probed["timelines"]), *probed["items"]], np.uint64)
    rows, expected = release.rows(keys), np.asarray(probed["scores"], np.float64)
    missing = int(np.count_nonzero(rows < 0))
    if missing:
        says = f"{missing} of {len(rows)} items of the probe are not in the release, none may be missing"
        return check("probe", False, says, missing, 0)
    count = len(expected)
    timelines, items = rows[:-count].reshape(count, -1), rows[-count:]
    found = _scores(release.input_embeddings, release.output_embeddings, release.biases, timelines, items)
    differing = int(np.count_nonzero(~(np.abs(found - expected) <= SAME * np.abs(expected).max(initial=1e-30))))
    says = f"{differing} of {count} scores noted by training come out differently, none may"
    return check("probe", differing == 0, says, differing, 0)


def _index(release: Release) -> Check:
    """The index takes queries of this dimension and knows these rows by these scores."""
    rows = np.linspace(0, release.items - 1, min(release.items, SAMPLE_SEARCHES)).astype(np.int64)
    queries = with_one(np.asarray(release.input_embeddings[rows]))
    try:
        scores, found = release.index.scored(queries, min(20, release.items))
    except AssertionError:  # faiss's own for a query of the wrong size
        says = f"the index does not take queries of {release.dim} + 1 dimensions"
        return check("index", False, says, None, release.dim + 1)
    if found.max() >= release.items or found.max() < 0:
        says = f"the index proposes row {found.max():,} of {release.items:,} rows"
        return check("index", False, says, int(found.max()), release.items - 1)
    owners, places = np.nonzero(found >= 0)
    proposed = found[owners, places]
    exact = np.einsum("nd,nd->n", queries[owners, :-1], release.output_embeddings[proposed]) + release.biases[proposed]
    away = np.abs(scores[owners, places] - exact)
    differing = int(np.count_nonzero(~(away <= SAME * np.abs(exact).max(initial=1e-30))))
    says = f"{differing} of {len(exact)} scores of the index are not those of the arrays, none may differ"
    return check("index", differing == 0, says, differing, 0)


def _scores(inputs: F32, outputs: F32, biases: F32, timelines: I64, items: I64) -> F64:
    """Score of each item for the user of each timeline, in float64."""
    vectors = inputs[timelines].astype(np.float64).mean(axis=1)
    return np.asarray(np.einsum("nd,nd->n", vectors, outputs[items].astype(np.float64)) + biases[items])


def _squared_lengths(table: F32) -> F32:
    """Of each row, (n,); not finite where one of its values is not."""
    parts = [table[at : at + ROWS_AT_ONCE] for at in range(0, len(table), ROWS_AT_ONCE)]
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is what is looked for
        return np.concatenate([np.einsum("nd,nd->n", part, part) for part in parts])


def _sample(items: int) -> I64:
    return np.unique(np.linspace(0, items - 1, min(items, SAMPLE_IDS)).astype(np.int64))
