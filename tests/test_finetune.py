"""Fine-tuning: what each mode trains, that it resumes, and that what it learns is what is served."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
import torch

from led.encoder import F32, Encoder, Events
from led.ranking import score
from tests.records import model
from training.encoded import timeline_rows
from training.finetune.batches import inputs_of
from training.finetune.checkpoint import Checkpoint, OtherRun
from training.finetune.network import Network
from training.finetune.run import Diverged, Finetuned, Run, finetune
from training.finetune.settings import FinetuneSettings, Stage, ValidationSettings
from training.finetune.stage import finetuned
from training.finetune.start import Start, WarmStart, random_start
from training.finetune.timelines import Timelines, timelines_of_events, timelines_of_matrix
from training.finetune.validation import Validation, held_out, ndcg
from training.interactions import SelectedEvents, Selection, select
from training.recipe import RandomStart, Recipe, made, pretrained
from training.spectral import SpectralSettings, averaged
from training.story import CURVES, STORY
from training.train import TooFewEvents, TrainSettings

ITEMS, DIM = 24, 6
QUICK = FinetuneSettings(negatives=5, lr=0.02, batch_users=32, epochs=4, threads=1, seed=3)


def tastes(users: int = 150) -> Timelines:
    """Users of three tastes like six of the eight items of theirs."""
    rng = np.random.default_rng(0)
    columns = np.concatenate([8 * (user % 3) + rng.permutation(8)[:6] for user in range(users)])
    rows = np.repeat(np.arange(users), 6)
    matrix = sp.csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=(users, ITEMS))
    matrix.sort_indices()
    return timelines_of_matrix(matrix)


def start(seed: int = 0) -> Start:
    return random_start(ITEMS, DIM, np.random.default_rng(seed))


def parts(settings: FinetuneSettings) -> tuple[Timelines, Validation]:
    train, validation = held_out(tastes(), settings, ValidationSettings(0.3, k=5))
    assert validation is not None
    return train, validation


def run(**changes: Any) -> Finetuned:
    settings = replace(QUICK, **changes)
    return finetune(*parts(settings), start(), settings)


def bytes_of(found: Finetuned) -> bytes:
    learned = found.learned
    return b"".join(array.tobytes() for array in (learned.inputs, learned.outputs, learned.biases))


@pytest.mark.parametrize("loss", ["bpr", "ns", "css", "multinomial"])
def test_every_loss_learns_three_tastes(loss: str) -> None:
    found = run(loss=loss, epochs=12, masking=0.2)
    assert found.best_ndcg is not None
    assert found.best_ndcg > 0.7  # items in any order give .2
    assert found.history[-1].loss < found.history[0].loss


@pytest.mark.parametrize("changes", [{"tied": False}, {"bf16": True, "loss": "multinomial"}, {"average": "users"}])
def test_tastes_are_learned_untied_in_bfloat16_and_with_users_counting_alike(changes: dict[str, Any]) -> None:
    found = run(epochs=12, masking=0.2, **changes)
    assert (found.best_ndcg or 0) > 0.7
    assert np.array_equal(found.learned.inputs, found.learned.outputs) == changes.get("tied", True)


def test_a_projection_that_is_the_identity_leaves_every_row_and_score() -> None:
    settings, begin = replace(QUICK, tuning="project"), start()
    network, plain = (Network(begin, one, np.random.default_rng(0)) for one in (settings, QUICK))
    learned = network.learned()
    np.testing.assert_array_equal(learned.outputs, begin.outputs)
    np.testing.assert_array_equal(learned.inputs, begin.outputs)
    inputs = inputs_of(tastes(5), np.arange(5))
    torch.testing.assert_close(network.scores(network.queries(inputs)), plain.scores(plain.queries(inputs)))
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == DIM * DIM + ITEMS


@pytest.mark.parametrize("tied", [True, False])
def test_a_trained_projection_hands_over_rows_that_score_as_it_does(tied: bool) -> None:
    settings = replace(QUICK, tuning="project", tied=tied, projection_start="random")
    training = Run(*parts(settings), start(), settings)
    training.next_epoch()
    learned, some = training.network.learned(), tastes(7)
    users = learned.inputs[some.rows].reshape(7, 6, DIM).mean(axis=1)  # six items each
    with torch.no_grad():
        found = training.network.scores(training.network.queries(inputs_of(some, np.arange(7)))).numpy()
    np.testing.assert_allclose(found, score(users, learned.outputs, learned.biases), rtol=1e-4, atol=1e-6)


def test_fixed_changes_the_biases_only() -> None:
    found = run(tuning="fixed", epochs=2, patience=9)
    begin = start()
    np.testing.assert_array_equal(found.learned.outputs, begin.outputs)
    training = Run(*parts(QUICK), begin, replace(QUICK, tuning="fixed"))
    training.next_epoch()
    learned = training.network.learned()
    np.testing.assert_array_equal(learned.outputs, begin.outputs)
    assert (learned.biases != begin.biases).all()


def test_one_seed_makes_the_same_bytes_and_another_makes_others() -> None:
    assert bytes_of(run()) == bytes_of(run()) != bytes_of(run(seed=4))


def test_a_user_without_input_is_the_zero_vector() -> None:
    network = Network(start(), QUICK, np.random.default_rng(0))
    some = tastes(3).only(np.repeat([True, False, True], 6))
    means = network.means(inputs_of(some, np.arange(3)))
    assert means[1].tolist() == [0.0] * DIM
    torch.testing.assert_close(means[0], network.outputs[some.rows[:6]].mean(dim=0))


def test_the_best_epoch_is_kept_and_waiting_has_an_end() -> None:
    settings = replace(QUICK, lr=2.0, epochs=30, patience=3)  # far too fast: it soon gets worse
    train, validation = parts(settings)
    found = finetune(train, validation, start(), settings)
    looks = {epoch.number: epoch.ndcg or 0.0 for epoch in found.history}
    network = Network(
        Start(found.learned.inputs, found.learned.outputs, found.learned.biases), QUICK, np.random.default_rng(0)
    )
    assert len(found.history) == found.best_epoch + 3 < 30
    assert found.best_ndcg == pytest.approx(max([*looks.values(), found.best_ndcg or 0.0]))
    assert ndcg(network, validation) == pytest.approx(found.best_ndcg)


def test_a_run_interrupted_and_resumed_is_the_uninterrupted_run_to_the_last_bit(tmp_path: Path) -> None:
    settings = replace(QUICK, tuning="project", tied=False, learn_decay=True, half_life_s=60.0, heads=2)
    train, validation = parts(settings)
    whole = finetune(train, validation, start(), settings)
    checkpoint = tmp_path / "run.pt"
    interrupted = Run(train, validation, start(), settings)
    interrupted.next_epoch()
    interrupted.next_epoch()
    interrupted.checkpoint().write(checkpoint)
    resumed = finetune(train, validation, start(), settings, checkpoint=checkpoint)
    assert bytes_of(resumed) == bytes_of(whole)
    assert [(e.loss, e.ndcg) for e in resumed.history] == [(e.loss, e.ndcg) for e in whole.history]
    assert list(tmp_path.iterdir()) == []  # nothing to go on with when it is over


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    checkpoint, (train, validation) = tmp_path / "run.pt", parts(QUICK)
    Run(train, validation, start(), QUICK).checkpoint().write(checkpoint)
    finetune(train, validation, start(), replace(QUICK, epochs=1), checkpoint=checkpoint)  # only a shorter one
    Run(train, validation, start(), QUICK).checkpoint().write(checkpoint)
    for other in (replace(QUICK, lr=0.5), replace(QUICK, seed=9)):
        with pytest.raises(OtherRun, match="other events, settings or another start"):
            finetune(train, validation, start(), other, checkpoint=checkpoint)
    with pytest.raises(OtherRun):
        finetune(train, validation, start(seed=5), QUICK, checkpoint=checkpoint)
    assert validation is not None
    with pytest.raises(OtherRun):  # epochs judged by another measure cannot be compared
        finetune(train, replace(validation, k=validation.k + 1), start(), QUICK, checkpoint=checkpoint)
    checkpoint.write_bytes(b"torn")
    with pytest.raises(OtherRun, match="cannot be read"):
        Checkpoint.read(checkpoint, "")


def test_a_loss_that_is_no_number_ends_the_run() -> None:
    with pytest.raises(Diverged, match=r"epoch 1: a lower lr than 0\.02 may help"):
        finetune(tastes(), None, replace(start(), biases=np.full(ITEMS, np.inf, np.float32)), QUICK)


def test_negatives_gathered_and_negatives_picked_from_all_scores_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    few = replace(QUICK, epochs=1)
    picked = run(epochs=1)
    monkeypatch.setattr("training.finetune.network.GATHERED_COST", 1)
    assert few.negatives < ITEMS
    assert run(epochs=1).history[0].loss == pytest.approx(picked.history[0].loss, rel=1e-5)


def shop(users: int = 240) -> SelectedEvents:
    """Shoppers of four tastes: what they buy is of their taste, what they view is anything."""
    rng = np.random.default_rng(5)
    rows = []
    for user in range(users):
        bought, viewed = 8 * (user % 4) + rng.permutation(8)[:6], rng.permutation(32)[:12]
        rows += [(f"u{user}", f"i{item}", "sale", 1000 * int(at)) for at, item in enumerate(bought)]
        rows += [(f"u{user}", f"i{item}", "view", 1000 * int(at)) for at, item in enumerate(viewed)]
    names = ("user_id", "item_id", "kind", "time_ms")
    return select(pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))), Selection({"view": 1, "sale": 1}))


SHOP = FinetuneSettings(
    loss="multinomial",
    positives=("sale",),
    learn_kinds=True,
    lr=0.02,
    epochs=25,
    masking=0.2,
    batch_users=64,
    threads=1,
)


def learned_shop(**changes: Any) -> tuple[SelectedEvents, Any]:
    recipe = Recipe(TrainSettings(Selection({"view": 1.0, "sale": 1.0})), RandomStart(dim=8))
    events = shop()
    stage = Stage(replace(SHOP, **changes), ValidationSettings(0.2, k=5))
    return events, finetuned(events, pretrained(events, recipe), stage)


def test_sales_that_tell_and_views_that_do_not_get_weights_that_say_so() -> None:
    _, tuned = learned_shop()
    assert tuned.kind_weights["view"] == 1.0
    assert tuned.kind_weights["sale"] > 3.0


def test_what_is_learned_is_what_the_encoder_of_the_release_computes() -> None:
    """Kinds, decay and heads learned together; then the same users by torch and by the code that serves."""
    events, tuned = learned_shop(order="newest", learn_decay=True, half_life_s=20.0, heads=2, epochs=6)
    assert tuned.half_life_s != 20.0
    assert len(tuned.head_weights) == 2
    kinds = list(tuned.kind_weights)
    begin = Start(tuned.input_embeddings, tuned.output_embeddings, tuned.biases)
    weights = replace(begin, kind_weights=tuple(tuned.kind_weights.values()), head_weights=tuned.head_weights)
    network = Network(weights, replace(SHOP, half_life_s=tuned.half_life_s), np.random.default_rng(0))
    some = timelines_of_events(events, kinds, kinds).of(np.arange(20))
    with torch.no_grad():
        by_torch = network.scores(network.queries(inputs_of(some, np.arange(20)))).numpy()
    encoder = Encoder(dict(enumerate(tuned.kind_weights.values())), tuned.half_life_s, tuned.head_weights)
    flat = Events(some.owners, some.rows, some.kinds.astype(np.uint8), some.times_ms)
    users = averaged(timeline_rows(encoder, flat, (20, len(tuned.item_ids)))) @ tuned.input_embeddings
    served = score(users, tuned.output_embeddings, tuned.biases)
    np.testing.assert_allclose(by_torch, served, rtol=1e-3, atol=1e-4)
    again = Network(weights, SHOP, np.random.default_rng(0))
    with torch.no_grad():
        without = again.scores(again.queries(inputs_of(some, np.arange(20)))).numpy()
    assert np.abs(without - served).max() > 1e-2  # decay does matter here


def test_kinds_to_predict_that_nobody_has_are_refused_by_name() -> None:
    views = shop().of_kinds(["view"])
    recipe = Recipe(TrainSettings(Selection({"view": 1.0, "sale": 1.0})), RandomStart(dim=8))
    begun = pretrained(views, recipe)
    with pytest.raises(TooFewEvents, match="positives = sale: no such event"):
        finetuned(views, begun, Stage(replace(SHOP, positives=("sale",)), ValidationSettings(0.2, k=5)))


def test_a_fine_tuned_release_tells_how_it_was_made() -> None:
    _, tuned = learned_shop(epochs=2)
    assert tuned.attachments[CURVES].startswith(b"\x89PNG")
    story = json.loads(tuned.attachments[STORY])
    assert [epoch["number"] for epoch in story["epochs"]] == [1, 2]
    assert story["about"]["finetuning"]["loss"] == "multinomial"
    assert story["about"]["to_ms"] == 11000
    assert story["peak_mb"] > 20
    assert {"torch", "numpy"} <= story["versions"].keys()
    assert json.loads(json.dumps(tuned.about)) == json.loads(json.dumps(story["about"]))


def test_only_views_pre_train_and_no_item_is_lost() -> None:
    rows = [("ana", "hat", "view"), ("ana", "cap", "view"), ("bob", "hat", "view"), ("bob", "cap", "view")]
    rows += [("ana", "tie", "sale")]
    names = ("user_id", "item_id", "kind")
    events = pa.table({**dict(zip(names, zip(*rows, strict=True), strict=True)), "time_ms": [1, 2, 3, 4, 5]})
    general = TrainSettings(Selection({"view": 1.0, "sale": 1.0}), grid=None)
    model = made(events, Recipe(general, kinds=("view",)))
    assert sorted(model.item_ids) == ["cap", "hat", "tie"]
    assert not model.input_embeddings[model.item_ids.index("tie")].any()
    assert model.popularity[model.item_ids.index("tie")] > 0


def test_pre_training_learns_nothing_of_the_users_that_fine_tuning_is_validated_on() -> None:
    rng = np.random.default_rng(0)
    pairs = [(f"u{user}", f"i{item}") for user in range(40) for item in rng.permutation(12)[:5]]
    out = ValidationSettings(0.25).users(40, seed=7)
    general = TrainSettings(Selection({"view": 1.0}), SpectralSettings(dim=12), grid=None)

    def scores(changed: bool) -> F32:
        """Of every item for a user of every item, where held-out users did one thing or another."""
        rows = [(user, "i0" if changed and int(user[1:]) in out else item) for user, item in pairs]
        columns = dict(zip(("user_id", "item_id"), zip(*rows, strict=True), strict=True))
        table = pa.table({**columns, "kind": ["view"] * len(rows), "time_ms": list(range(len(rows)))})
        model = pretrained(select(table, general.selection), Recipe(general), without=out)
        order = np.argsort(np.array(model.item_ids))
        return model.input_embeddings[order] @ model.output_embeddings[order].T

    assert len(out) == 10
    np.testing.assert_allclose(scores(False), scores(True), atol=1e-3)


def test_a_warm_start_takes_rows_by_item_id_and_new_items_begin_at_random_or_at_zero() -> None:
    earlier = model(["hat", "belt"], dim=DIM)
    for new in ("random", "zero"):
        begun = WarmStart(earlier, earlier.item_ids, new).start(["new", "belt"], np.random.default_rng(0))
        np.testing.assert_array_equal(begun.inputs[1], earlier.input_embeddings[1])
        np.testing.assert_array_equal(begun.outputs[1], earlier.output_embeddings[1])
        assert begun.biases[1] == earlier.biases[1]
        assert begun.inputs[0].any() == (new == "random")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "hinge"}, "loss = hinge: must be one of bpr, ns, css, multinomial"),
        ({"masking": 1.0}, "masking = 1.0: must be at least 0 and below 1"),
        ({"lr": 0.0}, "lr = 0.0: must be above 0"),
        ({"learn_decay": True}, "half_life_s = None: must be given where decay is learned"),
        ({"heads": 99}, "heads = 99: must be from 0 to"),
    ],
)
def test_settings_that_make_no_sense_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(QUICK, **changes)
