"""The closed form with output rows of more even length: a user's own corner of the catalogue counts for more.

V's row of an item is the shorter the less the leading directions tell about the item, and the closed form of
training/spectral.py multiplies it by the square root of the item's sum n_i. Both hold back items with little evidence,
twice over. Here the length of the row counts less, and so does the sum:

    input embeddings V S^p D_i^-1/2,    output embedding of item i: v_i * |v_i|^-level * n_i^popular.

level = 0 and popular = 1/2 is the closed form itself; level = 1 leaves direction and popularity alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from led.encoder import F32
from training.progress import Progress, silent
from training.spectral import SpectralSettings, Spectrum, averaged, decompose, raised
from training.svd import Sparse


@dataclass(frozen=True)
class LevelledSettings:
    """spectral: the closed form. level: from 0 to 1, how much of a row's length is taken off. popular: exponent."""

    spectral: SpectralSettings = field(default_factory=lambda: SpectralSettings(dim=1024, a=0.4))
    level: float = 0.5
    popular: float = 0.35

    def __post_init__(self) -> None:
        if not 0 <= self.level <= 1:
            raise ValueError(f"level = {self.level}: must be from 0 to 1")
        if not np.isfinite(self.popular):
            raise ValueError(f"popular = {self.popular}: must be finite")


def levelled_embeddings(matrix: Sparse, settings: LevelledSettings, progress: Progress = silent) -> tuple[F32, F32]:
    """Input and output embeddings (items, dim) of an interaction matrix with at least one cell, none below 0.

    Rows of items without interactions are zero. Scaled as the closed form's: output rows have a mean square length
    of 1, and the mean score of users' own items is 1.
    """
    spectrum = decompose(matrix, settings.spectral, progress)
    inputs = spectrum.embeddings(settings.spectral.p)[0]
    outputs = spectrum.right * item_lengths(spectrum, settings.level, settings.popular)[:, None]
    outputs /= np.sqrt(np.square(outputs).sum() / max(len(outputs), 1))
    users = averaged(matrix)
    own = np.einsum("ud,ud->", users @ inputs, users @ outputs, dtype=np.float64) / users.shape[0]
    return inputs / np.float32(own if own > 0 else 1.0), outputs


def item_lengths(spectrum: Spectrum, level: float, popular: float) -> F32:
    """What multiplies each row of V on the way out, (items,)."""
    rows = np.linalg.norm(spectrum.right.astype(np.float64), axis=1)
    lengths = raised(rows, -level) * raised(spectrum.item_sums, popular)
    return lengths.astype(np.float32)
