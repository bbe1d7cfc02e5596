"""Many dimensions drawn in two: where items lie to each other, for people to look at."""

from __future__ import annotations

import numpy as np

from led.encoder import F32


def plane(vectors: F32) -> F32:
    """Points (n, 2) in [-1, 1] for vectors (n, dim): their directions along the two axes of most variance.

    The same vectors give the same points, but for a direction that the sum of cubes fixes. Zeros where there are fewer
    than two vectors, or all lie in one direction.
    """
    points = np.zeros((len(vectors), 2), np.float32)
    if len(vectors) < 2:
        return points
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = (vectors / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float64)
    directions -= directions.mean(axis=0)
    _, axes = np.linalg.eigh(directions.T @ directions)
    found = directions @ axes[:, :-3:-1]
    found *= np.where((found**3).sum(axis=0) < 0, -1, 1)
    points[:, : found.shape[1]] = found / max(float(np.abs(found).max()), 1e-12)
    return points
