"""The benchmark of LED's shape on a handful of tastes: rows in order, differences from the first, a picture of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from bench.led_shape import draw
from training.benchmarks.comparison import Measures, Trial
from training.benchmarks.led_shape import BASE, Shape, curves, rows
from training.evaluate import Task, row_as_json
from training.interactions import without_times


@pytest.fixture
def trial() -> Trial:
    """Ninety users of three tastes to train on, thirty more to choose by and to test."""
    rng = np.random.default_rng(0)
    columns = np.stack([8 * (user % 3) + rng.permutation(8)[:6] for user in range(120)])
    train = without_times(np.repeat(np.arange(90), 6), columns[:90].ravel(), (90, 24))

    def ones(items: np.ndarray) -> sp.csr_array:
        place = (np.repeat(np.arange(30), items.shape[1]), items.ravel())
        return sp.csr_array((np.ones(items.size, np.float32), place), shape=(30, 24))

    task = Task(ones(columns[90:, :4]), ones(columns[90:, 4:]))
    return Trial(train, task, train, {"tastes": task}, Measures("ndcg@100", ("recall@50", "ndcg@100")))


def test_configurations_are_trained_chosen_and_compared_with_the_first(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr("training.benchmarks.led_shape.STEPS_AT_MOST", 20)
    monkeypatch.setattr("training.benchmarks.led_shape.K", 2)
    few = replace(BASE, negatives=3)
    shapes = (
        Shape("multinomial", replace(BASE, loss="multinomial")),
        Shape("bpr, N = 3", few),
        Shape("random, full", few, share=0.1),
        Shape("svd, project", replace(few, tuning="project"), start="svd", share=0.1),
    )
    found = [json.loads(row_as_json(row)) for row in rows(shapes, trial, 4)]
    assert [row["model"] for row in found] == [shape.label for shape in shapes]
    assert found[0]["against multinomial"] == 0.0
    assert {row["tried"] for row in found} == {2}
    assert found[3]["against multinomial"] < 0.3
    assert all(0 <= row["recall@20"] <= 1 for row in found)
    draw(found, tmp_path / "shape.png")
    assert (tmp_path / "shape.png").read_bytes().startswith(b"\x89PNG")


def test_every_curve_of_the_paper_has_its_points() -> None:
    found = curves()
    assert [shape.settings.loss for shape in found["losses"]] == ["multinomial", "ns", "css", *["bpr"] * 4]
    assert [shape.settings.negatives for shape in found["losses"][3:]] == [1000, 100, 10, 1]
    assert {shape.share for some in found.values() for shape in some} == {0.01, 0.1, 1.0}
