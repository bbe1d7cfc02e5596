"""What trainings by a file hold beside events, matrix and tables: the scores of a batch, and which items meet.

Sums of the arrays that are alive at once, at most. Of co-occurrences only a survey is known: users of unlike activity
are allowed for, up to SKEW times as many pairs as users of equal activity would have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.finetune.settings import FinetuneSettings
from training.joined import JoinedSettings
from training.pmi import BYTES_A_CELL, PmiSettings
from training.recipe import Recipe
from training.survey import Survey

if TYPE_CHECKING:
    from training.sessions.train import SessionSettings

NUMBER = 4.0  # bytes
SCORES = 5  # tables (users, items) of a batch: scores, what the loss keeps and makes of them, their gradient, its sum
GATHERED = 3  # tables (users, negatives, dim): rows picked, their gradient, what is made of it
GATHERED_COST = 34  # as in `training.finetune.network`, which is not imported: it needs torch
VALIDATED = 2 * 64 * 2**20  # scores of validation users held at a time, and what is sorted of them
OF_ELSA = 9  # tables (users, items) of a batch: users, at unit length, rebuilt, their differences, gradients
OF_SESSIONS = 5  # tables as long as a batch's rows, those of candidates too
JUDGED = 512  # prefixes scored at a time
SKEW = 8.0


def of_recipe(found: Survey, recipe: Recipe) -> float:
    """Bytes at most, of the largest stage."""
    stages = [0.0]
    if isinstance(recipe.begin, PmiSettings):
        stages.append(co_occurrences(found, recipe.begin))
    if isinstance(recipe.begin, JoinedSettings):
        stages.append(OF_ELSA * NUMBER * min(recipe.begin.batch, found.users) * found.items)
    if recipe.finetuning is not None:
        stages.append(of_finetuning(found, recipe.finetuning.settings, recipe.dim))
    return max(stages)


def co_occurrences(found: Survey, settings: PmiSettings) -> float:
    """Never more than settings.max_bytes, which a training refuses to exceed."""
    pairs = min(SKEW * found.events**2 / max(found.users, 1), float(found.items) ** 2)
    return min(BYTES_A_CELL * pairs, float(settings.max_bytes))


def of_finetuning(found: Survey, settings: FinetuneSettings, dim: int) -> float:
    """A batch or a validation, and the best epoch so far."""
    users, negatives = min(settings.batch_users, found.users), settings.negatives
    if settings.loss != "multinomial" and negatives * GATHERED_COST < found.items:
        batch = GATHERED * NUMBER * users * negatives * dim
    else:
        batch = SCORES * NUMBER * users * found.items
    validation = min(VALIDATED, 2 * NUMBER * found.users * found.items)
    return max(batch, validation) + NUMBER * dim * found.items * (1 if settings.tied else 2)


def of_sessions(found: Survey, settings: SessionSettings) -> float:
    """A batch or a judgement, and the best pass so far."""
    recipe, schedule = settings.recipe, settings.schedule
    rows = schedule.batch * (schedule.longest + 1) + 2 * recipe.share * found.items
    batch = OF_SESSIONS * NUMBER * recipe.dim * rows + 2 * NUMBER * schedule.batch * recipe.share * found.items
    judged = 3 * NUMBER * JUDGED * found.items if settings.held_out_share else 0.0
    return max(batch, judged) + NUMBER * recipe.dim * found.items
