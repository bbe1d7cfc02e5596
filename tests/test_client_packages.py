"""What shops install: the wheel of the Python client and the package of the tracker, and nothing else with them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution, files
from pathlib import Path
from typing import Any

import pytest
from ledstream_client import __version__

from tests.conftest import missing

CLIENTS = Path(__file__).parents[1] / "clients"
ALONE = """
import sys
import tomllib
sys.path = [sys.argv[1], *sys.path]
import ledstream_client
assert ledstream_client.__file__.startswith(sys.argv[1])
with ledstream_client.Client("http://127.0.0.1:9", patience=ledstream_client.Patience(0.1)) as client:
    try:
        client.health()
    except ledstream_client.Unavailable:
        print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.mark.slow
def test_the_wheel_works_where_nothing_else_is_installed(tmp_path: Path) -> None:
    """But for what httpx brings: the same that `pip install` would, without the network."""
    copy, alone = tmp_path / "copy", tmp_path / "alone"
    shutil.copytree(CLIENTS / "python", copy, ignore=shutil.ignore_patterns("tests", "build", "*.egg-info", ".*"))
    build: list[str | Path] = [
        *(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"),
        "-w",
        tmp_path,
        copy,
    ]
    subprocess.run(build, check=True, timeout=120)
    (wheel,) = tmp_path.glob(f"ledstream_client-{__version__}-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (about,) = (archive.read(name).decode() for name in names if name.endswith("/METADATA"))
        archive.extractall(alone)
    sources = {f"ledstream_client/{path.name}" for path in (CLIENTS / "python/ledstream_client").glob("*.py")}
    assert {name for name in names if ".dist-info/" not in name} == sources | {"ledstream_client/py.typed"}
    assert re.findall(r"^Requires-Dist: (.*)$", about, re.MULTILINE) == ["httpx<1,>=0.25"]
    assert "Events in, recommendations out" in about, "the page of the package index is the README"
    for name in closure("httpx"):
        put_beside(alone, name)
    run = subprocess.run(
        [sys.executable, "-S", "-E", "-c", ALONE, alone], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert not {"led", "store", "stream", "serving", "ledstream", "numpy", "pydantic"} & set(run.stdout.split())


def closure(name: str) -> set[str]:
    """A distribution and all that it needs."""
    found, waiting = set[str](), [name]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            needed = [text for text in distribution(one).requires or [] if "extra ==" not in text]
            needed = [text for text in needed if "python_version" not in text or 'python_version < "3.13"' in text]
            waiting += [re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in needed]
    return found


def put_beside(folder: Path, name: str) -> None:
    for part in {Path(file.parts[0]) for file in files(name) or [] if file.parts[0] not in ("..", "__pycache__")}:
        target = Path(str(distribution(name).locate_file(part)))
        if not (folder / part).exists():
            (folder / part).symlink_to(target)


def test_clients_have_the_version_of_the_server() -> None:
    project = tomllib.loads((CLIENTS.parent / "pyproject.toml").read_text())["project"]
    package = json.loads((CLIENTS / "js/package.json").read_text())
    assert project["version"] == __version__ == package["version"]


def npm(*command: str, cwd: Path = CLIENTS / "js") -> str:
    if shutil.which("npm") is None:
        missing("no npm")
    run = subprocess.run(["npm", *command], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_the_package_of_the_tracker_holds_its_source_its_types_and_no_tools() -> None:
    (packed,) = json.loads(npm("pack", "--dry-run", "--json"))
    assert {file["path"] for file in packed["files"]} == {
        "README.md",
        "package.json",
        "src/ledstream.d.ts",
        "src/ledstream.js",
    }
    described: dict[str, Any] = json.loads((CLIENTS / "js/package.json").read_text())
    assert (packed["name"], packed["version"]) == (described["name"], described["version"])
    assert "dependencies" not in described


@pytest.mark.slow
def test_a_project_that_installs_the_packed_tracker_can_call_it_by_its_types(tmp_path: Path) -> None:
    compiler = CLIENTS / "js/node_modules/typescript/bin/tsc"
    if not compiler.exists():
        missing("no TypeScript: `npm ci` in clients/js (`make test` does it where npm is)")
    (packed,) = json.loads(npm("pack", "--json", "--pack-destination", str(tmp_path)))
    package = tmp_path / "node_modules/ledstream"
    package.mkdir(parents=True)
    shutil.unpack_archive(tmp_path / packed["filename"], tmp_path)
    shutil.copytree(tmp_path / "package", package, dirs_exist_ok=True)
    example = (CLIENTS / "js/src/example.ts").read_text()  # right calls, and a wrong one that must be one
    (tmp_path / "shop.mts").write_text(example.replace("./ledstream.js", "ledstream"))
    options = ["--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom"]
    compiled = subprocess.run(
        ["node", compiler, *options, "shop.mts"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert compiled.returncode == 0, compiled.stdout
    loaded = subprocess.run(
        ["node", "--input-type=module", "-e", 'console.log(typeof (await import("ledstream")).ledstream)'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.strip() == "function"
