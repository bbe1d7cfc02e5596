"""What bench.soak calls drift."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.soak import Window, figures_of


def soaked(p99_ms: Sequence[float], memory_mb: Sequence[float], *, failed: int = 0) -> dict[str, Any]:
    windows = [
        Window({"p99_ms": slow}, 50.0, {"own_0_mb": held}, 0) for slow, held in zip(p99_ms, memory_mb, strict=True)
    ]
    return figures_of([*windows[:-1], windows[-1]._replace(failed=failed)])


def test_the_last_tenth_is_held_against_the_first_one_after_the_warm_up() -> None:
    warming_up = [80.0] * 10
    figures = soaked([1.0] * 100, [*warming_up, *[100.0] * 45, *[106.0] * 45])
    assert figures["drift_percent"] == {"p99_ms": 0.0, "cpu_us": 0.0, "own_0_mb": 6.0}
    assert not figures["is_flat"]
    assert soaked([1.0] * 100, [*warming_up, *[100.0] * 45, *[104.0] * 45])["is_flat"]


def test_a_bad_moment_of_the_machine_is_no_drift_and_what_gets_quicker_is_none_either() -> None:
    figures = soaked([*[2.0] * 96, 90.0, 80.0, 1.0, 1.0], [100.0] * 100)
    assert figures["drift_percent"]["p99_ms"] == 0
    assert figures["is_flat"]
    assert soaked([*[2.0] * 50, *[1.0] * 50], [100.0] * 100)["is_flat"]


def test_a_request_without_its_answer_is_no_success_however_flat_all_was() -> None:
    assert not soaked([1.0] * 20, [100.0] * 20, failed=1)["is_flat"]
