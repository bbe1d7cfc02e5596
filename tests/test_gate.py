"""The gate: ten ways to poison a release, none of which goes live, and honest retrains, all of which do."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from ledstream import releases_command
from ledstream.settings import Settings, read_settings
from ledstream.train_command import go_live
from store.archive import SCHEMA, ArchiveRow
from store.gate_reports import GateReport
from store.item_index import build, use_threads
from store.releases import BadRelease, Model
from stream.announcements import announce, current_version
from stream.current import CurrentRelease
from stream.events import item_key
from stream.log import Log
from stream.memory_log import MemoryLog
from stream.topics import topics
from tests.eventually import until
from tests.gated_world import (
    DIM,
    NOW_MS,
    GatedWorld,
    before_the_last_hour,
    described,
    model_of,
    rewritten,
    swapped,
)
from training.gate import Archived
from training.last_hour import NEWEST, ask
from training.survey import HOUR_MS

SEEDS = range(20)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    """Threads that wait for each other on a busy machine take many times as long as one."""
    use_threads(1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> GatedWorld:
    return GatedWorld(tmp_path_factory.mktemp("gate") / "releases")


@pytest.fixture
def settings(world: GatedWorld) -> Settings:
    return read_settings({}, {"data_dir": world.folder.parent, "kinds": "view=1,sale=3", "dim": DIM})


@pytest.fixture
def log(world: GatedWorld) -> Log:
    """The world's champion is current."""
    log = MemoryLog()
    for topic, partitions in topics(1).items():
        log.create_topic(topic, partitions)
    announce(log, world.champion, NOW_MS - HOUR_MS)
    return log


class Poison(NamedTuple):
    """make: a poisoned release's version. check: what refuses it. says: the figure, as a pattern.

    at_load: every process finds it by itself, and not only the gate.
    """

    make: Callable[[GatedWorld], str]
    check: str
    says: str
    at_load: bool = True


def cut_short(folder: Path) -> None:
    path = folder / "output_embeddings.npy"
    path.write_bytes(path.read_bytes()[:-1000])


def one_bit(folder: Path) -> None:
    path = folder / "biases.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def other_ids(folder: Path) -> None:
    """Rows keep their keys and get each other's ids."""
    ends = np.load(folder / "id_ends.npy")
    text = (folder / "item_ids.bin").read_bytes()
    ids = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    np.random.default_rng(1).shuffle(ids)
    (folder / "item_ids.bin").write_bytes(b"".join(ids))
    np.save(folder / "id_ends.npy", np.cumsum([len(name) for name in ids], dtype=np.int64))


def other_rows(folder: Path) -> None:
    """Ids keep their keys and get each other's embeddings."""
    order = np.random.default_rng(1).permutation(len(np.load(folder / "biases.npy")))
    for name in ("input_embeddings", "output_embeddings", "biases", "popularity"):
        rewritten(name, lambda array: array[order])(folder)


def exchanged(folder: Path) -> None:
    inputs = folder / "input_embeddings.npy"
    outputs = folder / "output_embeddings.npy"
    inputs.rename(folder / "aside")
    outputs.rename(inputs)
    (folder / "aside").rename(outputs)


def narrower_index(folder: Path) -> None:
    index, _ = build(np.load(folder / "output_embeddings.npy"), np.load(folder / "input_embeddings.npy"))
    index.save(folder / "index.faiss")


def one_nan(array: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> object:
    array[7, 3] = np.nan
    return array


def of_shuffled_ids(model: Model) -> Model:
    ids = list(model.item_ids)
    np.random.default_rng(1).shuffle(ids)
    return replace(model, item_ids=ids)


def for_everybody_the_same(model: Model) -> Model:
    return replace(model, biases=1000 * model.popularity / model.popularity.max())


def trained(change: Callable[[Model], Model], **how: int) -> Callable[[GatedWorld], str]:
    """The poison was in training: what was published is what was meant."""
    return lambda world: world.publish(change(model_of(world.events, **how)))


def unchanged(model: Model) -> Model:
    return model


def copied(poison: Callable[[Path], object], *, right_checksums: bool = True) -> Callable[[GatedWorld], str]:
    """The poison came to the folder afterwards."""
    return lambda world: world.poisoned(poison, right_checksums=right_checksums)


def stale(world: GatedWorld) -> str:
    """Trained two hours ago on what was known then, and offered now."""
    return world.publish(model_of(before_the_last_hour(before_the_last_hour(world.events))), NOW_MS - 2 * HOUR_MS)


def of_old_data(world: GatedWorld) -> str:
    """Trained now, on an archive that was restored from an old copy."""
    model = model_of(before_the_last_hour(before_the_last_hour(world.events)))
    return world.publish(replace(model, about={**model.about, "to_ms": NOW_MS - 26 * HOUR_MS}))


POISONS = {
    "ids in another order": Poison(copied(other_ids), "ids", r"39\d of 39\d ids looked at do not match"),
    "rows in another order": Poison(copied(other_rows), "probe", r"6\d of 64 scores noted by training"),
    "ids shuffled in training": Poison(
        trained(of_shuffled_ids), "replay", r"recall@20 on the last hour 0\.0\d\d, champion 0\.4\d\d \(-\d\d %", False
    ),
    "a NaN": Poison(
        copied(rewritten("output_embeddings", one_nan)), "finite", r"1 of 39\d rows of output_embeddings, none allowed"
    ),
    "zeros": Poison(
        copied(rewritten("output_embeddings", np.zeros_like)),
        "zero rows of output_embeddings",
        "100.0 % of the rows of output_embeddings are zero, at most 50 %",
    ),
    "arrays of another dimension": Poison(
        copied(rewritten("input_embeddings", lambda array: array[:, 1:])),
        "shapes",
        r"input_embeddings is float32 of shape \(39\d, 15\), float32 of shape \(39\d, 16\) expected",
    ),
    "an index of another dimension": Poison(
        copied(narrower_index), "index", r"the index does not take queries of 16 \+ 1 dimensions"
    ),
    "a dimension nobody asked for": Poison(
        trained(unchanged, dim=4), "dimension", r"dimension 4, champion 16, 8 to 16 allowed", False
    ),
    "a truncated file": Poison(
        copied(cut_short, right_checksums=False), "checksums", r"output_embeddings\.npy has \d+ bytes, \d+ expected"
    ),
    "a truncated file with its checksum": Poison(copied(cut_short), "files", "mmap length is greater|output_emb"),
    "a release from before the champion": Poison(stale, "made", r"made 60\.0 min before the champion", False),
    "a release of old data": Poison(of_old_data, "data", r"its data ends 26\.0 h before the newest event", False),
    "popularity for everybody": Poison(
        trained(for_everybody_the_same),
        "variety",
        r"two users' best 20 differ in \d\.\d % of the places, champion 7\d\.\d %, at least 1\d\.\d % needed",
        False,
    ),
    "tables exchanged": Poison(copied(exchanged), "probe", r"6\d of 64 scores noted by training come out differently"),
    "tables exchanged in training": Poison(
        trained(swapped), "replay", r"recall@20 on the last hour 0\.\d+, champion 0\.\d+ \(-\d\d %, at most -1 %", False
    ),
    "a wrong checksum": Poison(
        copied(one_bit, right_checksums=False), "checksums", r"biases\.npy does not match its checksum: SHA-256"
    ),
    "a foreign format": Poison(
        copied(lambda folder: described(folder, lambda d: d.update(format=99))), "format", "format 99, this program"
    ),
}  # fmt: skip


@pytest.fixture(params=sorted(POISONS))
def poison(request: pytest.FixtureRequest) -> Poison:
    return POISONS[request.param]


@pytest.fixture
def poisoned(world: GatedWorld, poison: Poison) -> Iterator[str]:
    version = poison.make(world)
    yield version
    shutil.rmtree(world.folder / version, ignore_errors=True)


def test_a_poisoned_release_is_refused_by_check_and_figure_and_never_announced(
    world: GatedWorld, settings: Settings, log: Log, poison: Poison, poisoned: str
) -> None:
    with pytest.raises(BadRelease, match=f"release {poisoned}: refused: .*{poison.says}"):
        go_live(settings, log, poisoned, Archived(world.events), NOW_MS)
    assert current_version(log) == world.champion
    report = world.releases.reports.read(poisoned)
    assert report is not None
    assert not report.passed
    assert poison.check in report.refused()


def test_a_poisoned_release_that_was_announced_all_the_same_is_loaded_by_nobody(
    world: GatedWorld, log: Log, poison: Poison, poisoned: str
) -> None:
    if not poison.at_load:
        world.releases.load(poisoned)
        return
    current = CurrentRelease(log, world.releases.load)
    current.start()
    try:
        announce(log, poisoned, NOW_MS)
        until(lambda: current.refused is not None)
        assert current.refused is not None
        assert current.refused.version == poisoned
        served = current.get()
        assert served is not None
        assert served.version == world.champion
    finally:
        current.stop()


@pytest.mark.parametrize("seed", SEEDS)
def test_an_honest_retrain_passes(seed: int, tmp_path: Path) -> None:
    """Against the champion of an hour ago, and against one that differs by chance alone."""
    world = GatedWorld(tmp_path, seed)
    assert_passed(world.examine(world.honest))
    again = world.publish(model_of(without_some(world.events, seed)), NOW_MS + 1)
    assert_passed(world.examine(again, champion=world.honest))


def test_the_first_release_is_judged_by_all_that_needs_no_other(world: GatedWorld) -> None:
    report = world.examine(world.honest, champion=None)
    assert_passed(report)
    assert report.champion is None
    outcomes = {found.name: found.outcome for found in report.checks}
    assert "made" not in outcomes
    assert outcomes.pop("replay") == "not judged"
    assert set(outcomes.values()) == {"passed"}
    collapsed = world.examine(world.publish(for_everybody_the_same(model_of(world.events))), champion=None)
    assert collapsed.refused() == ["variety"]


def test_a_champion_that_is_gone_or_damaged_is_nothing_to_compare_with(world: GatedWorld) -> None:
    for champion in ("20200101T000000000Z-00000000", world.poisoned(one_bit, right_checksums=False)):
        report = world.examine(world.honest, champion=champion)
        assert_passed(report)
        assert report.champion is None


def test_of_a_handful_of_events_nothing_is_concluded(tmp_path: Path) -> None:
    world = GatedWorld(tmp_path)
    world.events = world.events.slice(0, 12)
    found = {found.name: found for found in world.examine(world.honest).checks}
    assert found["replay"].outcome == "not judged"
    assert found["replay"].says == "not judged: 12 events, 0 of them foreseeable, at least 100 needed"


def test_another_dimension_is_what_the_settings_ask_for(world: GatedWorld, log: Log, settings: Settings) -> None:
    wider = world.publish(model_of(world.events, dim=24), NOW_MS + 1)  # the newest: of refused ones no other is kept
    with pytest.raises(BadRelease, match=r"dimension 24, champion 16, 8 to 16 allowed \(LEDSTREAM_DIM = 16\)"):
        go_live(settings, log, wider, Archived(world.events), NOW_MS)
    go_live(settings.model_copy(update={"dim": 24}), log, wider, Archived(world.events), NOW_MS)
    assert current_version(log) == wider


def test_what_the_gate_found_is_kept_beside_the_release_and_goes_with_it(tmp_path: Path) -> None:
    world = GatedWorld(tmp_path)
    report = world.examine(world.honest)
    refused = [world.publish(swapped(model_of(world.events)), NOW_MS + n) for n in range(3)]
    for version in refused:
        assert not world.examine(version).passed
    reports = world.releases.reports
    assert reports.read(world.honest) == report
    assert reports.read(world.champion) is None
    assert reports.refusal(world.champion) is None
    assert world.releases.prune(2, NOW_MS, spared=[]) == refused[:2], "those refused take no place of a good one"
    assert world.releases.versions() == [world.champion, world.honest, refused[2]]
    assert world.releases.prune(1, NOW_MS, spared=[world.champion]) == []
    assert world.releases.prune(1, NOW_MS, spared=[refused[2]]) == [world.champion]
    assert sorted(path.name for path in tmp_path.glob("*.json")) == [
        f"{v}.gate.json" for v in (world.honest, refused[2])
    ]
    (tmp_path / f"{world.honest}.gate.json").write_text("{}")
    assert "cannot be read" in str(reports.refusal(world.honest))


def test_by_hand_a_refused_release_goes_live_only_if_forced_and_a_broken_one_never(
    tmp_path: Path, redis_address: str, namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    world = GatedWorld(tmp_path / "releases")
    flags = {"log": redis_address, "store": redis_address, "namespace": namespace, "data_dir": tmp_path}
    settings = read_settings({}, flags | {"kinds": "view=1,sale=3"})
    refused, broken = world.publish(swapped(model_of(world.events))), world.poisoned(other_rows)
    for version in (world.honest, refused, broken):
        world.examine(version)

    def activate(version: str, **how: bool) -> int:
        return releases_command.run(settings, "activate", version, **how)

    assert activate(world.honest) == 0
    with pytest.raises(BadRelease, match=r"refused: recall@20 on the last hour .* \(--force"):
        activate(refused)
    for force in (False, True):
        with pytest.raises(BadRelease, match="scores noted by training come out differently"):
            activate(broken, force=force)
    assert activate(refused, force=True) == 0
    assert activate(world.honest) == 0, "once passed, passed for good"
    assert activate(world.champion) == 0, "no gate has seen it"
    capsys.readouterr()
    assert releases_command.run(settings, "list", None) == 0
    assert "passed" in (listed := capsys.readouterr().out)
    assert "replay" in listed
    assert releases_command.run(settings, "show", refused) == 0
    assert '"not judged"' not in (shown := capsys.readouterr().out)
    assert '"outcome": "refused"' in shown


def test_a_release_of_before_probes_is_not_refused_for_it(world: GatedWorld) -> None:
    report = world.examine(world.poisoned(lambda folder: (folder / "probe.json").unlink()))
    assert_passed(report)
    assert {found.name: found.outcome for found in report.checks}["probe"] == "not judged"


def test_a_question_is_what_a_user_did_next_and_knows_what_was_before() -> None:
    def event(offset: int, user: str, item: str, kind: str = "view", *, minutes_ago: float = 0) -> ArchiveRow:
        at_ms = NOW_MS - int(60_000 * minutes_ago)
        return ArchiveRow(0, offset, at_ms, user, item, kind, at_ms, None, None, None)

    events = [
        event(1, "ana", "hat", minutes_ago=90),
        event(2, "ben", "cap", minutes_ago=80),
        event(3, "ana", "belt", minutes_ago=70),
        event(4, "ana", "shoe", minutes_ago=50),
        event(5, "ana", "hat", "sale", minutes_ago=40),
        event(6, "ana", "coat", "glance", minutes_ago=35),
        event(7, "eve", "hat", minutes_ago=30),
        event(8, "eve", "cap", minutes_ago=20),
        event(9, "eve", "", "erase", minutes_ago=10),
        event(10, "ana", "sock"),
        event(11, "new", "hat"),
    ]
    table = pa.Table.from_pylist([row._asdict() for row in (*reversed(events), events[3])], schema=SCHEMA)
    asked = ask(table, ["view", "sale"], 2)
    assert asked.drawn_from == NEWEST, "an hour of four events is made longer"
    timelines = [asked.keys[asked.places == place].tolist() for place in range(len(asked))]
    named = {item_key(name): name for name in ("hat", "belt", "shoe", "sock", "cap", "coat")}
    assert {named[t]: [named[k] for k in keys] for t, keys in zip(asked.targets.tolist(), timelines, strict=True)} == {
        "belt": ["hat"],
        "shoe": ["hat", "belt"],
        "hat": ["belt", "shoe"],
        "sock": ["shoe", "hat"],
    }
    assert len(ask(table.slice(0, 0), ["view"], 2)) == 0


def assert_passed(report: GateReport) -> None:
    assert report.passed, report.refusal()


def without_some(events: Any, seed: int) -> Any:
    """The archive less one event in fifty, drawn at random."""
    return events.filter(np.random.default_rng((seed, 1)).random(len(events)) > 0.02)
