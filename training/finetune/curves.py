"""The learning curves of a run as a picture, without a display."""

from __future__ import annotations

import io
from collections.abc import Sequence

from training.finetune.run import Epoch


def learning_curves(history: Sequence[Epoch], best_epoch: int, k: int) -> bytes:
    """A PNG: loss by epoch and, where there was a validation, ndcg@k with the epoch that was kept."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    looked = [epoch for epoch in history if epoch.ndcg is not None]
    figure = Figure(figsize=(8, 3.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(1, 2 if looked else 1, squeeze=False)[0]
    places[0].plot([epoch.number for epoch in history], [epoch.loss for epoch in history], color="tab:blue")
    places[0].set(title="training loss", xlabel="epoch")
    if looked:
        figures = [epoch.ndcg for epoch in looked if epoch.ndcg is not None]
        places[1].plot([epoch.number for epoch in looked], figures, color="tab:green", marker=".")
        places[1].axvline(best_epoch, color="0.6", linestyle="--", label=f"kept: {best_epoch}")
        places[1].set(title=f"validation ndcg@{k}", xlabel="epoch")
        places[1].legend(loc="lower right")
    for place in places:
        place.grid(alpha=0.3)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})  # one run, one file
    return drawn.getvalue()
