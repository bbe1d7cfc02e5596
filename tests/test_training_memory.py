"""What a training takes of memory is foretold: never much too little, and not far too much."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.training_memory import WAYS, Size, measured
from training.batch_memory import SCORES, co_occurrences, of_finetuning
from training.finetune.settings import FinetuneSettings
from training.memory import MIB, needed, needed_by_file
from training.pmi import PmiSettings
from training.spectral import SpectralSettings
from training.survey import Survey

SETTINGS = SpectralSettings(dim=64)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [Size(200_000, 20_000, 5_000, 64), Size(500_000, 50_000, 40_000, 64)])
def test_a_training_takes_what_was_foretold(size: Size, way: str) -> None:
    peak, estimate, _ = measured(size, way)
    assert 0.9 * peak <= estimate <= 1.3 * peak


def test_from_disk_a_training_grows_with_the_catalogue_and_hardly_with_events_or_users() -> None:
    large = Survey(events=100_000_000, users=5_000_000, items=200_000, bytes=6_000_000_000)
    larger = Survey(events=1_000_000_000, users=50_000_000, items=200_000, bytes=60_000_000_000)
    assert needed(large, SETTINGS).from_disk < 2048 * MIB < 8192 * MIB < needed(large, SETTINGS).in_memory
    assert needed(larger, SETTINGS).from_disk < 2 * needed(large, SETTINGS).from_disk


def test_what_gradients_change_is_foretold_beside_what_the_closed_form_takes() -> None:
    found = Survey(events=1_000_000, users=50_000, items=1_000_000, bytes=60_000_000)
    plain, tied, untied = (needed_by_file(found, SETTINGS, learnt_tables=tables) for tables in range(3))
    assert plain == needed(found, SETTINGS).in_memory
    assert untied - tied == 1_000_000 * 64 * 4 * (1 + 3) < tied - plain


FILES = {
    "multinomial": '[pretraining]\nmethod = "none"\ndim = 32\n'
    '[finetuning]\nloss = "multinomial"\nepochs = 1\nbatch_users = 1024\n',
    "pmi": '[pretraining]\nmethod = "pmi"\ndim = 32\n',
    "sessions": "[sessions]\nheld_out_share = 0.1\n[sessions.schedule]\npasses = 1\n[sessions.recipe]\ndim = 64\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_training_by_a_file_takes_what_was_foretold(name: str, tmp_path: Path) -> None:
    """Never a tenth more; and at most twice, where what is not known of the data is allowed for."""
    pytest.importorskip("torch")
    (tmp_path / "train.toml").write_text(FILES[name])
    ended = subprocess.run(
        [sys.executable, "-c", TRAINS, str(tmp_path)], capture_output=True, text=True, timeout=300, check=True
    )
    peak, estimate = (float(figure) for figure in ended.stdout.split())
    assert 0.9 * peak <= estimate <= 2 * peak


TRAINS = """
import sys
from functools import partial
from pathlib import Path
from bench.archived_world import KIND, write_archive
from ledstream.settings import read_settings
from ledstream.train_command import foretold, train_settings
from ledstream.train_config import configured
from store.archive import archive_batches
from training.gate import COLUMNS
from training.learning import learn_in_memory
from training.memory import MIB
from training.peak_memory import peak_mib
from training.progress import silent
from training.survey import survey
folder = Path(sys.argv[1])
write_archive(folder / "archive", 100_000, 10_000, 20_000)
settings = read_settings({}, {"config": str(folder / "train.toml")})
settings, trainer = configured(settings, train_settings(settings))
batches = partial(archive_batches, folder / "archive", COLUMNS)
found = survey(batches(), [KIND])
learn_in_memory(batches, train_settings(settings), found, silent, trainer=trainer)
print(peak_mib(), foretold(settings, found) / MIB)
"""


def test_what_a_file_holds_at_once_grows_with_its_batches_and_never_past_what_pmi_allows() -> None:
    found = Survey(events=1_000_000, users=50_000, items=100_000, bytes=60_000_000)
    small, large = (of_finetuning(found, FinetuneSettings(loss="multinomial", batch_users=n), 64) for n in (512, 1024))
    assert large - small == 4 * 512 * 100_000 * SCORES
    assert of_finetuning(found, FinetuneSettings(negatives=10), 64) < small  # a few are picked: no scores of all items
    assert co_occurrences(found, PmiSettings(max_bytes=1 << 20)) == 1 << 20
    assert co_occurrences(replace(found, items=100), PmiSettings()) == 12 * 100 * 100
