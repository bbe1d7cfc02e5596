"""The file of `ledstream train --config`: what it says is done, and what it should not say is refused by name."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ledstream.settings import Settings, SettingsError, read_settings
from ledstream.train_command import train_settings
from ledstream.train_config import ConfigFile, configured
from training.denoised import DenoisedSettings
from training.finetune.settings import FinetuneSettings, ValidationSettings
from training.joined import JoinedSettings
from training.narrow import NarrowSettings
from training.pmi import PmiSettings
from training.recipe import RandomStart, Recipe
from training.train import Grid

WHOLE = """
[selection]
kind_weights = { view = 1, sale = 3.5 }
min_item_users = 2

[pretraining]
method = "pmi"
kinds = ["view"]
dim = 32
smoothing = 0.5

[finetuning]
loss = "multinomial"
tuning = "project"
positives = ["sale"]
learn_kinds = true
lr = 0.01
checkpoint = "run.pt"

[evaluation]
users_share = 0.2
k = 20
"""

Read = Callable[[str], Recipe]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """The recipe of a text, under default settings."""

    def recipe(text: str) -> Recipe:
        path = tmp_path / "train.toml"
        path.write_text(text)
        return ConfigFile.read(path).recipe(train_settings(read_settings({})))

    return recipe


def test_a_file_says_every_stage(read: Read) -> None:
    recipe = read(WHOLE)
    assert dict(recipe.general.selection.kind_weights) == {"view": 1.0, "sale": 3.5}
    assert recipe.general.selection.min_item_users == 2
    assert recipe.begin == PmiSettings(dim=32, smoothing=0.5)
    assert (list(recipe.kinds), recipe.dim) == (["view"], 32)
    stage = recipe.finetuning
    assert stage is not None
    assert stage.settings == FinetuneSettings(
        loss="multinomial", tuning="project", positives=("sale",), learn_kinds=True, lr=0.01
    )
    assert stage.validation == ValidationSettings(0.2, k=20)
    assert stage.checkpoint == Path("run.pt")


def test_what_a_file_does_not_say_stays_as_the_settings_have_it(read: Read) -> None:
    assert read("") == Recipe(train_settings(read_settings({})))
    tuned = read("[pretraining]\ntune = true\nbias = 0.3\na = 0.1\n[selection]\nwindow_s = 60")
    assert (tuned.begin, tuned.finetuning) == (None, None)
    assert tuned.general.grid == Grid(bias=(0.0, 0.02, 0.05, 0.1, 0.3))
    assert (tuned.general.spectral.a, tuned.general.spectral.dim, tuned.general.selection.window_s) == (0.1, 64, 60.0)
    assert read('[pretraining]\nmethod = "narrow"\nwide = 100').begin == NarrowSettings(64, 100)
    assert read('[pretraining]\nmethod = "none"\n[finetuning]').begin == RandomStart(64)
    ridge = read('[pretraining]\nmethod = "denoised"\nridge = 20\ntune = true\nbias = 0.3')
    assert (ridge.begin, ridge.general.bias) == (DenoisedSettings(64, ridge=20.0), 0.3)
    assert ridge.general.grid == Grid(bias=(0.0, 0.02, 0.05, 0.1, 0.3))
    assert read('[pretraining]\nmethod = "joined"\nweight = 1').begin == JoinedSettings(64, weight=1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[finetune]\nlr = 1", r"train\.toml: finetune = .* is no section; there are selection, pretraining"),
        ("lr = 1", r"train\.toml: lr = 1 is no section"),
        ("[finetuning]\nlearning_rate = 0.1", r"\[finetuning\] learning_rate = 0\.1: no such key; there are loss, neg"),
        ('[finetuning]\nlr = "fast"', r"\[finetuning\] lr = 'fast': Input should be a valid number"),
        ('[finetuning]\nepochs = "3"', r"\[finetuning\] epochs = '3': Input should be a valid integer"),
        ("[finetuning]\nmasking = 1.5", r"\[finetuning\] masking = 1\.5: must be at least 0 and below 1"),
        ('[finetuning]\nloss = "hinge"', r"\[finetuning\] loss = 'hinge': Input should be 'bpr'"),
        (
            '[finetuning]\npositives = ["wish"]',
            r"positives = \['wish'\]: wish is not selected; selected are",
        ),
        ("[selection]\nkind_weights = { wish = 1 }", r"kind_weights = .*: wish is none of view, click, sale"),
        (
            "[selection]\nkind_weights = { view = nan }",
            r"\[selection\] kind_weights\[view\] = nan: must be finite",
        ),
        (
            "[selection]\nkind_weights = { view = -2 }",
            r"\[selection\] kind_weights\[view\] = -2\.0: must be finite",
        ),
        ("[selection]\nkind_weights = { view = 0 }", r"\[selection\] kind_weights = .*: one must be above 0"),
        (
            "[selection]\nkind_weights = { view = true }",
            r"kind_weights = \{'view': True\}: Input should be a valid",
        ),
        ("[selection]\nkind_weights = {}", r"\[selection\] kind_weights = \{\}: one must be above 0"),
        ("[selection]\nmin_item_users = 2.5", r"\[selection\] min_item_users = 2\.5: Input should be"),
        ("[selection]\nmin_item_users = true", r"\[selection\] min_item_users = True: Input should be"),
        ("[selection]\nwindow_s = '60'", r"\[selection\] window_s = '60': Input should be a valid number"),
        ('[pretraining]\nmethod = "magic"', r"\[pretraining\] method = 'magic': Input should be 'closed form'"),
        ('[pretraining]\nmethod = "pmi"\np = 1', r"\[pretraining\] p = 1: no such key; there are dim, min_count"),
        ('[pretraining]\nmethod = "pmi"\ntune = true', r"tune = True: only methods closed form, denoised, joined"),
        ('[pretraining]\nmethod = "denoised"\np = 1', r"\[pretraining\] p = 1: no such key; there are dim, a, noise"),
        ('[pretraining]\nmethod = "denoised"\nnoise = true', r"noise = True: Input should be a valid number"),
        ('[pretraining]\nmethod = "denoised"\nbias = nan', r"\[pretraining\] bias = nan: must be finite"),
        ('[pretraining]\nmethod = "joined"\ndim = 1', r"\[pretraining\] dim = 1: must be at least 2"),
        ('[pretraining]\nmethod = "none"', r"method = 'none': then there must be a section \[finetuning\]"),
        ("[pretraining]\ndim = 0", r"\[pretraining\] dim = 0: must be at least 1"),
        ("[evaluation]\nk = 10", r"\[evaluation\] says nothing without a section \[finetuning\]"),
        ("[finetuning", r"train\.toml: "),
    ],
)
def test_what_a_file_should_not_say_is_refused_by_file_key_and_value(read: Read, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as refused:
        read(text)
    assert "train.toml" in str(refused.value)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("selection", "min_item_users = 0"),
        ("selection", "window_s = 0"),
        ("selection", "window_s = inf"),
        ("selection", "window_s = nan"),
        ("selection", "half_life_s = -1"),
        ("selection", "half_life_s = inf"),
        ("sessions", "popularity_half_life_s = 0"),
        ("sessions", "seed = -1"),
        ("sessions.recipe", "dim = 0"),
        ("sessions.recipe", "dim = 5000"),
        ("sessions.recipe", "heads = 12"),
        ("sessions.recipe", "heads = -1"),
        ("sessions.schedule", "batch = 0"),
        ("sessions.schedule", "last_rate = -1"),
        ("sessions.schedule", "longest = 0"),
        ("sessions.schedule", "passes = 0"),
        ("sessions.schedule", "replay = nan"),
        ('pretraining]\nmethod = "pmi"\n#', "smoothing = nan"),
        ('pretraining]\nmethod = "pmi"\n#', "oversample = -70"),
        ('pretraining]\nmethod = "pmi"\n#', "seed = -1"),
        ('pretraining]\nmethod = "narrow"\n#', "seed = -1"),
        ('pretraining]\nmethod = "none"\n#', "seed = -1"),
        ('pretraining]\nmethod = "denoised"\n#', "noise = 1"),
        ('pretraining]\nmethod = "denoised"\n#', "a = nan"),
        ('pretraining]\nmethod = "denoised"\n#', "ridge = inf"),
        ('pretraining]\nmethod = "denoised"\n#', "power_iterations = -1"),
        ('pretraining]\nmethod = "joined"\n#', "noise = -1"),
        ('pretraining]\nmethod = "joined"\n#', "weight = 0"),
        ('pretraining]\nmethod = "joined"\n#', "passes = 0"),
        ("pretraining", "oversample = -70"),
        ("pretraining", "dim = 100000"),
        ("finetuning", "seed = -1"),
    ],
)
def test_a_number_that_training_could_not_use_is_refused_before_it(tmp_path: Path, section: str, said: str) -> None:
    path = tmp_path / "train.toml"
    path.write_text(f"[{section}]\n{said}")
    settings = read_settings({}, {"config": str(path)})
    name = section.partition("]")[0]
    with pytest.raises(SettingsError, match=rf"train\.toml: \[{re.escape(name)}\] {said}(\.0)?: must be "):
        configured(settings, train_settings(settings))


def test_a_checkpoint_that_could_not_be_written_is_refused_before_training(read: Read, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"\[finetuning\] checkpoint = .*: is a folder; it must be a file"):
        read(f"[finetuning]\ncheckpoint = '{tmp_path}'")
    with pytest.raises(SettingsError, match=r"\[finetuning\] checkpoint = .*run\.pt': there is no folder .*gone"):
        read(f"[finetuning]\ncheckpoint = '{tmp_path}/gone/run.pt'")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"gone\.toml: No such file"):
        ConfigFile.read(tmp_path / "gone.toml")


def test_the_dimension_of_a_file_is_that_of_the_release_the_gate_expects(tmp_path: Path) -> None:
    def dim_of(text: str) -> int:
        path = tmp_path / "train.toml"
        path.write_text(text)
        settings = read_settings({}, {"config": str(path)})
        found: Settings = configured(settings, train_settings(settings))[0]
        return found.dim

    assert dim_of("[pretraining]\ndim = 200") == 200
    assert dim_of("[sessions]\nkinds = ['click']\n[sessions.recipe]\ndim = 24") == 24
    with pytest.raises(SettingsError, match=r"\[sessions\.recipe\] tau = 'hot': Input should be a valid number"):
        dim_of("[sessions.recipe]\ntau = 'hot'")
    with pytest.raises(SettingsError, match=r"\[finetuning\] and \[sessions\] exclude each other"):
        dim_of("[sessions]\n[finetuning]")


def test_without_torch_the_extra_that_brings_it_is_named(tmp_path: Path) -> None:
    """In an interpreter of its own, which is told that there is no torch."""
    path = tmp_path / "train.toml"
    path.write_text("[finetuning]")
    program = (
        "import sys, importlib.util as u; found = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'torch' else found(name, *more)\n"
        "from ledstream.settings import read_settings; from ledstream.train_command import train_settings\n"
        "from ledstream.train_config import configured\n"
        f"settings = read_settings({{}}, {{'config': {str(path)!r}}})\n"
        "configured(settings, train_settings(settings))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert "SettingsError" in ended.stderr
    assert "[finetuning] needs torch and matplotlib: pip install 'ledstream[train]'" in ended.stderr


def test_nothing_but_a_wish_for_torch_imports_it() -> None:
    program = "import sys, ledstream.train_command, training.benchmarks.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=120, check=False).returncode == 0
