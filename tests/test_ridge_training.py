"""Ridges through noise, and tables joined with them, trained as releases are: chosen, judged and turned like others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from store.releases import Model
from tests.gated_world import DIM, KINDS, GatedWorld, archive, before_the_last_hour
from training.alignment import aligned
from training.denoised import DenoisedSettings
from training.interactions import Selection, collect
from training.joined import JoinedSettings
from training.recipe import Recipe, made
from training.ridge_choice import RIDGES, choose_ridge
from training.train import Grid, TrainSettings
from training.warm_start import start_from

GENERAL = TrainSettings(Selection(KINDS), grid=None)
TUNED = replace(GENERAL, grid=Grid())
RIDGE = DenoisedSettings(dim=DIM, ridge=3000.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> GatedWorld:
    return GatedWorld(tmp_path_factory.mktemp("releases"))


@pytest.fixture(scope="module")
def model(world: GatedWorld) -> Model:
    return made(world.events, Recipe(TUNED, RIDGE))


def test_a_ridge_through_noise_is_chosen_on_validation_and_the_release_tells(world: GatedWorld, model: Model) -> None:
    told = model.about["denoised"]
    assert isinstance(told, dict)
    assert told["ridge"] in RIDGES  # what was set is far too much for so few events
    assert model.about["tried"] == len(RIDGES) + 1 + 2 + 3
    assert model.about["validation"]
    unasked = choose_ridge(collect(world.events, GENERAL.selection), RIDGE, GENERAL)
    assert (unasked.settings, unasked.tried) == (RIDGE, 0)


def test_it_passes_the_gate_against_a_champion_of_the_closed_form_and_lies_as_it_did(
    world: GatedWorld, model: Model
) -> None:
    turned = aligned(model, world.releases.load(world.champion))
    alignment = turned.about["alignment"]
    assert isinstance(alignment, dict)
    assert alignment["cosine_after"] > max(0.5, alignment["cosine_before"])
    report = world.examine(world.publish(turned))
    assert report.passed, report.lines()


def test_no_search_for_singular_vectors_begins_at_a_ridge(world: GatedWorld, model: Model) -> None:
    release = world.releases.load(world.publish(replace(model, about={**model.about, "more": 1})))
    interactions = collect(world.events, GENERAL.selection)
    sums = np.asarray(interactions.matrix.sum(axis=0), np.float64)
    assert start_from(release, interactions.item_ids, sums, dim=DIM) is None


def test_only_some_kinds_are_seen_and_every_item_stays() -> None:
    events = archive(seed=2)
    model = made(events, Recipe(GENERAL, replace(RIDGE, ridge=20.0), kinds=("sale",)))
    assert len(model.item_ids) == len(collect(events, GENERAL.selection).item_ids)
    unsold = np.flatnonzero(~model.input_embeddings.any(axis=1))
    assert 0 < len(unsold) < len(model.item_ids)


def test_joined_tables_pass_the_gate_and_score_as_the_sum_of_their_halves(world: GatedWorld) -> None:
    pytest.importorskip("torch")
    settings = JoinedSettings(dim=DIM, ridge=20.0, rate=0.05, batch=64, passes=5, weight=0.5)
    joined = made(world.events, Recipe(GENERAL, settings))
    alone = made(world.events, Recipe(GENERAL, settings.half))
    scores, of_ridge = (one.input_embeddings @ one.output_embeddings.T for one in (joined, alone))
    unit = joined.output_embeddings[:, DIM // 2 :]
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)
    rest = scores - of_ridge
    np.testing.assert_allclose(rest / rest[0, 0], unit @ unit.T / (unit[0] @ unit[0]), rtol=1e-2, atol=1e-3)
    report = world.examine(world.publish(joined))
    assert report.passed, report.lines()


def test_how_much_the_second_half_counts_is_chosen_too() -> None:
    pytest.importorskip("torch")
    interactions = collect(before_the_last_hour(archive(seed=1)), GENERAL.selection)
    settings = JoinedSettings(dim=DIM, ridge=20.0, rate=0.05, batch=64, passes=2, weight=50.0)
    chosen = choose_ridge(interactions, settings, replace(TUNED, grid=Grid(bias=(0.0,))))
    assert isinstance(chosen.settings, JoinedSettings)
    assert chosen.settings.weight < 50
    assert chosen.tried == len(RIDGES) + 2 + 5


def test_the_same_events_and_settings_make_the_same_tables() -> None:
    pytest.importorskip("torch")
    settings = JoinedSettings(dim=8, batch=64, passes=1)
    events = archive(seed=3)
    first, second = (made(events, Recipe(GENERAL, settings)) for _ in range(2))
    np.testing.assert_array_equal(first.input_embeddings, second.input_embeddings)
    np.testing.assert_array_equal(first.output_embeddings, second.output_embeddings)
