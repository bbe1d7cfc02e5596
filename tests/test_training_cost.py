from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from bench.training_cost import World, cost, draw


def test_more_users_bring_no_parameters_and_the_curves_are_drawn(tmp_path: Path) -> None:
    few, many = (cost(World(users, 5, 300, seed=0), negatives=3, dim=8) for users in (60, 600))
    assert few.parameters == many.parameters == 300 * 8 + 300
    assert (few.events, many.events) == (300, 3000)
    assert min(few.epoch_s, few.closed_s) > 0
    draw(tmp_path / "cost.png", [few, many], [few], [few])
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")
