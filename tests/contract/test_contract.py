"""The HTTP interface under /v1 stays what it was: `openapi-v1.json` is what others build on.

After an addition: `make contract`. It renews the file, and refuses to where something would break; who means to break
something deletes the file first, and says so in CHANGELOG.md.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.app import create_app
from store.connection import Client
from tests.contract.compatible import breaks
from tests.running import running
from tests.small_server import parts_of

SNAPSHOT = Path(__file__).with_name("openapi-v1.json")
PRIVATE = ("/v1/console/",)  # the console comes from the server that it asks
IS_RENEWED = os.environ.get("LEDSTREAM_TEST_RENEW") == "1"
TOLD = ("title", "description", "summary", "examples", "example", "tags", "operationId")
Document = dict[str, Any]


@pytest.fixture
def document(redis_client: Client, namespace: str, tmp_path: Path) -> Document:
    """Of a server as it is now, without what is told to people."""

    async def asked() -> Document:
        async with running(create_app(parts_of(redis_client, namespace, tmp_path))) as client:
            found: Document = (await client.get("/openapi.json")).json()
            return found

    found: Document = without_words(asyncio.run(asked()))
    del found["info"]
    found["paths"] = {path: what for path, what in found["paths"].items() if not path.startswith(PRIVATE)}
    named, schemas = reached(found["paths"], found), found["components"]["schemas"]
    found["components"]["schemas"] = {name: schemas[name] for name in named}
    return found


def reached(part: Any, document: Document) -> set[str]:
    """Names of all schemas that a part of the document leads to."""
    waiting, found = [json.dumps(part)], set[str]()
    while waiting:
        for name in set(re.findall(r'"#/components/schemas/([^"]+)"', waiting.pop())) - found:
            found.add(name)
            waiting.append(json.dumps(document["components"]["schemas"][name]))
    return found


def without_words(value: Any, *, are_names: bool = False) -> Any:
    """are_names: keys are those of fields, which may be called as words are."""
    if isinstance(value, list):
        return [without_words(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {name: inner for name, inner in value.items() if are_names or name not in TOLD}
    return {
        name: without_words(inner, are_names=name in ("properties", "schemas") and not are_names)
        for name, inner in kept.items()
    }


@pytest.fixture
def snapshot() -> Document:
    found: Document = json.loads(SNAPSHOT.read_text())
    return found


def test_whoever_was_written_for_this_version_still_gets_along(document: Document) -> None:
    old = json.loads(SNAPSHOT.read_text()) if SNAPSHOT.exists() else {"paths": {}}
    assert not breaks(old, document), "see the beginning of this file"
    if IS_RENEWED:
        SNAPSHOT.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def test_all_that_there_is_stands_in_the_file(document: Document, snapshot: Document) -> None:
    """A promise holds from when it is written down."""
    if document != snapshot:
        more = sorted(document["paths"].keys() - snapshot["paths"].keys())
        pytest.skip(f"the interface has grown{' by ' + ', '.join(more) if more else ''}: `make contract` takes it down")


Change = Callable[[Document], object]
RECOMMENDATIONS, EVENTS = "/v1/recommendations", "/v1/events"


def schema(document: Document, name: str) -> Document:
    found: Document = document["components"]["schemas"][name]
    return found


def field(document: Document, name: str, of: str) -> Document:
    found: Document = schema(document, name)["properties"][of]
    return found


def parameter(document: Document, name: str, path: str = RECOMMENDATIONS) -> Document:
    found: Document
    (found,) = (one for one in document["paths"][path]["get"]["parameters"] if one["name"] == name)
    return found


BREAKS: dict[str, tuple[Change, str]] = {
    "a path": (lambda d: d["paths"].pop("/v1/releases"), "GET /v1/releases: removed"),
    "a method": (lambda d: d["paths"][RECOMMENDATIONS].pop("post"), "POST /v1/recommendations: removed"),
    "a status": (lambda d: d["paths"][EVENTS]["post"]["responses"].pop("413"), "POST /v1/events 413: removed"),
    "a form of an answer": (
        lambda d: d["paths"]["/v1/pixel.gif"]["get"]["responses"]["200"].update(content={"image/png": {}}),
        "GET /v1/pixel.gif 200: image/gif removed",
    ),
    "a field of an answer": (lambda d: schema(d, "ScoredItem")["properties"].pop("score"), "items[].score: removed"),
    "a field of an answer may be missing": (
        lambda d: schema(d, "RecommendationsAnswer")["required"].remove("release"),
        "release: may be missing now",
    ),
    "a field of an answer may be null": (
        lambda d: schema(d, "ScoredItem")["properties"].update(score={"anyOf": [{"type": "number"}, {"type": "null"}]}),
        "items[].score: was number, is null",
    ),
    "a field of an answer is of another type": (
        lambda d: field(d, "VerdictsAnswer", "accepted").update(type="string"),
        "accepted: was integer, is string",
    ),
    "an integer of an answer has decimals": (
        lambda d: field(d, "ActivationAnswer", "version").update(type="number"),
        "version: was string, is number",
    ),
    "an answer has another value": (
        lambda d: field(d, "RecommendationsAnswer", "source")["enum"].append("trending"),
        "source: was ['personal', 'popular'], is ['trending']",
    ),
    "a list of an answer holds something else": (
        lambda d: field(d, "BatchAnswer", "answers").update(items={"type": "string"}),
        "answers[]: was object, is string",
    ),
    "values of a map of an answer are others": (
        lambda d: field(d, "ReadyAnswer", "consumers").update(additionalProperties={"type": "string"}),
        "consumers.*: was object, is string",
    ),
    "a parameter": (
        lambda d: d["paths"][RECOMMENDATIONS]["get"]["parameters"].remove(parameter(d, "seen")),
        "?seen: removed",
    ),
    "a parameter is needed": (lambda d: parameter(d, "k").update(required=True), "?k: required now"),
    "a new parameter is needed": (
        lambda d: d["paths"][RECOMMENDATIONS]["get"]["parameters"].append(
            {"name": "shop", "in": "query", "required": True, "schema": {"type": "string"}}
        ),
        "?shop: required now",
    ),
    "a parameter allows less": (
        lambda d: parameter(d, "k")["schema"].update(maximum=100),
        "?k: maximum was 200, is 100",
    ),
    "a field of a request": (lambda d: schema(d, "EventBody")["properties"].pop("value"), "value: removed"),
    "a field of a request is needed": (
        lambda d: schema(d, "EventBody")["required"].append("event_id"),
        "event_id: required now",
    ),
    "a new field of a request is needed": (
        lambda d: schema(d, "BatchBody").update(
            properties=schema(d, "BatchBody")["properties"] | {"shop": {"type": "string"}}, required=["users", "shop"]
        ),
        "shop: required now",
    ),
    "a field of a request allows less": (
        lambda d: field(d, "BatchBody", "users").update(maxItems=10),
        "users: maxItems was 1000, is 10",
    ),
    "a field of a request has a new bound": (
        lambda d: field(d, "EventBody", "kind").update(pattern="^[a-z]+$"),
        "kind: pattern was none, is ^[a-z]+$",
    ),
    "a field of a request may not be null": (
        lambda d: schema(d, "EventBody")["properties"].update(value={"type": "number"}),
        "value: was null, is number",
    ),
    "a field of a request takes fewer values": (
        lambda d: field(d, "EventBody", "kind").update(enum=["view", "sale"]),
        "kind: was any value, is ['view', 'sale']",
    ),
    "a form of a request": (
        lambda d: d["paths"][EVENTS]["post"]["requestBody"].update(content={"text/csv": {}}),
        "body: application/json removed",
    ),
    "one of several shapes of a request": (
        lambda d: schema(d, "PostBody")["anyOf"].pop(),
        "POST /v1/events body: was array",
    ),
    "what was taken beside known fields": (
        lambda d: schema(d, "EventsBody").update(additionalProperties=False),
        "POST /v1/events body: unknown fields are refused now",
    ),
}

ADDITIONS: dict[str, Change] = {
    "a path": lambda d: d["paths"].update({"/v1/new": d["paths"]["/v1/releases"]}),
    "a method": lambda d: d["paths"]["/v1/releases"].update(put=d["paths"]["/v1/releases"]["get"]),
    "a status": lambda d: d["paths"][RECOMMENDATIONS]["get"]["responses"].update({"429": {}}),
    "a parameter that may be left out": lambda d: d["paths"][RECOMMENDATIONS]["get"]["parameters"].append(
        {"name": "shop", "in": "query", "required": False, "schema": {"type": "string"}}
    ),
    "a field of an answer": lambda d: schema(d, "ScoredItem")["properties"].update(colour={"type": "string"}),
    "a field of an answer is always there": lambda d: schema(d, "UserAnswer")["required"].append("receipt"),
    "a field of a request": lambda d: schema(d, "EventBody")["properties"].update(shop={"type": "string"}),
    "a request takes more": lambda d: field(d, "BatchBody", "users").update(maxItems=2000),
    "a parameter takes more": lambda d: parameter(d, "k")["schema"].update(maximum=500),
    "a request takes another shape": lambda d: schema(d, "PostBody")["anyOf"].append({"type": "string"}),
    "a field of a request may be left out": lambda d: schema(d, "MergeBody")["required"].remove("user_id"),
    "an answer promises more": lambda d: field(d, "RecommendationsAnswer", "source")["enum"].remove("popular"),
    "a schema by another name": lambda d: d["components"]["schemas"].update(
        Scored=schema(d, "ScoredItem"), ScoredItem={"$ref": "#/components/schemas/Scored"}
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_breaks_others_is_found_and_named(snapshot: Document, name: str) -> None:
    change, told = BREAKS[name]
    changed = copy.deepcopy(snapshot)
    change(changed)
    assert [one for one in breaks(snapshot, changed) if told in one], breaks(snapshot, changed)


@pytest.mark.parametrize("name", ADDITIONS)
def test_what_is_added_breaks_nobody(snapshot: Document, name: str) -> None:
    changed = copy.deepcopy(snapshot)
    ADDITIONS[name](changed)
    assert changed != snapshot
    assert breaks(snapshot, changed) == []


def test_each_operation_and_each_field_of_an_answer_is_watched(snapshot: Document) -> None:
    operations = {f"{method.upper()} {path}" for path, methods in snapshot["paths"].items() for method in methods}
    assert set(breaks(snapshot, {"paths": {}})) == {f"{one}: removed" for one in operations}
    answers = [one["responses"] for methods in snapshot["paths"].values() for one in methods.values()]
    for name in reached(answers, snapshot):
        changed = copy.deepcopy(snapshot)
        fields = schema(changed, name).pop("properties", {})
        found = breaks(snapshot, changed)
        assert all(any(one.endswith(f".{field}: removed") for one in found) for field in fields), name
