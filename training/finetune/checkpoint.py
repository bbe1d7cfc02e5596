"""A run of fine-tuning between two epochs, as a file."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.finetune.settings import FinetuneSettings
from training.finetune.start import Start
from training.finetune.timelines import Timelines


class OtherRun(ValueError):
    """A checkpoint that is of other events, settings or another start, or that cannot be read: says which file."""


@dataclass(frozen=True)
class Checkpoint:
    """network, best: parameters by name, now and of the best epoch. best_figures: that epoch and its ndcg."""

    fingerprint: str
    network: dict[str, Any]
    adam: dict[str, Any]
    best: dict[str, Tensor]
    best_figures: tuple[int, float | None]
    history: list[tuple[int, float, float | None, float]]

    def write(self, path: Path) -> None:
        """Replace the file whole: a reader finds this or what was there before."""
        unfinished = path.with_name(f".{path.name}.unfinished")
        torch.save(vars(self), unfinished)
        unfinished.replace(path)

    @classmethod
    def read(cls, path: Path, expected: str) -> Checkpoint:
        """Raises OtherRun where its fingerprint is not the expected one."""
        try:
            found = cls(**torch.load(path, weights_only=True))
        except (OSError, RuntimeError, TypeError, ValueError, EOFError, LookupError, pickle.PickleError) as error:
            raise OtherRun(f"{path} cannot be read as a checkpoint: {error}") from error
        if found.fingerprint != expected:
            raise OtherRun(f"{path} is of other events, settings or another start: remove it to begin anew")
        return found


def fingerprint(timelines: Timelines, start: Start, settings: FinetuneSettings, k: int | None) -> str:
    """Says whether two runs take the same steps and judge them alike, by ndcg@k; no k, no judging.

    How long they go on, epochs and patience, may differ.
    """
    steps = asdict(replace(settings, epochs=1, patience=1, threads=None))
    digest = hashlib.blake2b(repr((steps, start.kind_weights, start.head_weights, k)).encode(), digest_size=16)
    columns = (timelines.ends, timelines.rows, timelines.kinds, timelines.times_ms, timelines.is_positive)
    for array in (*columns, start.inputs, start.outputs, start.biases):
        digest.update(array.tobytes())
    return digest.hexdigest()
