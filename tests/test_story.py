"""Every trained release holds the story of its making, and curves where it was learned step by step."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from store.releases import Model
from tests.gated_world import DIM, KINDS, archive, model_of
from training.bfloat16 import has_bfloat16, says_bfloat16
from training.denoised import DenoisedSettings
from training.interactions import Selection
from training.narrow import NarrowSettings
from training.pmi import PmiSettings
from training.recipe import Begin, Recipe, made
from training.story import CURVES, STORY, told
from training.streamed import train_streamed
from training.survey import survey
from training.train import TrainSettings

GENERAL = TrainSettings(Selection(KINDS), grid=None)
NARROW = NarrowSettings(dim=4, wide=16, users=100, candidates=50, steps=5)


@pytest.fixture(scope="module")
def events() -> pa.Table:
    return archive(seed=0)


def story_of(model: Model) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(model.attachments[STORY])
    return found


def by(begin: Begin) -> Callable[[pa.Table], Model]:
    return lambda events: made(events, Recipe(GENERAL, begin))


@pytest.mark.parametrize(
    ("trained", "name", "seed"),
    [
        (model_of, "spectral", 0),
        (by(PmiSettings(dim=DIM, min_count=1, seed=2)), "pmi", 2),
        (by(DenoisedSettings(dim=DIM, seed=3)), "denoised", 3),
        (by(replace(NARROW, seed=4)), "narrow", 4),
    ],
)
def test_a_release_tells_settings_seed_span_versions_seconds_and_memory(
    events: pa.Table, trained: Callable[[pa.Table], Model], name: str, seed: int
) -> None:
    model = trained(events)
    story = story_of(model)
    assert story["about"] == json.loads(json.dumps(model.about))
    assert story["about"][name]["seed"] == seed
    times_ms = events["time_ms"].to_numpy()
    assert (story["about"]["from_ms"], story["about"]["to_ms"]) == (times_ms.min(), times_ms.max())
    settings = story["settings"].get("general", story["settings"])
    assert settings["selection"]["kind_weights"] == KINDS
    assert {"ledstream", "numpy", "scipy"} <= story["versions"].keys()
    assert story["cpu_seconds"] > 0
    assert story["peak_mb"] > 20
    assert (CURVES in model.attachments) == (name == "narrow")


def test_a_training_from_disk_tells_the_same(events: pa.Table, tmp_path: Path) -> None:
    found = survey([events], list(KINDS))
    story = story_of(train_streamed(lambda: [events], GENERAL, found, tmp_path))
    assert story["settings"]["selection"]["kind_weights"] == KINDS
    assert story["cpu_seconds"] > 0


def test_narrow_tables_show_the_loss_of_every_step(events: pa.Table) -> None:
    pytest.importorskip("matplotlib")
    model = by(NARROW)(events)
    (curve,) = story_of(model)["curves"]
    assert (curve["unit"], curve["numbers"]) == ("step", [1, 2, 3, 4, 5])
    assert all(loss > 0 for loss in curve["values"])
    assert model.attachments[CURVES].startswith(b"\x89PNG")


def test_sessions_show_the_loss_and_the_recall_of_every_pass(events: pa.Table) -> None:
    pytest.importorskip("torch")
    from training.sessions.learner import Recipe as SessionRecipe
    from training.sessions.teaching import Schedule
    from training.sessions.train import SessionSettings, train_sessions

    settings = SessionSettings(
        session_gap_s=1e5,
        recipe=SessionRecipe(dim=8, share=0.5),
        schedule=Schedule(passes=2, batch=256),
        held_out_share=0.2,
        seed=5,
    )
    model = train_sessions(events, settings)
    story = story_of(model)
    losses, recalls = story["curves"]
    assert losses["numbers"] == recalls["numbers"] == [1, 2]
    assert losses["values"][1] < losses["values"][0]
    assert 0 < recalls["values"][1] <= 1
    assert (story["settings"]["seed"], story["settings"]["recipe"]["dim"]) == (5, 8)
    assert story["versions"].keys() >= {"torch"}
    assert model.attachments[CURVES].startswith(b"\x89PNG")


def test_what_an_earlier_stage_told_stays_beside_what_a_later_one_tells(events: pa.Table) -> None:
    model = told(told(model_of(events), {"first": 1, "both": 1}), {"both": 2})
    story = story_of(model)
    assert (story["first"], story["both"]) == (1, 2)


def test_a_processor_is_asked_whether_it_multiplies_in_bfloat16() -> None:
    assert says_bfloat16("model name\t: x\nflags\t\t: fpu avx512f avx512_bf16 amx_tile\n")
    assert says_bfloat16("Features\t: fp asimd i8mm bf16 dgh\n")
    assert not says_bfloat16("model name\t: a bf16 one\nflags\t\t: fpu avx512f avx512bw\n")


def test_where_the_processor_has_no_bfloat16_both_learners_multiply_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    import numpy as np

    from training.finetune.network import Network
    from training.finetune.settings import FinetuneSettings
    from training.finetune.start import random_start
    from training.sessions.learner import Learner
    from training.sessions.learner import Recipe as SessionRecipe

    def chosen() -> tuple[bool, bool]:
        rng = np.random.default_rng(0)
        network = Network(random_start(5, 2, rng), FinetuneSettings(bf16=True), rng)
        return network.bf16, Learner(5, SessionRecipe(dim=2), rng).products is torch.bfloat16

    assert chosen() == (has_bfloat16(), has_bfloat16())
    has_bfloat16.cache_clear()
    monkeypatch.setattr("training.bfloat16.CPUINFO", Path("/nothing/here"))
    try:
        assert chosen() == (False, False)
    finally:
        has_bfloat16.cache_clear()
