"""The one module that knows faiss: candidates for a user vector out of all items.

The index only proposes rows; scores are computed exactly from the release's arrays afterwards. Items come as
[v ; b] and queries as [u ; 1] (`led/ranking.py`), so that plain maximum inner product is the score with its bias.

A graph over raw inner products loses items when lengths are uneven. The second family therefore adds one more
dimension, sqrt(M^2 - |x|^2) with M the longest length, which makes all items equally long and the nearest neighbour
in L2 the largest inner product (Bachrach et al., RecSys 2014). `build` measures and takes the fastest that passes.
"""

from __future__ import annotations

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
EF_SEARCH = (64, 128, 256, 512)
SAMPLE_QUERIES = 500


class LowRecall(ValueError):
    """No index reached the recall asked for: says what was tried and what it gave."""


class ItemIndex(Protocol):
    """Rows of the best items for queries; exact or nearly so."""

    def search(self, queries: F32, k: int) -> I64:
        """Rows (q, k) for queries (q, dim + 1), best first; -1 where there are fewer than k."""

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

    def search(self, queries: F32, k: int) -> I64:
        return np.asarray(self._index.search(queries, k)[1], dtype=np.int64)

    def save(self, path: Path) -> None:
        faiss.write_index(self._index, str(path))


class GraphIndex:
    """HNSW over inner products, or over L2 with the lengths evened out (`evened`)."""

    def __init__(self, index: faiss.IndexHNSW, *, evened: bool, ef_search: int) -> None:
        self._index, self._evened, self.ef_search = index, evened, ef_search

    @classmethod
    def over(cls, items: F32, *, evened: bool, links: int = 32, ef_construction: int = 200) -> GraphIndex:
        if evened:
            squares = np.einsum("ij,ij->i", items, items)
            items = np.hstack([items, np.sqrt(np.maximum(squares.max() - squares, 0.0))[:, None]])
        metric = faiss.METRIC_L2 if evened else faiss.METRIC_INNER_PRODUCT
        index = faiss.IndexHNSWFlat(items.shape[1], links, metric)
        index.hnsw.efConstruction = ef_construction
        index.add(np.ascontiguousarray(items, dtype=np.float32))
        return cls(index, evened=evened, ef_search=EF_SEARCH[0])

    def search(self, queries: F32, k: int) -> I64:
        if self._evened:
            queries = np.hstack([queries, np.zeros((len(queries), 1), np.float32)])
        parameters = faiss.SearchParametersHNSW(efSearch=max(self.ef_search, k))  # type: ignore[attr-defined]
        return np.asarray(self._index.search(queries, k, params=parameters)[1], dtype=np.int64)

    def save(self, path: Path) -> None:
        faiss.write_index(self._index, str(path))


def build(items: F32, queries: F32, *, min_recall: float = MIN_RECALL) -> tuple[ItemIndex, dict[str, Any]]:
    """The fastest index over items (n, dim + 1) with recall@20 >= min_recall on queries (q, dim + 1), and its report.

    The report is what `load` needs, with what was measured. Raises LowRecall if none passes.
    """
    items = np.ascontiguousarray(items, dtype=np.float32)
    queries = np.ascontiguousarray(queries[:SAMPLE_QUERIES], dtype=np.float32)
    exact = ExactIndex.over(items)
    if len(items) <= EXACT_UP_TO:
        return exact, {"kind": "exact", "recall20": 1.0, "us_per_query": _us_per_query(exact, queries)}
    wanted = exact.search(queries, MEASURED_AT)
    tried: list[tuple[GraphIndex, dict[str, Any]]] = []
    for evened in (False, True):
        graph = GraphIndex.over(items, evened=evened)
        for graph.ef_search in EF_SEARCH:
            report = _report(graph, measure_recall(graph, queries, wanted), queries)
            tried.append((graph, report))
            if report["recall20"] >= min_recall:
                break  # a wider search of this graph is only slower
    good = [(graph, report) for graph, report in tried if report["recall20"] >= min_recall]
    if not good:
        raise LowRecall(f"no index reaches recall@{MEASURED_AT} {min_recall}: tried {[report for _, report in tried]}")
    graph, report = min(good, key=lambda candidate: float(candidate[1]["us_per_query"]))
    graph.ef_search = int(report["ef_search"])
    return graph, report


def load(path: Path, report: Mapping[str, Any]) -> ItemIndex:
    """The index in a file, as its report describes it; memory-mapped, so that processes share it."""
    index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    if report["kind"] == "exact":
        return ExactIndex(index)
    return GraphIndex(index, evened=bool(report["evened"]), ef_search=int(report["ef_search"]))


def use_threads(threads: int) -> None:
    """Threads one search may use. Servers take 1: a request is too short to share out."""
    faiss.omp_set_num_threads(threads)


def measure_recall(index: ItemIndex, queries: F32, wanted: I64) -> float:
    """Share of the rows exact search finds, (q, k), that the index finds too, 0..1."""
    found = index.search(queries, wanted.shape[1])
    return float(np.mean([np.isin(row, right).mean() for row, right in zip(wanted, found, strict=True)]))


def _report(graph: GraphIndex, recall: float, queries: F32) -> dict[str, Any]:
    return {
        "kind": "hnsw",
        "evened": graph._evened,
        "ef_search": graph.ef_search,
        "recall20": round(recall, 4),
        "us_per_query": _us_per_query(graph, queries),
    }


def _us_per_query(index: ItemIndex, queries: F32) -> float:
    start = time.perf_counter()
    index.search(queries, MEASURED_AT)
    return round((time.perf_counter() - start) / len(queries) * 1e6, 1)
