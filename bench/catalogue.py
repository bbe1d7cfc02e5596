"""What the catalogue costs: memory in the store, the consumer's CPU, and an answer's where items are out of stock.

    python -m bench.catalogue --items 100000 --ranked 20000

CPU by `process_time`; of the ranking medians over rounds in which all shares take turns, so that ratios hold on a busy
machine. The store is a Valkey of its own.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.report import closing, opening
from bench.world import model
from consumers.catalogue import CatalogueConsumer
from serving.ranking import best
from serving.served import Served
from store.catalogue import Catalogue
from store.connection import Client, connect
from store.embedded import EmbeddedStore
from store.item_index import use_threads
from store.popularity import Popularity
from stream.items import Item, ItemsDecoder, accept_item
from stream.log import Batch, Record
from stream.stages import Stages
from tests.worlds import NOW_MS, releases

AT_ONCE, USERS, ROUNDS, K, SEEN = 10_000, 64, 60, 20, 20
SHARES = (0.0, 0.01, 0.05, 0.2, 0.5)
COUNTED, HOURS = 600_000, 48


def described(number: int) -> Item:
    """An item as shops describe theirs; one in fifty out of stock."""
    name = f"sku-{number:08d}"
    return accept_item(
        {
            "item_id": name,
            "title": f"A felt hat of number {number} in grey wool",
            "url": f"https://shop.example.org/products/hats/{name}",
            "image": f"https://img.example.org/products/large/{name}.jpg",
            "category": "Hats and caps",
            "price": 39.9,
            "currency": "EUR",
            "stock": number % 50,
            "brand": "Oedoen",
        }
    )


def stored(client: Client, number: int) -> dict[str, float]:
    """Items written by the consumer, read back by a server."""
    catalogue, decoder = Catalogue(client, "bench"), ItemsDecoder()
    consumer = CatalogueConsumer(catalogue, 1)
    consumer.assigned(0)
    before, put_s, consume_s = used(client), 0.0, 0.0
    for start in range(0, number, AT_ONCE):
        began = time.process_time()
        items = [described(start + place) for place in range(min(AT_ONCE, number - start))]
        put_s += time.process_time() - began
        entries = [item.as_entry(NOW_MS) for item in items]
        records = [Record(start + place, NOW_MS, one.key, one.value) for place, one in enumerate(entries)]
        began = time.process_time()
        consumer.handle([decoder.decode(Batch.of(0, records))[0]])
        consume_s += time.process_time() - began
    memory = used(client) - before
    began = time.perf_counter()
    scanned = sum(1 for _ in catalogue.scan())
    assert scanned >= number
    return {
        "put_us": put_s / number * 1e6,
        "consume_us": consume_s / number * 1e6,
        "store_bytes": memory / number,
        "scan_s": time.perf_counter() - began,
    }


def counted(client: Client, items: int, seed: int) -> dict[str, float]:
    """Events of two days, most on few items, counted hour by hour."""
    popularity, before = Popularity(client, "bench"), used(client)
    rows = (np.random.default_rng(seed).pareto(1.1, COUNTED) * 3).astype(np.int64) % items
    for hour, of_hour in enumerate(np.array_split(rows, HOURS)):
        counts: defaultdict[int, dict[int, int]] = defaultdict(lambda: {500_000 + hour: 0})  # noqa: B023
        for row in of_hour.tolist():
            counts[row][500_000 + hour] += 1
        popularity.add("bench:0", hour - 1 if hour else None, hour, counts)
    return {"counted_items": float(len(np.unique(rows))), "count_bytes": (used(client) - before) / len(np.unique(rows))}


def used(client: Client) -> int:
    """Bytes in the store."""
    memory: Any = client.info("memory")
    return int(memory["used_memory"])


def ranked(folder: Path, items: int, seed: int) -> dict[str, float]:
    """CPU microseconds of the ranking for a user, by the share of items that is withheld."""
    rng, published, withheld = np.random.default_rng(seed), releases(folder), set[int]()
    served = Served(published.load(published.publish(model(items, 64, seed), now_ms=NOW_MS)), withheld)
    use_threads(1)
    keys, embeddings = served.release.item_keys, served.release.input_embeddings
    vectors = embeddings[rng.integers(0, items, (USERS, 5))].mean(axis=1)
    queries = np.hstack([vectors, np.ones((USERS, 1), np.float32)])
    hidden = [set(rng.choice(keys, SEEN).tolist()) for _ in range(USERS)]
    order, costs = rng.permutation(keys), defaultdict[float, list[float]](list)
    for _ in range(ROUNDS):
        for share in SHARES:
            withheld.clear()
            withheld.update(order[: int(share * items)].tolist())
            for is_measured in (False, True):
                began = time.process_time()
                best(served, queries, [K] * USERS, hidden, Stages())
                if is_measured:
                    costs[share].append(time.process_time() - began)
    return {f"ranking_us_{share:g}": float(np.median(costs[share])) / USERS * 1e6 for share in SHARES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--ranked", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    opening("bench.catalogue", vars(asked))
    with TemporaryDirectory() as folder:
        figures = ranked(Path(folder), asked.ranked, asked.seed)
        with EmbeddedStore(Path(folder) / "store") as store, connect(store.address) as client:
            figures |= stored(client, asked.items) | counted(client, asked.items, asked.seed)
    for name, figure in figures.items():
        print(f"  {name:20} {figure:10.2f}")
    closing({name: round(figure, 3) for name, figure in figures.items()})


if __name__ == "__main__":
    main()
