"""The one module that knows faiss: candidates for a user vector out of all items.

The index only proposes rows; scores are computed exactly from the release's arrays afterwards. Items come as
[v ; b] and queries as [u ; 1] (`led/ranking.py`), so that plain maximum inner product is the score with its bias.

Up to EXACT_UP_TO items a matrix product answers. Above, items are clustered and a query looks into the nearest few
clusters: how few is what `build` measures, and as looking into all of them is exact search, some number always passes.
(A graph over inner products gave recall .80-.90 on clustered items of uneven length; evening the lengths out with one
more dimension gave .35-.82. `docs/experiments.md` has the figures.)
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np

from led.encoder import F32, I64

MIN_RECALL = 0.95
MEASURED_AT = 20
EXACT_UP_TO = 4000  # items: below this a matrix product is as fast as any graph, and exact
SAMPLE_QUERIES = 500
TRAINED_PER_CLUSTER = 64
ROOM, HAVE_ROOM = 100, 0.99
TIE = 1e-5  # scores this close, relatively, differ by the order of summation alone


class LowRecall(ValueError):
    """No index reached the recall asked for: says what was tried and what it gave."""


class ItemIndex(Protocol):
    """Rows of the best items for queries; exact or nearly so."""

    def scored(self, queries: F32, k: int) -> tuple[F32, I64]:
        """Exact scores and rows (q, k) for queries (q, dim + 1), best first; -inf and -1 where there are fewer than k.

        A score is the float32 inner product of query and item, up to the order of summation.
        """

    def search(self, queries: F32, k: int) -> I64:
        """The rows of `scored`."""

    def save(self, path: Path) -> None:
        """Write the index to one file."""


class ExactIndex:
    """Every item scored by one matrix product. recall is 1 by construction."""

    def __init__(self, index: faiss.Index) -> None:
        self._index = index

    @classmethod
    def over(cls, items: F32) -> ExactIndex:
        index = faiss.IndexFlatIP(items.shape[1])
        index.add(items)
        return cls(index)

    def scored(self, queries: F32, k: int) -> tuple[F32, I64]:
        return _filled(*self._index.search(queries, k))

    def search(self, queries: F32, k: int) -> I64:
        return self.scored(queries, k)[1]

    def save(self, path: Path) -> None:
        faiss.write_index(self._index, str(path))


class ClusteredIndex:
    """Items in clusters (an inverted file), of which a query reads the `probes` nearest."""

    def __init__(self, index: Any, probes: int) -> None:
        self._index, self.probes = index, probes

    @classmethod
    def over(cls, items: F32) -> ClusteredIndex:
        clusters = 2 * math.isqrt(len(items))
        index: Any = faiss.index_factory(items.shape[1], f"IVF{clusters},Flat", faiss.METRIC_INNER_PRODUCT)
        sample = np.random.default_rng(0).permutation(len(items))[: TRAINED_PER_CLUSTER * clusters]
        index.cp.min_points_per_centroid = 1
        index.train(items[sample])
        index.add(items)
        return cls(index, 1)

    @property
    def clusters(self) -> int:
        return int(self._index.nlist)

    def scored(self, queries: F32, k: int) -> tuple[F32, I64]:
        parameters = faiss.SearchParametersIVF(nprobe=self.probes)  # type: ignore[call-arg]
        return _filled(*self._index.search(queries, k, params=parameters))

    def search(self, queries: F32, k: int) -> I64:
        return self.scored(queries, k)[1]

    def save(self, path: Path) -> None:
        faiss.write_index(self._index, str(path))


def build(items: F32, queries: F32, *, min_recall: float = MIN_RECALL) -> tuple[ItemIndex, dict[str, Any]]:
    """An index over items (n, dim + 1) with recall@20 >= min_recall on queries (q, dim + 1), and its report.

    The report is what `load` needs, with what was measured. Raises LowRecall where not even all clusters suffice,
    which only a min_recall above 1 asks for.
    """
    items = np.ascontiguousarray(items, dtype=np.float32)
    queries = np.ascontiguousarray(queries[:SAMPLE_QUERIES], dtype=np.float32)
    exact = ExactIndex.over(items)
    if len(items) <= EXACT_UP_TO:
        return exact, {"kind": "exact", "recall20": 1.0, "us_per_query": _us_per_query(exact, queries)}
    least = least_scores(items, queries, MEASURED_AT)
    index = ClusteredIndex.over(items)
    tried: dict[int, float] = {}
    for probes in _widening(index.clusters):
        index.probes = probes
        tried[probes] = round(measure_recall(index, items, queries, least), 4)
        if tried[probes] >= min_recall and has_room(index, queries):
            break
    else:
        raise LowRecall(f"no index reaches recall@{MEASURED_AT} {min_recall}: by clusters read, {tried}")
    report = {"kind": "clustered", "clusters": index.clusters, "probes": index.probes, "recall20": tried[index.probes]}
    return index, report | {"us_per_query": _us_per_query(index, queries)}


def load(path: Path, report: Mapping[str, Any]) -> ItemIndex:
    """The index in a file, as its report describes it; memory-mapped, so that processes share it."""
    if report["kind"] == "exact":
        return ExactIndex(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC))
    index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    return ClusteredIndex(index, int(report["probes"]))


def use_threads(threads: int) -> None:
    """Threads one search may use. Servers take 1: a request is too short to share out."""
    faiss.omp_set_num_threads(threads)


def least_scores(items: F32, queries: F32, k: int) -> F32:
    """The k-th best exact score of each query, (q,): what an item must reach to be rightly among the best k."""
    return np.asarray(ExactIndex.over(items).scored(queries, k)[0][:, -1], dtype=np.float32)


def measure_recall(index: ItemIndex, items: F32, queries: F32, least: F32, k: int = MEASURED_AT) -> float:
    """Share of k places that the index fills rightly, 0..1: with items that score at least `least`.

    By score and not by row, since items of equal score may take each other's places: new items seen by the same few
    users have equal embeddings, and no index can be blamed for showing one and not the other.
    """
    found = index.search(queries, k)
    scores = np.einsum("qd,qkd->qk", queries, items[found])
    good = (found >= 0) & (scores >= (least - TIE * np.abs(least))[:, None])
    return float(good.mean())


def has_room(index: ItemIndex, queries: F32) -> bool:
    """Whether nearly every query gets ROOM rows: requests hide what was seen and excluded, and still want k."""
    return bool((index.search(queries, ROOM)[:, -1] >= 0).mean() >= HAVE_ROOM)


def _filled(scores: F32, rows: I64) -> tuple[F32, I64]:
    """What faiss found, with -inf for the lowest number it puts where nothing is."""
    scores[rows < 0] = -np.inf
    return scores, rows


def _widening(clusters: int) -> list[int]:
    """Numbers of clusters to try, each half as much again, up to all of them."""
    widths = [1]
    while widths[-1] < clusters:
        widths.append(min(clusters, widths[-1] + max(1, widths[-1] // 2)))
    return widths


def _us_per_query(index: ItemIndex, queries: F32) -> float:
    start = time.perf_counter()
    index.search(queries, MEASURED_AT)
    return round((time.perf_counter() - start) / len(queries) * 1e6, 1)
