"""LED as parameters of torch: tables, biases, and what an event weighs.

In mode project a user is P applied to the mean of e, and v_j = P e_j: the score <P m, P e_j> = <P' P m, e_j> needs
no table of v while training. What is handed over holds v, so that serving knows nothing of P.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag

from led.encoder import F32, LEAST_HEAD
from training.bfloat16 import has_bfloat16
from training.finetune.batches import Batch, Inputs
from training.finetune.settings import FinetuneSettings
from training.finetune.start import Start

WIDEST = math.log(1e6)  # of the logarithm of a weight: what an encoder can carry
GATHERED_COST = 34  # times that of one score among all items': one core, d = 64 and 128, 3,500 and 41,000 items


@dataclass(frozen=True)
class Learned:
    """What the streaming side needs. kind_weights: the first is 1. head_weights: newest first; half_life_s: or None."""

    inputs: F32
    outputs: F32
    biases: F32
    kind_weights: tuple[float, ...]
    half_life_s: float | None
    head_weights: tuple[float, ...]


class Network(nn.Module):
    """Parameters by name: table, biases and so on; a parameter that a mode does not train asks for no gradient."""

    def __init__(self, start: Start, settings: FinetuneSettings, rng: np.random.Generator) -> None:
        super().__init__()
        full, project = settings.tuning == "full", settings.tuning == "project"
        self.outputs = nn.Parameter(torch.tensor(start.outputs), requires_grad=full)
        self.inputs = self.outputs if settings.tied else nn.Parameter(torch.tensor(start.inputs), requires_grad=full)
        self.biases = nn.Parameter(torch.tensor(start.biases))
        dim = start.outputs.shape[1]
        self.output_projection = nn.Parameter(_projection(dim, settings, rng)) if project else None
        self.input_projection = self.output_projection
        if project and not settings.tied:
            self.input_projection = nn.Parameter(_projection(dim, settings, rng))
        logs = np.log(np.array(start.kind_weights) / start.kind_weights[0])
        self.first_kind = nn.Buffer(torch.zeros(1))
        self.log_kinds = nn.Parameter(torch.tensor(logs[1:], dtype=torch.float32), requires_grad=settings.learn_kinds)
        life = settings.half_life_s
        self.log_life = None
        if life is not None:
            self.log_life = nn.Parameter(torch.tensor(math.log(life)), requires_grad=settings.learn_decay)
        heads = start.head_weights
        if settings.heads:
            heads = (heads + (1.0,) * settings.heads)[: settings.heads]
        logs = np.log(np.array(heads, np.float64))
        self.log_heads = nn.Parameter(torch.tensor(logs, dtype=torch.float32), requires_grad=settings.heads > 0)
        self.bf16 = settings.bf16 and has_bfloat16()

    def means(self, inputs: Inputs) -> Tensor:
        """Weighted averages of input rows, (users, dim), before any projection; zero for a user without events."""
        if not len(inputs.rows):
            return torch.zeros(len(inputs.starts), self.inputs.shape[1])
        weights = self.weights(inputs)
        sums = embedding_bag(inputs.rows, self.inputs, inputs.starts, mode="sum", per_sample_weights=weights)
        totals = torch.zeros(len(inputs.starts)).index_add(0, inputs.owners, weights)[:, None]
        return sums / totals.clamp_min(torch.finfo(torch.float32).tiny)

    def weights(self, inputs: Inputs) -> Tensor:
        """What each event counts, (m,)."""
        logs = torch.cat([self.first_kind, self.log_kinds]).clamp(-WIDEST, WIDEST)[inputs.kinds]
        if self.log_life is not None:
            logs = logs - inputs.ages_s * (math.log(2.0) / self.log_life.exp())
        heads = len(self.log_heads)
        if heads:
            factors = self.log_heads.clamp(math.log(LEAST_HEAD), WIDEST)
            tail = torch.cat([factors, torch.zeros(1)])
            logs = logs + tail[inputs.ranks.clamp_max(heads)]
        return logs.exp()

    def queries(self, inputs: Inputs) -> Tensor:
        """Vectors (users, dim) whose inner products with `outputs` are scores without the bias."""
        means = self.means(inputs)
        if self.input_projection is None or self.output_projection is None:
            return means
        return means @ self.input_projection @ self.output_projection.T

    def scores(self, queries: Tensor) -> Tensor:
        """Scores of all items, (users, items)."""
        if self.bf16:
            return (queries.bfloat16() @ self.outputs.bfloat16().T).float() + self.biases
        return torch.addmm(self.biases, queries, self.outputs.T)

    def scores_of(self, queries: Tensor, rows: Tensor) -> Tensor:
        """Scores of chosen rows (users, n), a row of choices each."""
        chosen = embedding(rows, self.outputs)  # (users, n, dim)
        return torch.bmm(chosen, queries[:, :, None])[:, :, 0] + self.biases[rows]

    def scored(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scores of the targets (t,), and of the negatives (users, N) or, where none were drawn, of all items.

        All items are multiplied, which is one product of matrices, where picking negatives would move more memory.
        """
        queries = self.queries(batch.inputs)
        drawn, items = batch.negatives.shape[1], len(self.biases)
        if drawn and drawn * GATHERED_COST < items:
            aimed = (queries[batch.owners] * embedding(batch.targets, self.outputs)).sum(dim=1)
            return aimed + self.biases[batch.targets], self.scores_of(queries, batch.negatives)
        scores = self.scores(queries)
        aimed = scores[batch.owners, batch.targets]
        return aimed, scores.gather(1, batch.negatives) if drawn else scores

    def learned(self) -> Learned:
        """The parameters as NumPy arrays and numbers."""
        with torch.no_grad():
            inputs, outputs = self.inputs.detach(), self.outputs.detach()
            if self.output_projection is not None and self.input_projection is not None:
                inputs, outputs = inputs @ self.input_projection, outputs @ self.output_projection
            kinds = torch.cat([self.first_kind, self.log_kinds]).double().clamp(-WIDEST, WIDEST).exp().clamp(1e-6, 1e6)
            heads = self.log_heads.double().clamp(math.log(LEAST_HEAD), WIDEST).exp().clamp(LEAST_HEAD, 1e6)
            return Learned(
                inputs.numpy().copy(),
                outputs.numpy().copy(),
                self.biases.numpy().copy(),
                tuple(kinds.tolist()),
                None if self.log_life is None else float(self.log_life.exp()),
                tuple(heads.tolist()),
            )


def _projection(dim: int, settings: FinetuneSettings, rng: np.random.Generator) -> Tensor:
    if settings.projection_start == "identity":
        return torch.eye(dim)
    bound = math.sqrt(3.0 / dim)  # Glorot: 6 / (dim + dim)
    return torch.from_numpy(rng.uniform(-bound, bound, (dim, dim)).astype(np.float32))
