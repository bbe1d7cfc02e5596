"""What bench.churn calls flat."""

from __future__ import annotations

import numpy as np

from bench.churn import drift

AT = np.arange(0.0, 100.0, 2.0)


def test_what_rises_by_a_hundredth_drifts_by_one_percent() -> None:
    assert drift(AT, np.linspace(99.5, 100.5, len(AT))) == (1.0, 1.0)


def test_what_goes_up_and_down_does_not_drift_but_shows_as_spread() -> None:
    moved, spread = drift(AT, 100 + np.where(np.arange(len(AT)) % 2, 5.0, -5.0))
    assert abs(moved) < 0.7
    assert spread == 10.0


def test_what_is_not_there_does_not_drift() -> None:
    assert drift(AT, np.zeros(len(AT))) == (0.0, 0.0)
