"""Pictures of LED's shape from rows that `ledstream evaluate --benchmark led-shape --json` printed.

    ledstream evaluate --benchmark led-shape --json > rows.jsonl
    python -m bench.led_shape rows.jsonl --into docs/img

One PNG a benchmark: losses and numbers of negatives on the left, starts and tuning modes by share of the users on the
right. Bars are the standard error of a difference from the curve's first row, over test users.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
MODES = ("random, full", "svd, full", "svd, project")


def main(argv: Sequence[str] | None = None) -> None:
    """Draw every benchmark in the file."""
    parser = argparse.ArgumentParser(description="Draw LED's shape from rows of `ledstream evaluate --json`.")
    parser.add_argument("rows", type=Path, help="a JSON object a line")
    parser.add_argument("--into", type=Path, default=Path("docs/img"), help="folder of the pictures (docs/img)")
    arguments = parser.parse_args(argv)
    rows = [json.loads(line) for line in arguments.rows.read_text().splitlines() if line.startswith("{")]
    arguments.into.mkdir(parents=True, exist_ok=True)
    for name in sorted({row["benchmark"] for row in rows}):
        path = arguments.into / f"{name.replace(' ', '-')}.png"
        draw([row for row in rows if row["benchmark"] == name], path)
        print(path)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write the picture of one benchmark."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    losses, shares = figure.subplots(1, 2)
    figure.suptitle(f"{rows[0]['benchmark']}, d = {rows[0]['d']}", fontsize=10)
    _draw_losses(losses, _losses(rows))
    _draw_shares(shares, rows)
    for place in (losses, shares):
        place.set(xscale="log", ylabel="recall@50")
        place.grid(alpha=0.3)
        place.legend(fontsize=7, loc="lower right")
    figure.savefig(path, format="png", metadata={"Software": None})


def _losses(rows: Iterable[Row]) -> dict[str, Row]:
    return {row["model"]: row for row in rows if row["model"] not in MODES}


def _draw_losses(place: Any, by_name: Mapping[str, Row]) -> None:
    bpr = sorted((int(name.rpartition(" ")[2]), row) for name, row in by_name.items() if name.startswith("bpr"))
    figures = [row["recall@50"] for _, row in bpr]
    place.errorbar([n for n, _ in bpr], figures, [row["standard error"] for _, row in bpr], marker="o", label="bpr")
    for name, colour in (("ns", "tab:green"), ("css", "tab:red")):
        if name in by_name:
            row = by_name[name]
            place.errorbar([1000], [row["recall@50"]], [row["standard error"]], marker="s", color=colour, label=name)
    if "multinomial" in by_name:
        place.axhline(by_name["multinomial"]["recall@50"], color="0.4", linestyle="--", label="multinomial")
    place.set(xlabel="negatives a user, N")


def _draw_shares(place: Any, rows: Sequence[Row]) -> None:
    for mode in MODES:
        found = sorted((row["settings"]["share"], row) for row in rows if row["model"] == mode)
        if found:
            shares, figures = [share for share, _ in found], [row["recall@50"] for _, row in found]
            place.errorbar(shares, figures, [row["standard error"] for _, row in found], marker="o", label=mode)
    place.set(xlabel="share of the training users")


if __name__ == "__main__":
    main()
