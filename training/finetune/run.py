"""A run of fine-tuning: epochs of Adam, the best of them kept, able to go on where it was interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.finetune import losses
from training.finetune.batches import Batch, epoch
from training.finetune.checkpoint import Checkpoint, fingerprint
from training.finetune.network import Learned, Network
from training.finetune.settings import FinetuneSettings
from training.finetune.start import Start
from training.finetune.timelines import Timelines
from training.finetune.validation import Validation, ndcg
from training.progress import Progress, silent


class Diverged(ArithmeticError):
    """The loss is no number any more: says in which epoch."""


@dataclass(frozen=True)
class Epoch:
    """One pass over the users. loss: mean of its batches. ndcg: on the validation, None where it was not looked at."""

    number: int
    loss: float
    ndcg: float | None
    cpu_seconds: float


@dataclass(frozen=True)
class Finetuned:
    """learned: of the best epoch by ndcg, epoch 0 being the start; of the last one where there is no validation."""

    learned: Learned
    history: tuple[Epoch, ...]
    best_epoch: int
    best_ndcg: float | None


def finetune(
    timelines: Timelines,
    validation: Validation | None,
    start: Start,
    settings: FinetuneSettings,
    *,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> Finetuned:
    """Train until no epoch gets better, or for settings.epochs.

    checkpoint: written after every epoch, removed at the end. Where it is there already the run goes on from it and
    ends as it would have without interruption, bit for bit. Raises Diverged, or OtherRun for another run's checkpoint.
    """
    with _threads(settings.threads):
        run = Run(timelines, validation, start, settings)
        if checkpoint is not None and checkpoint.exists():
            run.resume(Checkpoint.read(checkpoint, run.fingerprint))
        while not run.is_over:
            progress("fine-tuning, epochs", run.epochs_done, settings.epochs)
            run.next_epoch()
            if checkpoint is not None:
                run.checkpoint().write(checkpoint)
        progress("fine-tuning, epochs", settings.epochs, settings.epochs)
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        return run.finished()


class Run:
    """The state of a run between two epochs. clock: seconds of CPU, for figures only."""

    def __init__(
        self,
        timelines: Timelines,
        validation: Validation | None,
        start: Start,
        settings: FinetuneSettings,
        clock: Callable[[], float] = time.process_time,
    ) -> None:
        self._timelines, self._validation, self._settings, self._clock = timelines, validation, settings, clock
        self.fingerprint = fingerprint(timelines, start, settings, None if validation is None else validation.k)
        self.network = Network(start, settings, np.random.default_rng([settings.seed, 0]))
        self._adam = _adam(self.network, settings)
        self._history: list[Epoch] = []
        self._best = self._copied()
        self._best_epoch, self._best_ndcg = 0, None if validation is None else ndcg(self.network, validation)

    @property
    def epochs_done(self) -> int:
        return len(self._history)

    @property
    def is_over(self) -> bool:
        waited = self.epochs_done - self._best_epoch
        impatient = self._validation is not None and waited >= self._settings.patience * self._settings.validate_every
        return self.epochs_done >= self._settings.epochs or impatient

    def next_epoch(self) -> None:
        """One pass over the users and, when it is time, a look at the validation."""
        began, number = self._clock(), self.epochs_done + 1
        of_batches = [self._step(batch) for batch in self._batches(number)]
        loss = float(np.mean(of_batches)) if of_batches else 0.0
        if not np.isfinite(loss):
            raise Diverged(f"the loss is {loss} in epoch {number}: a lower lr than {self._settings.lr} may help")
        found = None
        if self._validation is None:
            self._best_epoch, self._best = number, self._copied()
        elif number % self._settings.validate_every == 0 or number == self._settings.epochs:
            found = ndcg(self.network, self._validation)
            if self._best_ndcg is None or found > self._best_ndcg:
                self._best_epoch, self._best_ndcg, self._best = number, found, self._copied()
        self._history.append(Epoch(number, loss, found, self._clock() - began))

    def checkpoint(self) -> Checkpoint:
        """All of this state."""
        history = [(past.number, past.loss, past.ndcg, past.cpu_seconds) for past in self._history]
        best = (self._best_epoch, self._best_ndcg)
        return Checkpoint(
            self.fingerprint, self.network.state_dict(), self._adam.state_dict(), self._best, best, history
        )

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from it."""
        self.network.load_state_dict(checkpoint.network)
        self._adam.load_state_dict(checkpoint.adam)
        self._best, (self._best_epoch, self._best_ndcg) = checkpoint.best, checkpoint.best_figures
        self._history = [Epoch(*past) for past in checkpoint.history]

    def finished(self) -> Finetuned:
        """The best of what was seen; the network holds it afterwards."""
        self.network.load_state_dict(self._best)
        return Finetuned(self.network.learned(), tuple(self._history), self._best_epoch, self._best_ndcg)

    def _batches(self, number: int) -> Iterator[Batch]:
        return epoch(self._timelines, self._settings, np.random.default_rng([self._settings.seed, number]))

    def _step(self, batch: Batch) -> float:
        self._adam.zero_grad()
        loss = loss_of(self.network, batch, self._settings)
        loss.backward()  # type: ignore[no-untyped-call]
        self._adam.step()
        return loss.item()

    def _copied(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.network.state_dict().items()}


def loss_of(network: Network, batch: Batch, settings: FinetuneSettings) -> Tensor:
    """The loss of a batch, a number."""
    scores, others = network.scored(batch)
    weights = losses.target_weights(batch.owners, len(batch.inputs.starts), settings.averaged_over)
    positives = losses.Positives(scores, batch.owners, weights)
    over = 1.0 if settings.sum_negatives else float(settings.negatives)
    if settings.loss == "bpr":
        return losses.bpr(positives, others, over)
    if settings.loss == "ns":
        return losses.ns(positives, others, over)
    if settings.loss == "css":
        return losses.css(positives, others, len(network.biases))
    return losses.multinomial(positives, others)


def _adam(network: Network, settings: FinetuneSettings) -> torch.optim.Adam:
    of_encoder = [network.log_kinds, network.log_heads, *([] if network.log_life is None else [network.log_life])]
    names = {id(parameter) for parameter in of_encoder}
    groups = [
        {"params": [p for p in network.parameters() if p.requires_grad and id(p) not in names], "lr": settings.lr},
        {"params": [p for p in of_encoder if p.requires_grad], "lr": settings.encoder_lr or settings.lr},
    ]
    return torch.optim.Adam([group for group in groups if group["params"]], fused=True)


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
