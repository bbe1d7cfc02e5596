"""Releases on disk: there whole or not at all, and refused by the name of what is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from led.ranking import score, top_k, with_one
from store.item_index import LowRecall
from store.releases import BadRelease, Model, Release, Releases, UnknownRelease, release_key
from stream.events import item_key, kind_code
from tests.records import KINDS, NOW, items, model, published, releases_in

IDS = [*items(30), "Ünïcode 🎩", "a" * 128]


@pytest.fixture
def made() -> Model:
    return model(IDS, half_life_s=3600.0)


@pytest.fixture
def folder(tmp_path: Path, made: Model) -> Path:
    """The folder of one good release."""
    return tmp_path / releases_in(tmp_path).publish(made, now_ms=NOW)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Alter the description."""
    described = json.loads((folder / "release.json").read_text())
    change(described)
    (folder / "release.json").write_text(json.dumps(described))


def test_what_is_published_is_what_is_loaded(tmp_path: Path, made: Model) -> None:
    release = published(tmp_path, made)
    assert (release.items, release.dim, release.version[:20]) == (32, 4, "20231114T221320000Z-")
    rows = release.rows(np.array([item_key(name) for name in IDS], np.uint64))
    assert [release.item_id(row) for row in rows.tolist()] == IDS
    for name in ("input_embeddings", "output_embeddings", "biases", "popularity"):
        np.testing.assert_array_equal(getattr(release, name)[rows], getattr(made, name))
    assert [release.item_id(row) for row in release.most_popular[:3].tolist()] == IDS[:3]
    assert release.encoder.half_life_s == 3600
    assert release.info.kind_weights == KINDS
    assert release.info.about == {"seed": 1}
    assert release.key == release_key(release.version) != 0
    release.warm_up()


def test_head_weights_are_part_of_a_release_and_of_its_format_where_there_are_any(tmp_path: Path, made: Model) -> None:
    plain = published(tmp_path, made)
    headed = published(tmp_path, replace(made, head_weights=(3.9, 2.7)), now_ms=NOW + 1)
    assert (plain.encoder.head_weights, headed.encoder.head_weights) == ((), (3.9, 2.7))
    described = [json.loads((tmp_path / one.version / "release.json").read_text()) for one in (plain, headed)]
    assert [one["format"] for one in described] == [2, 3]  # a program that knows no heads must not read over them
    assert described[0]["encoder"].keys() == {"kind_weights", "half_life_s"}


def test_what_a_training_attaches_lies_in_the_release_under_a_checksum(tmp_path: Path, made: Model) -> None:
    version = releases_in(tmp_path).publish(replace(made, attachments={"curves.png": b"\x89PNG"}), now_ms=NOW)
    attached = tmp_path / version / "curves.png"
    assert attached.read_bytes() == b"\x89PNG"
    releases_in(tmp_path).load(version)
    attached.write_bytes(b"\x89PNg")
    with pytest.raises(BadRelease, match=r"curves\.png does not match its checksum"):
        releases_in(tmp_path).load(version)


@pytest.mark.parametrize("name", ["index.faiss", "release.json", "../escaped", ".hidden", ""])
def test_an_attachment_takes_no_other_place(tmp_path: Path, made: Model, name: str) -> None:
    with pytest.raises(BadRelease, match="attachment"):
        releases_in(tmp_path).publish(replace(made, attachments={name: b"x"}), now_ms=NOW)
    assert list(tmp_path.iterdir()) == []


def test_the_index_proposes_what_the_scores_prefer(tmp_path: Path, made: Model) -> None:
    release = published(tmp_path, made)
    users = np.random.default_rng(0).standard_normal((20, 4), dtype=np.float32)
    best = top_k(score(users, release.output_embeddings, release.biases), 5)
    np.testing.assert_array_equal(release.index.search(with_one(users), 5), best)


def test_keys_nobody_has_are_rows_of_minus_one(tmp_path: Path, made: Model) -> None:
    release = published(tmp_path, made)
    keys = np.array([0, 1, (1 << 64) - 1, item_key("nobody"), item_key("item-3")], np.uint64)
    rows = release.rows(keys)
    assert rows[:4].tolist() == [-1] * 4
    assert release.item_id(int(rows[4])) == "item-3"
    assert release.rows(keys[:0]).shape == (0,)
    assert release.rows(keys.reshape(5, 1)).shape == (5, 1)


def test_arrays_are_mapped_files_and_not_copies(folder: Path) -> None:
    release = releases_in(folder.parent).load(folder.name)
    for name in ("item_keys", "input_embeddings", "output_embeddings", "biases", "popularity"):
        array = getattr(release, name)
        assert isinstance(array.base, np.memmap)
        assert not array.flags.writeable
        assert Path(str(array.base.filename)).name == f"{name}.npy"


def test_a_release_without_its_index_says_so_and_reads_less(folder: Path) -> None:
    (folder / "index.faiss").unlink()
    release = releases_in(folder.parent).load(folder.name, with_index=False)
    release.warm_up()
    with pytest.raises(BadRelease, match="without its index"):
        _ = release.index


def test_versions_come_oldest_first_and_unfinished_folders_are_none(tmp_path: Path, made: Model, folder: Path) -> None:
    releases = releases_in(tmp_path)
    later = releases.publish(replace(made, about={"seed": 2}), now_ms=NOW + 1)
    unfinished = tmp_path / ".unfinished-1-abc"
    unfinished.mkdir()
    (unfinished / "release.json").write_text((folder / "release.json").read_text())
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    assert releases.versions() == [folder.name, later]
    assert releases_in(tmp_path / "nowhere").versions() == []
    for wrong in ("", ".", "..", ".unfinished-1-abc", "empty", "nobody", "../" + folder.name, "/etc"):
        with pytest.raises(UnknownRelease):
            releases.load(wrong)


def test_pruning_keeps_the_newest_and_a_pruned_release_serves_whoever_holds_it(folder: Path) -> None:
    releases = releases_in(folder.parent)
    release = releases.load(folder.name)
    left = folder.parent / ".unfinished-1-abcd"
    left.mkdir()
    newest = releases.publish(model(items(5)), now_ms=release.info.created_ms + 1)
    assert releases.prune(1, release.info.created_ms, spared=[folder.name]) == []
    assert releases.prune(1, release.info.created_ms, spared=[newest]) == [folder.name]
    assert releases.versions() == [newest]
    assert left.is_dir(), "it may be a publisher still at work"
    assert releases.prune(1, int(time.time() * 1000) + 2 * 86_400_000, spared=[newest]) == []
    assert not left.exists()
    assert release.item_id(int(release.rows(np.array([item_key("item-3")], np.uint64))[0])) == "item-3"
    release.warm_up()


@pytest.mark.parametrize(
    "name",
    ["item_keys.npy", "id_ends.npy", "item_ids.bin", "input_embeddings.npy", "output_embeddings.npy", "biases.npy",
     "popularity.npy", "index.faiss"],
)  # fmt: skip
def test_a_file_that_is_missing_cut_or_altered_is_named(folder: Path, name: str) -> None:
    releases, path = releases_in(folder.parent), folder / name
    good = path.read_bytes()
    altered = bytearray(good)
    altered[len(good) // 2] ^= 1
    for content, reason in [(good[:-1], "bytes"), (b"", "bytes"), (bytes(altered), "checksum"), (None, "missing")]:
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(BadRelease, match=f"{name}.*{reason}"):
            releases.load(folder.name)
    path.write_bytes(good)
    releases.load(folder.name)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d.update(format=1), "format 1"),
        (lambda d: d.pop("dim"), "dim"),
        (lambda d: d.update(dim="many"), "many"),
        (lambda d: d.update(version="other"), "description is of other"),
        (lambda d: d.update(encoder={"kind_weights": {"view": 1.0}}), "half_life_s"),
        (lambda d: d.update(encoder=None), "cannot be read"),
        (lambda d: d["encoder"].update(half_life_s=-1), "half_life_s = -1"),
        (lambda d: d["encoder"]["kind_weights"].update(view=-1.0), "kind_weights"),
        (lambda d: d["encoder"].update(head_weights=[3.0, 0.0]), r"head_weights\[1\] = 0.0"),
        (lambda d: d["encoder"].update(head_weights=3.0), "cannot be read"),
        (lambda d: d["encoder"]["kind_weights"].update(wish=1.0), "kinds wish"),
        (lambda d: d["files"].pop("biases.npy"), "does not list biases.npy"),
        (lambda d: d.update(files=[]), "cannot be read"),
        (lambda d: d.update(items=31), r"item_keys is uint64 of shape \(32,\), uint64 of shape \(31,\) expected"),
        (lambda d: d.update(dim=5), r"input_embeddings is float32 of shape \(32, 4\)"),
        (lambda d: d.update(index={}), "kind"),
        (lambda d: d.update(dim=float("inf")), "cannot be read"),
        (lambda d: d.update(index=None), "cannot be read"),
        (lambda d: d.update(about=None), "cannot be read"),
    ],
)
def test_a_description_that_is_wrong_is_refused_by_what_is_wrong(
    folder: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    rewrite(folder, change)
    with pytest.raises(BadRelease, match=reason):
        releases_in(folder.parent).load(folder.name)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", '{"format": 2}', "\x00"])
def test_a_description_that_is_no_description_is_refused(folder: Path, text: str) -> None:
    (folder / "release.json").write_text(text)
    with pytest.raises(BadRelease, match=r"release\.json"):
        releases_in(folder.parent).info(folder.name)


def test_files_of_the_wrong_kind_are_refused_though_their_checksums_are_right(folder: Path) -> None:
    def poison(name: str, content: bytes) -> None:
        (folder / name).write_bytes(content)
        rewrite(folder, lambda d: d["files"].update({name: [hashlib.sha256(content).hexdigest(), len(content)]}))

    good = (folder / "biases.npy").read_bytes()
    np.save(folder / "other.npy", np.zeros(32))
    for content in (b"nonsense", (folder / "other.npy").read_bytes()):
        poison("biases.npy", content)
        with pytest.raises(BadRelease):
            releases_in(folder.parent).load(folder.name)
    poison("biases.npy", good)
    poison("index.faiss", b"IxFInonsense")
    with pytest.raises(BadRelease):
        releases_in(folder.parent).load(folder.name)


def ones(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"item_ids": [*IDS[:31], "item-3"]}, "'item-3' appears twice"),
        ({"item_ids": [*IDS[:31], ""]}, "empty id"),
        ({"item_ids": []}, "no items"),
        ({"item_ids": IDS[:31]}, r"input_embeddings is float32 of shape \(32, 4\), float32 of 31 rows"),
        ({"biases": ones(31)}, "biases"),
        ({"biases": ones(32, 1)}, "biases"),
        ({"popularity": np.ones(32)}, "popularity is float64"),
        ({"biases": ones(32) * np.nan}, "biases holds values that are not finite"),
        ({"input_embeddings": ones(32, 4) * np.inf}, "input_embeddings holds values"),
        ({"output_embeddings": ones(32, 5)}, "differ"),
        ({"output_embeddings": 0 * ones(32, 4)}, "all zero"),
        ({"sample_vectors": ones(7, 5)}, "sample_vectors"),
        ({"sample_vectors": ones(0, 4)}, "sample_vectors"),
        ({"sample_vectors": ones(7, 4) * np.nan}, "sample_vectors"),
        ({"kind_weights": {"view": -1.0}}, "kind_weights"),
        ({"kind_weights": {"view": float("nan")}}, "kind_weights"),
        ({"kind_weights": {"wish": 1.0}}, "kinds wish"),
        ({"half_life_s": 0.0}, "half_life_s"),
        ({"half_life_s": float("inf")}, "half_life_s"),
        ({"head_weights": (3.0, float("nan"))}, "head_weights"),
        ({"head_weights": (2.0,) * 9}, "head_weights holds 9"),
    ],
)
def test_a_model_that_must_not_be_published_leaves_nothing_behind(
    tmp_path: Path, made: Model, wrong: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadRelease, match=reason):
        releases_in(tmp_path).publish(replace(made, **wrong), now_ms=NOW)
    assert list(tmp_path.iterdir()) == []


def test_two_items_of_one_key_are_refused_by_their_names(tmp_path: Path, made: Model) -> None:
    releases = Releases(tmp_path, lambda name: 7 if name in ("item-3", "item-4") else item_key(name), {})
    with pytest.raises(BadRelease, match="'item-3' has the same 64-bit key as item 'item-4'"):
        releases.publish(made, now_ms=NOW)


def test_an_index_below_the_recall_asked_for_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(LowRecall, match="recall@20"):
        releases_in(tmp_path).publish(model(items(4100)), now_ms=NOW, min_recall=1.01)
    assert list(tmp_path.iterdir()) == []


def test_about_that_is_no_json_is_refused_and_leaves_nothing_behind(tmp_path: Path, made: Model) -> None:
    for about in ({"recall": float("nan")}, {"when": object()}):
        with pytest.raises((ValueError, TypeError)):
            releases_in(tmp_path).publish(replace(made, about=about), now_ms=NOW)
    assert releases_in(tmp_path).versions() == []
    assert list(tmp_path.iterdir()) == []


_KILLED = """
import os, signal, sys
from pathlib import Path
from tests.records import NOW, items, model, releases_in
fsync, calls = os.fsync, 0
def dying(descriptor):
    global calls
    calls += 1
    if calls > int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(descriptor)
os.fsync = dying
releases_in(Path(sys.argv[1])).publish(model(items(30)), now_ms=NOW)
"""


@pytest.mark.parametrize("files_on_disk", [0, 8])
def test_a_publisher_killed_at_work_leaves_nothing_that_can_be_read(tmp_path: Path, files_on_disk: int) -> None:
    command = [sys.executable, "-c", _KILLED, str(tmp_path), str(files_on_disk)]
    died = subprocess.run(command, check=False, cwd=Path(__file__).parents[1], env=dict(os.environ))
    assert died.returncode == -9
    assert [path.name[:12] for path in tmp_path.iterdir()] == [".unfinished-"]
    assert releases_in(tmp_path).versions() == []
    assert isinstance(published(tmp_path, model(items(30))), Release), "and is in nobody's way"


def test_every_kind_of_this_process_may_weigh_nothing(tmp_path: Path) -> None:
    release = published(tmp_path, model(items(5), kind_weights={"view": 0.0}))
    assert release.encoder.kind_weight(np.array([kind_code("view"), 9], np.uint8)).tolist() == [0, 0]


def test_files_that_passed_once_are_not_read_again_until_somebody_writes_to_them(tmp_path: Path) -> None:
    releases = releases_in(tmp_path)
    other, version = (releases.publish(model(items(3000)), now_ms=NOW + n) for n in range(2))
    releases.load(other)  # with all that is imported at a first use
    size = sum(path.stat().st_size for path in (tmp_path / version).iterdir())
    assert bytes_read(lambda: releases.load(version, with_index=False)) < size
    assert bytes_read(lambda: releases.load(version)) >= size  # the index was not among what passed
    assert bytes_read(lambda: releases.load(version)) < 0.5 * size
    assert bytes_read(lambda: releases.load(version, with_index=False)) < 0.5 * size
    altered = tmp_path / version / "output_embeddings.npy"
    before, whole = altered.stat(), altered.read_bytes()
    altered.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    os.utime(altered, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(BadRelease, match=r"output_embeddings.npy does not match its checksum"):
        releases.load(version)
    altered.write_bytes(whole)
    assert bytes_read(lambda: releases.load(version)) >= size
    assert bytes_read(lambda: releases.load(version)) < 0.5 * size


def bytes_read(do: Callable[[], object]) -> int:
    """By calls of read; what is mapped is none."""

    def so_far() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = so_far()
    do()
    return so_far() - before
