"""Documents that do not lie: what they link to, name or promise is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ledstream.cli import COMMANDS
from ledstream.settings import PREFIX, Settings

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
PACKAGES = "led|stream|store|consumers|serving|training|ledstream|bench|tests|docs|deploy"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_a_document_names_or_links_to_is_there(document: Path) -> None:
    text = document.read_text()
    linked = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    named = re.findall(rf"`((?:{PACKAGES})/[\w./-]+)`", text)
    missing = [link for link in linked if not (document.parent / link).exists()]
    missing += [name for name in named if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_setting_a_document_names_is_one(document: Path) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {"LEDSTREAM_DATA"}
    named = set(re.findall(r"\bLEDSTREAM_[A-Z_]+[A-Z]\b", document.read_text()))
    assert not {name for name in named if name not in known and not name.startswith("LEDSTREAM_TEST")}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_a_document_names_is_one(document: Path) -> None:
    known = {command.name for command in COMMANDS}
    assert {word for word in re.findall(r"`?ledstream ([a-z]+)\b", document.read_text()) if word not in known} <= {"is"}


def test_every_command_has_a_line_in_the_readme_or_the_changelog() -> None:
    text = (ROOT / "README.md").read_text() + (ROOT / "CHANGELOG.md").read_text()
    assert all(command.name in text for command in COMMANDS)
