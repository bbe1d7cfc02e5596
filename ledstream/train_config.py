"""The file of `ledstream train --config`: how a release is trained, beyond what settings can say. TOML, in sections.

    [selection]      which events count: fields of `training.interactions.Selection`
    [pretraining]    method = "closed form" (default), "denoised", "joined", "narrow", "pmi" or "none"; kinds = [...],
                     what it sees; for the first three bias and tune; then the fields of `SpectralSettings`,
                     `DenoisedSettings`, `JoinedSettings`, `NarrowSettings`, `PmiSettings` or `RandomStart`
    [finetuning]     fields of `FinetuneSettings`, and checkpoint = "FILE"; no section, no fine-tuning
    [evaluation]     on whom early stopping looks: fields of `ValidationSettings`
    [sessions]       instead of the two before: fields of `SessionSettings`, [sessions.recipe] and [sessions.schedule]

What is not said stays as the settings have it. Unknown sections and keys, and bad values, are refused by name.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from ledstream.settings import Settings, SettingsError
from training.denoised import DenoisedSettings
from training.finetune.settings import FinetuneSettings, Stage, ValidationSettings
from training.interactions import Selection
from training.joined import JoinedSettings
from training.learning import Trainer
from training.narrow import NarrowSettings
from training.pmi import PmiSettings
from training.recipe import Begin, RandomStart, Recipe, made
from training.spectral import SpectralSettings
from training.train import Grid, TrainSettings, train

if TYPE_CHECKING:
    from training.sessions.train import SessionSettings

Section = TypeVar("Section")
Table = dict[str, Any]
BEGINNINGS: dict[str, type[Begin]] = {
    "denoised": DenoisedSettings,
    "joined": JoinedSettings,
    "narrow": NarrowSettings,
    "pmi": PmiSettings,
    "none": RandomStart,
}
TUNED = ("closed form", "denoised", "joined")  # with a bias, and a grid to choose from
MOST_DIM: int = next(bound.le for bound in Settings.model_fields["dim"].metadata if hasattr(bound, "le"))
SECTIONS = ("selection", "pretraining", "finetuning", "evaluation", "sessions")


@dataclass(frozen=True)
class Pretraining:
    """The keys of [pretraining] beside those of its method."""

    method: Literal["closed form", "denoised", "joined", "narrow", "pmi", "none"] = "closed form"
    kinds: tuple[str, ...] = ()
    bias: float | None = None
    tune: bool | None = None


@dataclass(frozen=True)
class Finetuning:
    """The key of [finetuning] beside its settings."""

    checkpoint: str | None = None


@dataclass(frozen=True)
class ConfigFile:
    """A file that was read. Everything here raises SettingsError, which names file, key and value."""

    path: Path
    tables: dict[str, Table]

    @classmethod
    def read(cls, path: Path) -> ConfigFile:
        try:
            found = tomllib.loads(path.read_text())
        except OSError as error:
            raise SettingsError(f"{path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path}: {error}") from None
        for name, value in found.items():
            if name not in SECTIONS:
                raise SettingsError(f"{path}: {name} = {value!r} is no section; there are {', '.join(SECTIONS)}")
            if not isinstance(value, dict):
                raise SettingsError(f"{path}: {name} = {value!r} must be a section, [{name}]")
        return cls(path, found)

    def sessions(self, general: TrainSettings) -> SessionSettings:
        """What the section [sessions] says. general: what the settings say."""
        from training.sessions.learner import Recipe as SessionRecipe
        from training.sessions.teaching import Schedule
        from training.sessions.train import SessionSettings

        for other in ("pretraining", "finetuning", "evaluation"):
            if other in self.tables:
                raise SettingsError(f"{self.path}: [{other}] and [sessions] exclude each other")
        table = dict(self.tables["sessions"])
        recipe = self._section("sessions.recipe", SessionRecipe, table.pop("recipe", {}))
        schedule = self._section("sessions.schedule", Schedule, table.pop("schedule", {}))
        found = self._section("sessions", SessionSettings, table)
        self._among("sessions", "kinds", found.kinds, self._selection(general.selection))
        return replace(found, recipe=recipe, schedule=schedule)

    def recipe(self, general: TrainSettings) -> Recipe:
        """general: what the settings say, which the file overrules."""
        selection = self._selection(general.selection)
        about, method = self._split("pretraining", Pretraining)
        recipe = Recipe(replace(general, selection=selection), kinds=about.kinds)
        self._among("pretraining", "kinds", about.kinds, selection)
        if about.method in TUNED:
            recipe = replace(recipe, general=self._tuned(recipe.general, about))
        default = {"dim": general.spectral.dim}
        if about.method == "closed form":
            spectral = self._section("pretraining", SpectralSettings, default | method)
            recipe = replace(recipe, general=replace(recipe.general, spectral=spectral))
        else:
            begin = self._section("pretraining", BEGINNINGS[about.method], default | method)
            recipe = replace(recipe, begin=begin)
        for key in ("bias", "tune"):
            if about.method not in TUNED and getattr(about, key) is not None:
                raise self._refusal("pretraining", key, getattr(about, key), f"only methods {', '.join(TUNED)} have it")
        return replace(recipe, finetuning=self._stage(about, selection))

    def _selection(self, general: Selection) -> Selection:
        unsaid = {"kind_weights": dict(general.kind_weights), "half_life_s": general.half_life_s}
        found = self._section("selection", Selection, unsaid | self.tables.get("selection", {}))
        for kind in found.kind_weights:
            if kind not in general.kind_weights:  # a release with it would be refused once it is trained
                known = ", ".join(general.kind_weights)
                raise self._refusal("selection", "kind_weights", dict(found.kind_weights), f"{kind} is none of {known}")
        if not any(found.kind_weights.values()):
            raise self._refusal("selection", "kind_weights", dict(found.kind_weights), "one must be above 0")
        return found

    def _tuned(self, general: TrainSettings, about: Pretraining) -> TrainSettings:
        if about.bias is not None and not math.isfinite(about.bias):
            raise self._refusal("pretraining", "bias", about.bias, "must be finite")
        bias = general.bias if about.bias is None else about.bias
        grid = general.grid
        if about.tune is not None:
            grid = replace(Grid(), bias=tuple(sorted({*Grid.bias, bias}))) if about.tune else None
        return replace(general, bias=bias, grid=grid)

    def _stage(self, about: Pretraining, selection: Selection) -> Stage | None:
        if "finetuning" not in self.tables:
            if about.method == "none":
                raise self._refusal("pretraining", "method", "none", "then there must be a section [finetuning]")
            if "evaluation" in self.tables:
                raise SettingsError(f"{self.path}: [evaluation] says nothing without a section [finetuning]")
            return None
        beside, table = self._split("finetuning", Finetuning)
        settings = self._section("finetuning", FinetuneSettings, table)
        self._among("finetuning", "positives", settings.positives, selection)
        validation = self._section("evaluation", ValidationSettings, self.tables.get("evaluation", {}))
        return Stage(settings, validation, checkpoint=self._checkpoint(beside.checkpoint))

    def _checkpoint(self, name: str | None) -> Path | None:
        if not name:
            return None
        path = Path(name)
        if path.is_dir():
            raise self._refusal("finetuning", "checkpoint", name, "is a folder; it must be a file")
        if not path.parent.is_dir():
            raise self._refusal("finetuning", "checkpoint", name, f"there is no folder {path.parent}")
        return path

    def _split(self, name: str, kind: type[Section]) -> tuple[Section, Table]:
        """What a section says of `kind`, and the rest of it."""
        table = self.tables.get(name, {})
        own = _keys(kind)
        found = self._section(name, kind, {key: value for key, value in table.items() if key in own})
        return found, {key: value for key, value in table.items() if key not in own}

    def _section(self, name: str, kind: type[Section], table: Table) -> Section:
        known = _keys(kind)
        if not isinstance(table, dict):
            raise SettingsError(f"{self.path}: {name} = {table!r} must be a section, [{name}]")
        for key, value in table.items():
            if key not in known:
                raise self._refusal(name, key, value, f"no such key; there are {', '.join(known)}")
        refusing = checked(kind, frozen=True, config=ConfigDict(strict=True))
        adapter: TypeAdapter[Section] = TypeAdapter(refusing)  # type: ignore[arg-type] # it is a subclass
        try:
            # As JSON, where a strict reader takes an array for a tuple.
            found = adapter.validate_json(json.dumps(table, default=str))
        except ValidationError as error:
            first = error.errors()[0]
            if not first["loc"]:  # the class's own check, which names its field
                raise SettingsError(f"{self.path}: [{name}] {first['msg'].removeprefix('Value error, ')}") from None
            key = str(first["loc"][0])
            raise self._refusal(name, key, table.get(key), first["msg"]) from None
        if table.get("dim", 0) > MOST_DIM:
            raise self._refusal(name, "dim", table["dim"], f"must be at most {MOST_DIM}")
        return kind(**{key: getattr(found, key) for key in known})

    def _among(self, name: str, key: str, kinds: Collection[str], selection: Selection) -> None:
        for kind in kinds:
            if not selection.kind_weights.get(kind):
                known = ", ".join(selection.kind_weights)
                raise self._refusal(name, key, list(kinds), f"{kind} is not selected; selected are {known}")

    def _refusal(self, name: str, key: str, value: object, why: str) -> SettingsError:
        return SettingsError(f"{self.path}: [{name}] {key} = {value!r}: {why}")


def _keys(kind: type[Any]) -> list[str]:
    return [field.name for field in fields(kind)]


def configured(settings: Settings, general: TrainSettings) -> tuple[Settings, Trainer]:
    """The settings with the dimension that the file settings.config says, and what trains by that file.

    general: what the settings say of training, which is all there is without a file. Raises SettingsError, also where
    torch is needed and missing.
    """
    if not settings.config:
        return settings, train
    file = ConfigFile.read(Path(settings.config))
    needing = [f"[{section}]" for section in ("finetuning", "sessions") if section in file.tables]
    if file.tables.get("pretraining", {}).get("method") == "joined":
        needing.append('[pretraining] method = "joined"')
    if needing and find_spec("torch") is None:
        raise SettingsError(f"{file.path}: {needing[0]} needs torch and matplotlib: pip install 'ledstream[train]'")
    if "sessions" in file.tables:
        from training.sessions.train import train_sessions

        sessions = file.sessions(general)
        found = settings.model_copy(update={"dim": sessions.recipe.dim})
        return found, lambda events, _, progress: train_sessions(events, sessions, progress)
    recipe = file.recipe(general)
    return settings.model_copy(update={"dim": recipe.dim}), lambda events, _, progress: made(events, recipe, progress)
