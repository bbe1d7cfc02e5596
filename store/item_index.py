"""The one module that knows faiss: the best items for a user vector out of all of them.

Items come as [v ; b] and queries as [u ; 1] (`led/ranking.py`), so that plain maximum inner product is the score with
its bias. Vectors are kept as they are: what comes back is scored exactly, whichever items were looked at.

Up to EXACT_UP_TO items a matrix product answers. Above, items are clustered and a query looks into the few clusters
whose centres score best: how few is what `build` measures, and as looking into all of them is exact search, some number
always passes. Which clustering is cheapest depends on the items, so several are made and measured (CANDIDATES).
`docs/experiments.md` has the figures of these and of what lost: graphs, and codes in place of vectors.
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
TRAINED_PER_CLUSTER = 32
ROOM, HAVE_ROOM = 100, 0.99
MARGIN = 0.2  # of what is missing from recall 1: users to come are others than those measured
DEEP = 0.9  # of the recall asked for must be left at ROOM
# How items are clustered, and into how many times sqrt(n) clusters. Which is cheapest is for the items to say:
# by distance, long items meet and are read first; by direction, tight groups of even length stay whole.
CANDIDATES = (("direction", 2), ("distance", 2), ("distance", 4))
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
    """Items in clusters (an inverted file), of which a query reads `probes`: those whose centre scores best."""

    def __init__(self, index: Any, probes: int) -> None:
        self._index, self.probes = index, probes
        self._parameters = faiss.SearchParametersIVF(nprobe=probes)  # type: ignore[call-arg]

    @classmethod
    def over(cls, items: F32, clusters: int, by: str) -> ClusteredIndex:
        """Items put to the nearest centre by distance or by direction; a query reads one cluster."""
        items = _widened(items, items.shape[1] + items.shape[1] % 2)
        dim, directions = items.shape[1], by == "direction"
        centres = faiss.IndexFlatIP(dim) if directions else faiss.IndexFlatL2(dim)
        index: Any = faiss.IndexIVFFlat(centres, dim, clusters, faiss.METRIC_INNER_PRODUCT)
        index.cp.spherical = directions
        index.cp.min_points_per_centroid = 1
        sample = np.random.default_rng(0).permutation(len(items))[: TRAINED_PER_CLUSTER * clusters]
        index.train(items[sample])
        index.add(items)
        by_score = _by_score(centres.reconstruct_n(0, clusters))
        by_score.this.disown()  # the index frees it
        index.quantizer, index.own_fields = by_score, True
        return cls(index, 1)

    def reading(self, probes: int) -> ClusteredIndex:
        """The same items, of which a query reads so many clusters."""
        return ClusteredIndex(self._index, probes)

    @property
    def clusters(self) -> int:
        return int(self._index.nlist)

    def scored(self, queries: F32, k: int) -> tuple[F32, I64]:
        return _filled(*self._index.search(_widened(queries, self._index.d), k, params=self._parameters))

    def search(self, queries: F32, k: int) -> I64:
        return self.scored(queries, k)[1]

    def save(self, path: Path) -> None:
        faiss.write_index(self._index, str(path))


def build(items: F32, queries: F32, *, min_recall: float = MIN_RECALL) -> tuple[ItemIndex, dict[str, Any]]:
    """An index over items (n, dim + 1) with recall@20 >= min_recall on queries (q, dim + 1), and its report.

    The cheapest of those in CANDIDATES, each reading as few clusters as pass. The report is what `load` needs, with
    what was measured, and what the others would have cost. Raises LowRecall where not even all clusters suffice, which
    only a min_recall above 1 asks for.
    """
    items = np.ascontiguousarray(items, dtype=np.float32)
    queries = np.ascontiguousarray(queries[:SAMPLE_QUERIES], dtype=np.float32)
    if len(items) <= EXACT_UP_TO:
        exact = ExactIndex.over(items)
        return exact, {"kind": "exact", "recall20": 1.0, "us_per_query": us_per_query(exact, queries)}
    judge = Judge(items, queries, min_recall)
    best: tuple[ClusteredIndex, dict[str, Any]] | None = None
    costs = {}
    for by, fineness in CANDIDATES:
        index = judge.narrowest(ClusteredIndex.over(items, fineness * math.isqrt(len(items)), by))
        report = {"kind": "clustered", "by": by, "clusters": index.clusters, "probes": index.probes}
        report |= judge.figures(index)
        costs[f"{by}, {index.clusters} clusters"] = report["us_per_query"]
        if best is None or report["us_per_query"] < best[1]["us_per_query"]:
            best = index, report
    assert best is not None
    return best[0], best[1] | {"tried_us": costs}


def load(path: Path, report: Mapping[str, Any]) -> ItemIndex:
    """The index in a file, as its report describes it; memory-mapped, so that processes share it."""
    if report["kind"] == "exact":
        return ExactIndex(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC))
    index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    return ClusteredIndex(index, int(report["probes"]))


def use_threads(threads: int) -> None:
    """Threads that a search of the calling thread may use. Servers take 1: a request is too short to share out."""
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


class Judge:
    """What an index must reach: recall@20, most of it among the first hundred too, and a hundred rows for nearly all.

    Requests hide what was seen and excluded and still want k: places far beyond the twentieth are shown.
    """

    def __init__(self, items: F32, queries: F32, min_recall: float) -> None:
        self._items, self._queries, self._min_recall = items, queries, min_recall
        self._wanted = min_recall + MARGIN * (1 - min_recall)
        scores = ExactIndex.over(items).scored(queries, ROOM)[0]
        self._least = {k: scores[:, k - 1] for k in (MEASURED_AT, ROOM)}

    def narrowest(self, index: ClusteredIndex) -> ClusteredIndex:
        """The index reading as few clusters as pass. Raises LowRecall."""
        tried: dict[int, float] = {}
        for probes in _widening(index.clusters):
            index = index.reading(probes)
            tried[probes] = self._recall(index, MEASURED_AT)
            deep_enough = tried[probes] >= self._wanted and self._recall(index, ROOM) >= DEEP * self._min_recall
            if deep_enough and has_room(index, self._queries):
                return index
        raise LowRecall(f"no index reaches recall@{MEASURED_AT} {self._min_recall}: by clusters read, {tried}")

    def figures(self, index: ItemIndex) -> dict[str, float]:
        """recall20, recall100, us_per_query."""
        recalls = {f"recall{k}": self._recall(index, k) for k in self._least}
        return recalls | {"us_per_query": us_per_query(index, self._queries)}

    def _recall(self, index: ItemIndex, k: int) -> float:
        return round(measure_recall(index, self._items, self._queries, self._least[k], k), 4)


def has_room(index: ItemIndex, queries: F32) -> bool:
    """Whether nearly every query gets ROOM rows."""
    return bool((index.search(queries, ROOM)[:, -1] >= 0).mean() >= HAVE_ROOM)


def us_per_query(index: ItemIndex, queries: F32, k: int = 50, together: int = 16) -> float:
    """Microseconds of CPU that a query of k items takes in batches of `together`, on one thread; median of batches."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    taken = []
    for first in range(0, max(len(queries) - together, 0) + 1, together):
        some = queries[first : first + together]
        started = time.process_time()
        index.search(some, k)
        taken.append((time.process_time() - started) / len(some))
    faiss.omp_set_num_threads(threads)
    return round(float(np.median(taken)) * 1e6, 1)


def _by_score(centres: F32) -> Any:
    """Where a query finds the centres that score best: by half a byte for two dimensions, twice as many as are wanted,
    and the exact scores of those. Reading all of them as they are was half of a search in a million items."""
    codes: Any = faiss.IndexPQFastScan(centres.shape[1], centres.shape[1] // 2, 4, faiss.METRIC_INNER_PRODUCT)
    codes.pq.cp.min_points_per_centroid = 1
    index: Any = faiss.IndexRefineFlat(codes)
    index.train(centres)
    index.add(centres)
    index.k_factor = 2
    codes.this.disown()
    index.own_fields = True
    return index


def _widened(vectors: F32, dim: int) -> F32:
    """Zeros added up to `dim` columns: codes are of two dimensions each."""
    if vectors.shape[1] == dim:
        return vectors
    wide = np.zeros((len(vectors), dim), np.float32)
    wide[:, : vectors.shape[1]] = vectors
    return wide


def _filled(scores: F32, rows: I64) -> tuple[F32, I64]:
    """What faiss found, with -inf for the lowest number it puts where nothing is."""
    scores[rows < 0] = -np.inf
    return scores, rows


def _widening(clusters: int) -> list[int]:
    """Numbers of clusters to try, each a quarter more, up to all of them."""
    widths = [1]
    while widths[-1] < clusters:
        widths.append(min(clusters, widths[-1] + max(1, widths[-1] // 4)))
    return widths
