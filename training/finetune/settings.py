"""How fine-tuning is done. The defaults are the recipe of LED's code where that is known: BPR, N = 1000, lr .001."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from led.encoder import I64, MOST_HEADS
from training.finetune.start import WarmStart

Tuning = Literal["full", "project", "fixed"]
Loss = Literal["bpr", "ns", "css", "multinomial"]
Average = Literal["events", "users", "sums"]
Order = Literal["random", "newest"]
ProjectionStart = Literal["identity", "random"]


@dataclass(frozen=True)
class FinetuneSettings:
    """What is trained, on what, and for how long.

    loss, negatives (N), sum_negatives: see `training.finetune.losses`; negatives are drawn uniformly, with replacement.
    average: how positives count, see `target_weights`; by default as LED's code has it: every positive the same for
    bpr and ns, summed per user for css and multinomial.
    tuning: full trains every row; project trains P in v = P e, with the table e as it starts; fixed trains biases only.
    tied: input and output share one table (one P), which begins as `training.finetune.tying` says.
    projection_start: of P. positives: kinds that are predicted; none named: all. masking: the share of the input that
    is left out. order, target_ratio: how a user's events become input and targets, see `training.finetune.parting`.
    learn_kinds: a weight for each kind after the first. learn_decay: the half-life, begun at half_life_s. heads: how
    many factors of the newest events are learned. newest: only so many of the newest events are input; None for all.
    lr, batch_users: Adam's, and the users of a step. encoder_lr: of kinds, decay and heads; None for lr.
    epochs: at most. patience: so many validations without a better ndcg end it. validate_every: epochs.
    bf16: scores are multiplied in bfloat16 where the processor does that itself. threads: of torch; None leaves them
    alone. One seed, the same threads and a processor alike make the same bytes.
    """

    loss: Loss = "bpr"
    negatives: int = 1000
    sum_negatives: bool = False
    average: Average | None = None
    tuning: Tuning = "full"
    tied: bool = True
    projection_start: ProjectionStart = "identity"
    positives: tuple[str, ...] = ()
    order: Order = "random"
    target_ratio: float = 0.2
    masking: float = 0.5
    learn_kinds: bool = False
    learn_decay: bool = False
    half_life_s: float | None = None
    heads: int = 0
    newest: int | None = None
    lr: float = 0.001
    encoder_lr: float | None = None
    batch_users: int = 512
    epochs: int = 100
    patience: int = 10
    validate_every: int = 1
    bf16: bool = False
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, words in (
            ("loss", Loss),
            ("tuning", Tuning),
            ("order", Order),
            ("projection_start", ProjectionStart),
        ):
            self._must(name, getattr(self, name) in get_args(words), f"one of {', '.join(get_args(words))}")
        self._must("average", self.average in (None, *get_args(Average)), f"one of {', '.join(get_args(Average))}")
        for name in ("negatives", "batch_users", "epochs", "patience", "validate_every"):
            self._must(name, getattr(self, name) >= 1, "at least 1")
        for name in ("newest", "threads"):
            self._must(name, getattr(self, name) is None or getattr(self, name) >= 1, "at least 1, or none")
        for name in ("lr", "encoder_lr", "half_life_s"):
            value = getattr(self, name)
            self._must(name, (value is None and name != "lr") or (value is not None and 0 < value < np.inf), "above 0")
        self._must("seed", self.seed >= 0, "at least 0")
        self._must("target_ratio", 0 < self.target_ratio <= 1, "above 0 and at most 1")
        self._must("masking", 0 <= self.masking < 1, "at least 0 and below 1")
        self._must("heads", 0 <= self.heads <= MOST_HEADS, f"from 0 to {MOST_HEADS}")
        self._must("half_life_s", self.half_life_s is not None or not self.learn_decay, "given where decay is learned")

    def _must(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise ValueError(f"{name} = {getattr(self, name)}: must be {what}")

    @property
    def averaged_over(self) -> Average:
        """How positives count, with the default of the loss filled in."""
        return self.average or ("events" if self.loss in ("bpr", "ns") else "sums")


@dataclass(frozen=True)
class ValidationSettings:
    """On whom early stopping looks: users_share of the users, at most max_users, whom no training sees.

    ndcg@k, over all items but those folded in.
    """

    users_share: float = 0.1
    max_users: int = 2000
    k: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.users_share < 1:
            raise ValueError(f"users_share = {self.users_share}: must be above 0 and below 1")
        for name in ("max_users", "k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")

    def users(self, of: int, seed: int) -> I64:
        """Who they are among so many users, rising. One seed, the same ones."""
        drawn = np.random.default_rng(seed).permutation(of)[: min(int(self.users_share * of), self.max_users)]
        return np.sort(drawn)


@dataclass(frozen=True)
class Stage:
    """How fine-tuning goes. warm: begin at an earlier model, not at the pre-trained one. checkpoint: see `finetune`."""

    settings: FinetuneSettings
    validation: ValidationSettings = field(default_factory=ValidationSettings)
    warm: WarmStart | None = None
    checkpoint: Path | None = None
