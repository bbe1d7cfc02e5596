"""Kinds of item index side by side: recall, CPU of a query on one thread, bytes and build time.

    python -m bench.index --items 100000
    python -m bench.index --items 1000000 --min-recall .9

Items and users are those of `bench/world.py`. Every inverted file reads as few clusters as reach the recall on
the users that a build would measure on; the figures are of other users, of 1 to 100 events. `chosen` is what `build`
makes of it.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from bench.report import closing, opening
from bench.world import histories, model
from led.encoder import F32, I64
from led.ranking import with_bias, with_one
from store.item_index import (
    CANDIDATES,
    ClusteredIndex,
    ExactIndex,
    ItemIndex,
    Judge,
    LowRecall,
    build,
    least_scores,
    measure_recall,
    us_per_query,
    use_threads,
)

BATCHES = (1, 4, 16, 32)
KS = (20, 70)
EXACT_UP_TO = 20_000  # items; above, a matrix product is out of the question
TRAINED_ON = 65_536


class CodedIndex(ClusteredIndex):
    """The same clusters, items as half a byte for two dimensions (fast scan); k + `more` are scored exactly."""

    more = 40
    items: F32
    clustered: ClusteredIndex  # whose centres these are

    @classmethod
    def of(cls, clustered: ClusteredIndex, items: F32) -> CodedIndex:
        centres, even = clustered._index.quantizer, clustered._index.d
        index: Any = faiss.IndexIVFPQFastScan(
            centres, even, clustered.clusters, even // 2, 4, faiss.METRIC_INNER_PRODUCT
        )
        index.by_residual = True
        wide = np.zeros((len(items), even), np.float32)
        wide[:, : items.shape[1]] = items
        index.train(wide[np.random.default_rng(0).permutation(len(items))[:TRAINED_ON]])
        index.add(wide)
        made = cls(index, 1)
        made.items, made.clustered = items, clustered
        return made

    def reading(self, probes: int) -> CodedIndex:
        other = CodedIndex(self._index, probes)
        other.items, other.clustered = self.items, self.clustered
        return other

    def scored(self, queries: F32, k: int) -> tuple[F32, I64]:
        width = k + self.more
        wide = np.zeros((len(queries), self._index.d), np.float32)
        wide[:, : queries.shape[1]] = queries
        rows = self._index.search(wide, width, params=self._parameters)[1]
        scores = np.empty(rows.shape, np.float32)
        places = (faiss.swig_ptr(array) for array in (scores, queries, self.items, rows))
        faiss.fvec_inner_products_by_idx(*places, queries.shape[1], len(queries), width)  # type: ignore[attr-defined]
        order = np.argsort(-scores, axis=1)[:, :k] + np.arange(0, rows.size, width)[:, None]
        return scores.ravel()[order], rows.ravel()[order]


def main() -> None:
    chosen = _arguments()
    opening("bench.index", vars(chosen))
    made = model(chosen.items, chosen.dim, chosen.seed)
    items = np.ascontiguousarray(with_bias(made.output_embeddings, made.biases))
    asked = histories(chosen.users, chosen.items, 100, chosen.seed)
    users = with_one(np.stack([made.input_embeddings[rows].mean(axis=0) for rows in asked]))
    assert made.sample_vectors is not None
    sample = with_one(made.sample_vectors)
    use_threads(os.cpu_count() or 1)
    judge = Judge(items, sample[:500], chosen.min_recall)
    least = {k: least_scores(items, users, k) for k in KS}
    figures = []
    for name, make in _kinds(items, chosen.fast_scan):
        use_threads(os.cpu_count() or 1)
        started, cpu = time.perf_counter(), time.process_time()
        index = make()
        took = {"build_s": round(time.perf_counter() - started, 1), "build_cpu_s": round(time.process_time() - cpu, 1)}
        try:
            index = judge.narrowest(index) if isinstance(index, ClusteredIndex) else index
        except LowRecall:
            print(f"{name}: no number of clusters reaches the recall")
            continue
        use_threads(1)
        figures.append({"kind": name, **took, **_measured(index, items, users, least)})
        print(figures[-1], flush=True)
    use_threads(os.cpu_count() or 1)
    started, cpu = time.perf_counter(), time.process_time()
    report = build(items, sample, min_recall=chosen.min_recall)[1]
    report |= {"build_s": round(time.perf_counter() - started, 1), "build_cpu_s": round(time.process_time() - cpu, 1)}
    print(report)
    closing({**vars(chosen), "chosen": report, "kinds": figures})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--min-recall", type=float, default=0.95)
    parser.add_argument("--fast-scan", action="store_true", help="also codes in place of vectors, which lost")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def _kinds(items: F32, fast_scan: bool) -> Iterator[tuple[str, Callable[[], ItemIndex]]]:
    root = math.isqrt(len(items))
    if len(items) <= EXACT_UP_TO:
        yield "exact", partial(ExactIndex.over, items)
    for by, fineness in CANDIDATES:
        yield f"by {by}, {fineness * root} clusters", partial(ClusteredIndex.over, items, fineness * root, by)
    if fast_scan:
        for by in ("direction", "distance"):
            clustered = ClusteredIndex.over(items, 2 * root, by)
            yield f"by {by}, {2 * root} clusters, coded", partial(CodedIndex.of, clustered, items)


def _measured(index: ItemIndex, items: F32, users: F32, least: dict[int, F32]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    if isinstance(index, ClusteredIndex):
        figures |= {"clusters": index.clusters, "probes": index.probes}
    figures |= {f"recall{k}": round(measure_recall(index, items, users, least[k], k), 4) for k in KS}
    for k in KS:
        figures[f"us_k{k}"] = {together: us_per_query(index, users, k, together) for together in BATCHES}
    with tempfile.TemporaryDirectory(prefix="ledstream-bench-") as folder:
        index.save(Path(folder) / "index")
        figures["bytes_per_item"] = round((Path(folder) / "index").stat().st_size / len(items), 1)
    return figures


if __name__ == "__main__":
    main()
