"""What a release tells of its making: a JSON of everything that made it, and learning curves where there were any."""

from __future__ import annotations

import json
import logging
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.util import find_spec

from store.releases import Model
from training.bfloat16 import has_bfloat16
from training.curves import Curve, learning_curves
from training.peak_memory import peak_mb

logger = logging.getLogger(__name__)
CURVES, STORY = "learning-curves.png", "training.json"
LIBRARIES = ("ledstream", "numpy", "scipy", "torch")


def told(model: Model, what: Mapping[str, object]) -> Model:
    """The model with this, what it is about, versions and peak memory in its training.json, beside what stands there.

    what: must be JSON but for paths. To be called where the training is over; of a name that is told
    twice, the last counts.
    """
    found = model.attachments.get(STORY)
    story = {
        "about": model.about,
        "encoder": {
            "kind_weights": dict(model.kind_weights),
            "half_life_s": model.half_life_s,
            "head_weights": list(model.head_weights),
        },
        "peak_mb": peak_mb(),
        "versions": {name: version(name) for name in LIBRARIES if name in sys.modules or name == "ledstream"},
        "python": platform.python_version(),
        "bfloat16": has_bfloat16(),
    }
    everything = {**(json.loads(found) if found else {}), **story, **what}
    written = (json.dumps(everything, indent=2, default=str) + "\n").encode()
    return replace(model, attachments={**model.attachments, STORY: written})


def drawn(model: Model, curves: Sequence[Curve]) -> Model:
    """The model with its learning curves in figures, and as a picture; without that where matplotlib is not installed,
    which is said."""
    model = told(model, {"curves": [asdict(curve) for curve in curves]})
    if find_spec("matplotlib") is None:
        logger.info("no learning curves: they need matplotlib: pip install 'ledstream[train]'")
        return model
    return replace(model, attachments={**model.attachments, CURVES: learning_curves(curves)})
