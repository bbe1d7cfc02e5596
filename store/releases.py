"""A release: one immutable folder with everything a server or a consumer needs of one trained model.

    release.json            version, dimension, encoder settings, index, metrics, SHA-256 and size of every other file
    item_keys.npy           (n,) uint64, sorted: the row of an item is the place of its key
    item_ids.bin / id_ends.npy   UTF-8 ids one after the other, (n,) int64 ends
    input_embeddings.npy    (n, dim) float32, what a timeline is averaged over
    output_embeddings.npy   (n, dim) float32, biases.npy (n,) float32: what scores
    popularity.npy          (n,) float32, weighted events per item
    index.faiss             candidates for a user vector (`store/item_index.py`)
    probe.json              scores that training computed, to be found again (`store/soundness.py`)
    others                  what a training attaches for people to look at, such as its learning curves

A folder is written under a temporary name and published by rename, so a release is there whole or not at all. What the
gate found of it lies beside it (`store/gate_reports.py`).
Arrays are memory-mapped: processes of one machine share one copy.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from led.encoder import F32, I64, Encoder
from led.ranking import top_k, with_bias, with_one
from store import soundness
from store.attachments import Attachments
from store.durable import sync
from store.gate_reports import Check, GateReports
from store.item_index import MIN_RECALL, ItemIndex, build, load
from store.stamps import Stamp, sha256_of, stamps

FORMAT, FORMAT_WITH_HEADS = 2, 3  # of an encoder with head weights, which programs before them must not overlook
DESCRIPTION = "release.json"
UNFINISHED, UNFINISHED_FOR_S = ".unfinished-", 86400
ARRAYS = {
    "item_keys": np.uint64,
    "id_ends": np.int64,
    "input_embeddings": np.float32,
    "output_embeddings": np.float32,
    "biases": np.float32,
    "popularity": np.float32,
}
FILES = {f"{name}.npy" for name in ARRAYS} | {"item_ids.bin", "index.faiss"}
U64 = npt.NDArray[np.uint64]
_ATTACHMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class BadRelease(ValueError):
    """A release that must not be used: says which file or figure, and why. check: what it did not pass, by name."""

    def __init__(self, why: str, check: str = "files") -> None:
        super().__init__(why)
        self.check = check


class UnknownRelease(LookupError):
    """There is no release of that version in the folder."""


@dataclass(frozen=True)
class Model:
    """What training hands over. Row order is free; rows belong to item_ids.

    input_embeddings, output_embeddings: (n, dim) float32. biases, popularity: (n,) float32.
    kind_weights: weight of each kind of event by name. sample_vectors: (m, dim) user vectors of the training data,
    on which the index is tested; without them, users of one item are taken.
    about: what made it (data range, settings, metrics); must be JSON.
    head_weights: factors of a user's newest events (`led.encoder.Encoder`).
    attachments: files by name that lie in the release beside the others, checked like them and read by no program.
    """

    item_ids: Sequence[str]
    input_embeddings: F32
    output_embeddings: F32
    biases: F32
    popularity: F32
    kind_weights: Mapping[str, float]
    half_life_s: float | None = None
    sample_vectors: F32 | None = None
    about: Mapping[str, object] = field(default_factory=dict)
    head_weights: tuple[float, ...] = ()
    attachments: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class ReleaseInfo:
    """The description of a release, cheap to read."""

    version: str
    dim: int
    items: int
    created_ms: int
    kind_weights: Mapping[str, float]
    half_life_s: float | None
    index: Mapping[str, Any]
    about: Mapping[str, Any]
    head_weights: tuple[float, ...] = ()


class Release:
    """A loaded release. Read-only and shared by threads; holds the mapped files until it is collected."""

    def __init__(self, folder: Path, info: ReleaseInfo, kind_code: Mapping[str, int], *, with_index: bool) -> None:
        self.info = info
        self.version = info.version
        self.key = release_key(info.version)
        self.dim = info.dim
        self.encoder = _encoder(info, kind_code)
        self.item_keys: U64 = _map(folder / "item_keys.npy")
        self.input_embeddings: F32 = _map(folder / "input_embeddings.npy")
        self.output_embeddings: F32 = _map(folder / "output_embeddings.npy")
        self.biases: F32 = _map(folder / "biases.npy")
        self.popularity: F32 = _map(folder / "popularity.npy")
        self._ids = np.asarray(np.memmap(folder / "item_ids.bin", mode="r", dtype=np.uint8))
        self._ends: I64 = _map(folder / "id_ends.npy")
        self._index = load(folder / "index.faiss", info.index) if with_index else None
        self._check_shapes()
        popularity = np.nan_to_num(self.popularity, nan=-np.inf)  # `soundness` refuses such a release, with a figure
        self.most_popular = top_k(popularity[None], 1000)[0]

    @property
    def items(self) -> int:
        return len(self.item_keys)

    @property
    def has_index(self) -> bool:
        return self._index is not None

    @property
    def index(self) -> ItemIndex:
        if self._index is None:
            raise BadRelease(f"release {self.version} was loaded without its index")
        return self._index

    def rows(self, keys: U64) -> I64:
        """Item rows of 64-bit keys, -1 for items this release does not know. Shape of keys."""
        if not self.items:
            return np.full(keys.shape, -1, np.int64)
        places = np.minimum(np.searchsorted(self.item_keys, keys), self.items - 1)
        return np.where(self.item_keys[places] == keys, places, -1).astype(np.int64)

    def item_id(self, row: int) -> str:
        """The id of a row."""
        start = int(self._ends[row - 1]) if row else 0
        return self._ids[start : int(self._ends[row])].tobytes().decode()

    def warm_up(self) -> None:
        """Touch what a request touches, so that the first one does not wait for the disk."""
        if self._index is not None and self.items:
            rows = np.linspace(0, self.items - 1, min(self.items, 64)).astype(np.int64)
            self._index.search(with_one(np.asarray(self.input_embeddings[rows])), min(20, self.items))

    def _check_shapes(self) -> None:
        n, dim = self.info.items, self.info.dim
        for name, dtype in ARRAYS.items():
            found = self._ends if name == "id_ends" else getattr(self, name)
            shape = (n, dim) if name.endswith("embeddings") else (n,)
            if found.shape != shape or found.dtype != dtype:
                wanted = f"{np.dtype(dtype)} of shape {shape}"
                raise BadRelease(f"{name} is {found.dtype} of shape {found.shape}, {wanted} expected", "shapes")


class Releases:
    """The folder of releases. Publishing is for training, loading for everybody; nothing here is ever changed.

    item_key: 64-bit key of an item id. kind_code: 8-bit code by kind name, for all kinds this process knows.
    """

    def __init__(self, folder: Path, item_key: Callable[[str], int], kind_code: Mapping[str, int]) -> None:
        self._folder, self._item_key, self._kind_code = folder, item_key, kind_code
        self.reports, self.attachments = GateReports(folder), Attachments(folder)
        self._passed: dict[Path, Stamp | None] = {}

    def versions(self) -> list[str]:
        """Published versions, oldest first."""
        if not self._folder.is_dir():
            return []
        found = (path for path in self._folder.iterdir() if not path.name.startswith("."))  # those are unfinished
        return sorted(path.name for path in found if (path / DESCRIPTION).is_file())

    def info(self, version: str) -> ReleaseInfo:
        """Raises UnknownRelease, or BadRelease if its description cannot be read."""
        return _read_description(self._path(version))[0]

    def load(self, version: str, *, with_index: bool = True) -> Release:
        """The release, every file checked against its SHA-256, values and shapes against each other.

        What passed once is not checked again until somebody writes to it. Raises UnknownRelease or BadRelease.
        """
        folder = self._path(version)
        info, files = _read_description(folder)
        files = {name: files[name] for name in files if with_index or name != "index.faiss"}
        found = stamps(folder / name for name in (DESCRIPTION, *files))
        is_known = found.items() <= self._passed.items()
        if not is_known:
            _check_files(folder, files)
        try:
            release = Release(folder, info, self._kind_code, with_index=with_index)
            probed = soundness.read_probe(folder)
            for check in () if is_known else soundness.checks(release, self._item_key, probed, every_id=False):
                if check.outcome == "refused":
                    raise BadRelease(check.says, check.name)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:  # RuntimeError: what faiss raises
            name = error.check if isinstance(error, BadRelease) else "files"
            raise BadRelease(f"release {version}: {error}", name) from error
        self._passed |= found
        return release

    def soundness(self, release: Release) -> list[Check]:
        """What `load` checked, with figures, and every id instead of a sample."""
        probed = soundness.read_probe(self._path(release.version))
        return list(soundness.checks(release, self._item_key, probed, every_id=True))

    def publish(self, model: Model, *, now_ms: int, min_recall: float = MIN_RECALL) -> str:
        """Build the index, write the folder, rename it into place; returns the version.

        Raises BadRelease for values that are not finite, shapes that disagree, ids that repeat or whose keys collide,
        an attachment with the name of another file, and an index below min_recall against exact search.
        """
        order, keys = self._order(model)
        try:
            soundness.check_model(model)
        except ValueError as error:
            raise BadRelease(str(error)) from None
        _encoder(model, self._kind_code)
        output, biases = model.output_embeddings[order], model.biases[order]
        queries = model.sample_vectors if model.sample_vectors is not None else model.input_embeddings[:1000]
        index, report = build(with_bias(output, biases), with_one(queries), min_recall=min_recall)
        arrays = {
            "item_keys": keys,
            "input_embeddings": model.input_embeddings[order],
            "output_embeddings": output,
            "biases": biases,
            "popularity": model.popularity[order],
        }
        temporary = self._folder / f"{UNFINISHED}{os.getpid()}-{os.urandom(4).hex()}"
        temporary.mkdir(parents=True)
        try:
            for name, array in arrays.items():
                np.save(temporary / f"{name}.npy", np.ascontiguousarray(array))
            _write_ids(temporary, [model.item_ids[row].encode() for row in order])
            index.save(temporary / "index.faiss")
            as_given = keys[np.argsort(order)]
            probe = soundness.probe(as_given, model.input_embeddings, model.output_embeddings, model.biases)
            (temporary / soundness.PROBE).write_text(json.dumps(probe) + "\n")
            _attach(temporary, model.attachments)
            version = _describe(temporary, model, report, now_ms)
            temporary.rename(self._folder / version)
            sync(self._folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return version

    def prune(self, keep: int, now_ms: int, *, spared: Collection[str]) -> list[str]:
        """Delete all but the newest `keep` releases and what killed publishers left a day ago; returns the versions.

        Of those the gate refused only the newest stays, to be looked at: they take no place of one to go back to.
        spared: versions in use, which stay wherever they stand among them.

        Processes that hold a deleted release keep its mapped files until they let go of it.
        """
        versions = self.versions()
        refused = [version for version in versions if self.reports.refusal(version)]
        good = [version for version in versions if version not in refused]
        gone = [version for version in sorted(good[: -max(keep, 1)] + refused[:-1]) if version not in spared]
        for version in gone:
            shutil.rmtree(self._path(version))
            self.reports.forget(version)
        for unfinished in self._folder.glob(f"{UNFINISHED}*"):
            if now_ms / 1000 - unfinished.stat().st_mtime > UNFINISHED_FOR_S:
                shutil.rmtree(unfinished, ignore_errors=True)
        return gone

    def _path(self, version: str) -> Path:
        folder = self._folder / version
        if not version or "/" in version or version.startswith(".") or not (folder / DESCRIPTION).is_file():
            raise UnknownRelease(f"there is no release {version!r} in {self._folder}")
        return folder

    def _order(self, model: Model) -> tuple[I64, U64]:
        keys = np.fromiter((self._item_key(item) for item in model.item_ids), np.uint64, len(model.item_ids))
        order = np.argsort(keys, kind="stable").astype(np.int64)
        keys = keys[order]
        same = np.flatnonzero(keys[1:] == keys[:-1])
        if len(same):
            first, second = model.item_ids[order[same[0]]], model.item_ids[order[same[0] + 1]]
            what = "appears twice" if first == second else f"has the same 64-bit key as item {second!r}"
            raise BadRelease(f"item {first!r} {what}")
        return order, keys


def release_key(version: str) -> int:
    """64-bit number of a version, never 0: how a user record says which release made its vector."""
    return int.from_bytes(hashlib.blake2b(version.encode(), digest_size=8).digest(), "big") or 1


def _encoder(made: Model | ReleaseInfo, kind_code: Mapping[str, int]) -> Encoder:
    unknown = sorted(set(made.kind_weights) - set(kind_code))
    if unknown:
        raise BadRelease(f"kinds {', '.join(unknown)} are not among this process's kinds")
    by_code = {kind_code[kind]: weight for kind, weight in made.kind_weights.items()}
    try:
        return Encoder(by_code, made.half_life_s, tuple(made.head_weights))
    except ValueError as error:
        raise BadRelease(str(error)) from None


def _write_ids(folder: Path, ids: Sequence[bytes]) -> None:
    (folder / "item_ids.bin").write_bytes(b"".join(ids))
    np.save(folder / "id_ends.npy", np.cumsum([len(i) for i in ids], dtype=np.int64))


def _attach(folder: Path, attachments: Mapping[str, bytes]) -> None:
    for name, content in attachments.items():
        if not _ATTACHMENT.fullmatch(name) or name == DESCRIPTION or (folder / name).exists():
            raise BadRelease(f"attachment {name!r}: a plain name of a file that a release does not have otherwise")
        (folder / name).write_bytes(content)


def _describe(folder: Path, model: Model, index: Mapping[str, Any], now_ms: int) -> str:
    files = {path.name: [sha256_of(path), path.stat().st_size] for path in sorted(folder.iterdir())}
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:8]
    moment = datetime.fromtimestamp(now_ms / 1000, UTC)
    version = f"{moment:%Y%m%dT%H%M%S}{now_ms % 1000:03d}Z-{digest}"
    encoder: dict[str, object] = {"kind_weights": dict(model.kind_weights), "half_life_s": model.half_life_s}
    if model.head_weights:
        encoder["head_weights"] = list(model.head_weights)
    description = {
        "format": FORMAT_WITH_HEADS if model.head_weights else FORMAT,
        "version": version,
        "dim": model.input_embeddings.shape[1],
        "items": len(model.item_ids),
        "created_ms": now_ms,
        "encoder": encoder,
        "index": index,
        "about": model.about,
        "files": files,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2, allow_nan=False) + "\n")
    for path in (*folder.iterdir(), folder):
        sync(path)
    return version


def _read_description(folder: Path) -> tuple[ReleaseInfo, dict[str, tuple[str, int]]]:
    try:
        raw = json.loads((folder / DESCRIPTION).read_text())
        if raw["format"] not in (FORMAT, FORMAT_WITH_HEADS):
            known = f"this program knows {FORMAT} and {FORMAT_WITH_HEADS}"
            raise BadRelease(f"release {folder.name}: format {raw['format']}, {known}", "format")
        info = ReleaseInfo(
            version=raw["version"],
            dim=int(raw["dim"]),
            items=int(raw["items"]),
            created_ms=int(raw["created_ms"]),
            kind_weights={str(k): float(w) for k, w in raw["encoder"]["kind_weights"].items()},
            half_life_s=raw["encoder"]["half_life_s"],
            index=dict(raw["index"]),
            about=dict(raw["about"]),
            head_weights=tuple(float(factor) for factor in raw["encoder"].get("head_weights", ())),
        )
        files = {str(name): (str(sha), int(size)) for name, (sha, size) in raw["files"].items()}
    except (OSError, KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        if isinstance(error, BadRelease):
            raise
        raise BadRelease(f"release {folder.name}: {DESCRIPTION} cannot be read: {error}", "description") from error
    for name in sorted(FILES - files.keys()):
        raise BadRelease(f"release {folder.name}: {DESCRIPTION} does not list {name}", "description")
    if info.version != folder.name:
        raise BadRelease(f"release {folder.name}: its description is of {info.version}", "description")
    return info, files


def _check_files(folder: Path, files: Mapping[str, tuple[str, int]]) -> None:
    for name, (sha256, size) in files.items():
        path = folder / name
        if not path.is_file():
            raise BadRelease(f"release {folder.name}: {name} is missing", "checksums")
        if (found := path.stat().st_size) != size:
            raise BadRelease(f"release {folder.name}: {name} has {found} bytes, {size} expected", "checksums")
        if (digest := sha256_of(path)) != sha256:
            why = f"{name} does not match its checksum: SHA-256 {digest[:16]}…, {sha256[:16]}… expected"
            raise BadRelease(f"release {folder.name}: {why}", "checksums")


def _map(path: Path) -> Any:
    return np.asarray(np.load(path, mmap_mode="r"))  # without the mapped type, whose every slice costs a microsecond
