"""Items that nobody is to be shown fall out of every ranking, and the others move up: against the slow obvious way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serving.ranking import best, most_popular
from serving.served import Served
from stream.stages import Stages
from tests.worlds import NOW_MS, releases, two_tastes

K = 10


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.97, 1.0])
def test_what_is_withheld_leaves_the_others_in_their_order(tmp_path: Path, share: float) -> None:
    published, rng = releases(tmp_path), np.random.default_rng(1)
    withheld: set[int] = set()
    served = Served(published.load(published.publish(two_tastes(per_taste=200), now_ms=NOW_MS)), withheld)
    release = served.release
    withheld.update(rng.permutation(release.item_keys)[: int(share * release.items)].tolist())
    withheld.add(7)  # which the release does not know
    vectors = rng.normal(size=(20, release.dim)).astype(np.float32)
    hidden = [set(rng.permutation(release.item_keys)[:30].tolist()) for _ in vectors]
    queries = np.hstack([vectors, np.ones((20, 1), np.float32)])
    ranked = best(served, queries, [K] * 20, hidden, Stages())
    for vector, of_user, found in zip(vectors, hidden, ranked, strict=True):
        scores = release.output_embeddings @ vector + release.biases
        order = [row for row in np.argsort(-scores).tolist() if int(release.item_keys[row]) not in of_user | withheld]
        assert list(found.rows) == order[:K]
    popular = most_popular(served, K, hidden[0]).rows
    order = np.argsort(-release.popularity).tolist()
    assert list(popular) == [row for row in order if int(release.item_keys[row]) not in hidden[0] | withheld][:K]
