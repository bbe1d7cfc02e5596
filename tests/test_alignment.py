"""A retrain is turned onto the release before it: scores stay, and vectors are where they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from led.encoder import F32
from store.releases import Model, Release, Releases
from stream.events import item_key, kind_code
from tests.gated_world import KINDS, archive, before_the_last_hour, model_of
from training.alignment import aligned

DIM, ITEMS = 16, 400


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    return Releases(tmp_path, item_key, {kind: kind_code(kind) for kind in KINDS})


@pytest.fixture
def model() -> Model:
    rng = np.random.default_rng(1)
    inputs, outputs = (rng.standard_normal((ITEMS, DIM), dtype=np.float32) for _ in range(2))
    return Model(
        item_ids=[f"item-{n}" for n in range(ITEMS)],
        input_embeddings=inputs,
        output_embeddings=outputs,
        biases=np.zeros(ITEMS, np.float32),
        popularity=(1000 / np.arange(1, ITEMS + 1)).astype(np.float32),
        kind_weights=KINDS,
        sample_vectors=inputs[:50],
    )


def published(releases: Releases, model: Model) -> Release:
    return releases.load(releases.publish(model, now_ms=1_790_000_000_000))


def turned(model: Model, noise: float = 0.0) -> Model:
    """As a retrain might find it: every direction another one, and a little noise."""
    rng = np.random.default_rng(2)
    rotation = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0].astype(np.float32)
    noisy = model.input_embeddings + noise * rng.standard_normal((ITEMS, DIM), dtype=np.float32)
    return replace(model, input_embeddings=noisy @ rotation, output_embeddings=model.output_embeddings @ rotation)


def scores(model: Model) -> F32:
    return model.input_embeddings @ model.output_embeddings.T


def told(model: Model) -> dict[str, float]:
    about = model.about["alignment"]
    assert isinstance(about, dict)
    return about


def test_a_model_that_was_only_turned_comes_back_to_where_it_was(releases: Releases, model: Model) -> None:
    before = published(releases, model)
    found = aligned(turned(model), before)
    np.testing.assert_allclose(found.input_embeddings, model.input_embeddings, atol=1e-5)
    np.testing.assert_allclose(found.output_embeddings, model.output_embeddings, atol=1e-5)
    assert abs(told(found)["cosine_before"]) < 0.5
    assert told(found)["cosine_after"] == 1.0


def test_scores_do_not_change_and_a_perturbed_retrain_comes_near(releases: Releases, model: Model) -> None:
    before, after = published(releases, model), turned(model, noise=0.3)
    found = aligned(after, before)
    np.testing.assert_allclose(scores(found), scores(after), atol=1e-4)
    assert found.sample_vectors is not None
    assert after.sample_vectors is not None
    lengths = np.linalg.norm(found.sample_vectors, axis=1)
    np.testing.assert_allclose(lengths, np.linalg.norm(after.sample_vectors, axis=1), rtol=1e-5)
    assert told(found)["cosine_after"] > 0.9 > told(found)["cosine_before"]


def test_new_items_turn_with_the_others_and_items_that_are_gone_do_not_matter(releases: Releases, model: Model) -> None:
    before, after = published(releases, model), turned(model)
    names = [f"new-{n}" if n % 4 == 0 else name for n, name in enumerate(model.item_ids)]
    found = aligned(replace(after, item_ids=names), before)
    np.testing.assert_allclose(found.input_embeddings, model.input_embeddings, atol=1e-5)
    assert told(found)["items"] == ITEMS * 3 / 4


def test_where_nothing_can_be_compared_the_model_stays_and_says_so(releases: Releases, model: Model) -> None:
    before = published(releases, model)
    narrower = replace(
        model, input_embeddings=model.input_embeddings[:, :8], output_embeddings=model.output_embeddings[:, :8]
    )
    strangers = replace(model, item_ids=[f"stranger-{n}" for n in range(ITEMS)])
    for other, why in ((narrower, "dimension 8, and 16 before"), (strangers, "no item in common")):
        found = aligned(other, before)
        assert found.input_embeddings is other.input_embeddings
        assert found.about["alignment"] == {"release": before.version, "skipped": why}


def test_a_retrain_with_an_hour_more_lies_nearer_after_it_was_turned(releases: Releases) -> None:
    events = archive(seed=1)
    about = told(aligned(model_of(events), published(releases, model_of(before_the_last_hour(events)))))
    assert about["cosine_after"] > max(0.8, about["cosine_before"] + 0.1), about


def test_an_aligned_model_is_published_and_loads(releases: Releases, model: Model) -> None:
    before = published(releases, model)
    release = releases.load(releases.publish(aligned(turned(model), before), now_ms=1_790_000_001_000))
    assert release.info.about["alignment"]["release"] == before.version
    assert all(check.outcome != "refused" for check in releases.soundness(release))
