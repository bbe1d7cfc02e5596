"""Learning curves as a picture, without a display."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Curve:
    """numbers, values: of passes, steps or epochs, as `unit` says. kept: whose model this is, where not the last's."""

    title: str
    unit: str
    numbers: Sequence[int]
    values: Sequence[float]
    kept: int | None = None


def learning_curves(curves: Sequence[Curve]) -> bytes:
    """A PNG of at least one curve, side by side. Needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(1, len(curves), squeeze=False)[0]
    for place, curve, color in zip(places, curves, ("tab:blue", "tab:green", "tab:red")[: len(curves)], strict=True):
        place.plot(curve.numbers, curve.values, color=color, marker="." if len(curve.values) < 50 else None)
        if curve.kept is not None:
            place.axvline(curve.kept, color="0.6", linestyle="--", label=f"kept: {curve.kept}")
            place.legend(loc="best")
        place.set(title=curve.title, xlabel=curve.unit)
        place.grid(alpha=0.3)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})  # one run, one file
    return drawn.getvalue()
