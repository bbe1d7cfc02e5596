"""What a training takes of memory is foretold: never much too little, and not far too much."""

from __future__ import annotations

import pytest

from bench.training_memory import WAYS, Size, measured
from training.memory import MIB, needed, needed_by_file
from training.spectral import SpectralSettings
from training.survey import Survey

SETTINGS = SpectralSettings(dim=64)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [Size(200_000, 20_000, 5_000, 64), Size(500_000, 50_000, 40_000, 64)])
def test_a_training_takes_what_was_foretold(size: Size, way: str) -> None:
    peak, estimate, _ = measured(size, way)
    assert 0.9 * peak <= estimate <= 1.3 * peak


def test_from_disk_a_training_grows_with_the_catalogue_and_hardly_with_events_or_users() -> None:
    large = Survey(events=100_000_000, users=5_000_000, items=200_000, bytes=6_000_000_000)
    larger = Survey(events=1_000_000_000, users=50_000_000, items=200_000, bytes=60_000_000_000)
    assert needed(large, SETTINGS).from_disk < 2048 * MIB < 8192 * MIB < needed(large, SETTINGS).in_memory
    assert needed(larger, SETTINGS).from_disk < 2 * needed(large, SETTINGS).from_disk


def test_what_gradients_change_is_foretold_beside_what_the_closed_form_takes() -> None:
    found = Survey(events=1_000_000, users=50_000, items=1_000_000, bytes=60_000_000)
    plain, tied, untied = (needed_by_file(found, SETTINGS, learnt_tables=tables) for tables in range(3))
    assert plain == needed(found, SETTINGS).in_memory
    assert untied - tied == 1_000_000 * 64 * 4 * (1 + 3) < tied - plain
