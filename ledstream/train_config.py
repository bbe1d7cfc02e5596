"""The file of `ledstream train --config`: how a release is trained, beyond what settings can say. TOML, in sections.

    [selection]      which events count: fields of `training.interactions.Selection`
    [pretraining]    method = "closed form" (default), "pmi" or "none"; kinds = [...], what it sees; for the closed form
                     bias and tune; then the fields of `SpectralSettings`, `PmiSettings` or `RandomStart`
    [finetuning]     fields of `FinetuneSettings`, and checkpoint = "FILE"; no section, no fine-tuning
    [evaluation]     on whom early stopping looks: fields of `ValidationSettings`

What is not said stays as the settings have it. Unknown sections and keys, and bad values, are refused by name.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from ledstream.settings import SettingsError
from training.finetune.settings import FinetuneSettings, Stage, ValidationSettings
from training.interactions import Selection
from training.pmi import PmiSettings
from training.recipe import RandomStart, Recipe
from training.spectral import SpectralSettings
from training.train import Grid, TrainSettings

Section = TypeVar("Section")
Table = dict[str, Any]


@dataclass(frozen=True)
class Pretraining:
    """The keys of [pretraining] beside those of its method."""

    method: Literal["closed form", "pmi", "none"] = "closed form"
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
        known = ("selection", "pretraining", "finetuning", "evaluation")
        for name, value in found.items():
            if name not in known:
                raise SettingsError(f"{path}: {name} = {value!r} is no section; there are {', '.join(known)}")
            if not isinstance(value, dict):
                raise SettingsError(f"{path}: {name} = {value!r} must be a section, [{name}]")
        return cls(path, found)

    def recipe(self, general: TrainSettings) -> Recipe:
        """general: what the settings say, which the file overrules."""
        selection = self._selection(general.selection)
        about, method = self._split("pretraining", Pretraining)
        recipe = Recipe(replace(general, selection=selection), kinds=about.kinds)
        self._among("pretraining", "kinds", about.kinds, selection)
        if about.method == "closed form":
            recipe = replace(recipe, general=self._closed_form(recipe.general, about, method))
        else:
            for key in ("bias", "tune"):
                if getattr(about, key) is not None:
                    raise self._refusal("pretraining", key, getattr(about, key), 'only method = "closed form" has it')
            default = {"dim": general.spectral.dim}
            kind: type[PmiSettings | RandomStart] = PmiSettings if about.method == "pmi" else RandomStart
            recipe = replace(recipe, begin=self._section("pretraining", kind, default | method))
        return replace(recipe, finetuning=self._stage(about, selection))

    def _selection(self, general: Selection) -> Selection:
        unsaid = {"kind_weights": dict(general.kind_weights), "half_life_s": general.half_life_s}
        found = self._section("selection", Selection, unsaid | self.tables.get("selection", {}))
        for kind in found.kind_weights:
            if kind not in general.kind_weights:  # a release with it would be refused once it is trained
                known = ", ".join(general.kind_weights)
                raise self._refusal("selection", "kind_weights", dict(found.kind_weights), f"{kind} is none of {known}")
        return found

    def _closed_form(self, general: TrainSettings, about: Pretraining, table: Table) -> TrainSettings:
        spectral = self._section("pretraining", SpectralSettings, {"dim": general.spectral.dim} | table)
        bias = general.bias if about.bias is None else about.bias
        grid = general.grid
        if about.tune is not None:
            grid = replace(Grid(), bias=tuple(sorted({*Grid.bias, bias}))) if about.tune else None
        return replace(general, spectral=spectral, bias=bias, grid=grid)

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
        return Stage(settings, validation, checkpoint=Path(beside.checkpoint) if beside.checkpoint else None)

    def _split(self, name: str, kind: type[Section]) -> tuple[Section, Table]:
        """What a section says of `kind`, and the rest of it."""
        table = self.tables.get(name, {})
        own = _keys(kind)
        found = self._section(name, kind, {key: value for key, value in table.items() if key in own})
        return found, {key: value for key, value in table.items() if key not in own}

    def _section(self, name: str, kind: type[Section], table: Table) -> Section:
        known = _keys(kind)
        for key, value in table.items():
            if key not in known:
                raise self._refusal(name, key, value, f"no such key; there are {', '.join(known)}")
        adapter: TypeAdapter[Section] = TypeAdapter(checked(kind, config=ConfigDict(strict=True)))  # type: ignore[arg-type]
        try:
            # As JSON, in which strictness leaves arrays for tuples.
            return adapter.validate_json(json.dumps(table, default=str))
        except ValidationError as error:
            first = error.errors()[0]
            if not first["loc"]:  # the class's own check, which names its field
                raise SettingsError(f"{self.path}: [{name}] {first['msg'].removeprefix('Value error, ')}") from None
            key = str(first["loc"][0])
            raise self._refusal(name, key, table.get(key), first["msg"]) from None

    def _among(self, name: str, key: str, kinds: Collection[str], selection: Selection) -> None:
        for kind in kinds:
            if not selection.kind_weights.get(kind):
                known = ", ".join(selection.kind_weights)
                raise self._refusal(name, key, list(kinds), f"{kind} is not selected; selected are {known}")

    def _refusal(self, name: str, key: str, value: object, why: str) -> SettingsError:
        return SettingsError(f"{self.path}: [{name}] {key} = {value!r}: {why}")


def _keys(kind: type[Any]) -> list[str]:
    return [field.name for field in fields(kind)]
