"""The Python client against the whole system: its page, its examples, and that a repeated post counts once."""

from __future__ import annotations

import asyncio
import csv
import dataclasses
import io
import json
import os
import re
import runpy
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from ledstream_client import AsyncClient, CatalogueItem, Client, Event, NotAllowed, NotFound, Patience, answers
from ledstream_client.reading import NAMED, REST

from ledstream.own_system import OwnSystem
from ledstream.settings import read_settings
from serving.parts import wall_clock_ms
from tests.eventually import until
from tests.servers import free_ports
from tests.worlds import releases, two_tastes

CLIENT = Path(__file__).parents[1] / "clients/python"
WRITE_KEY, ADMIN_KEY = "shop-key-2026", "admin-key-2026"
CONTRACT = Path(__file__).with_name("contract") / "openapi-v1.json"
PROMISED = {
    answers.Reason: "Reason",
    answers.Reasons: "Reasons",
    answers.Item: "ScoredItem",
    answers.Waited: "AfterAnswer",
    answers.Recommendations: "RecommendationsAnswer",
    answers.Similar: "SimilarAnswer",
    answers.Known: "ItemAnswer",
    answers.Found: "FoundItems",
    answers.Period: "PeriodEntry",
    answers.TimelineEntry: "TimelineItem",
    answers.User: "UserAnswer",
    answers.Erasure: "ErasureAnswer",
    answers.Strike: "StrikeAnswer",
    answers.Merged: "MergeAnswer",
    answers.Release: "ReleaseEntry",
    answers.Releases: "ReleasesAnswer",
    answers.Activation: "ActivationAnswer",
    answers.Declined: "RefusedEntry",
    answers.Consumer: "ConsumerEntry",
    answers.Health: "ReadyAnswer",
}
KEYS = {"SHOP_WRITE_KEY": WRITE_KEY, "SHOP_ADMIN_KEY": ADMIN_KEY}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of `ledstream up` with a release that knows hats and belts."""
    keys = {"write_keys": f"shop={WRITE_KEY}", "admin_key": ADMIN_KEY}
    flags = {"data_dir": tmp_path_factory.mktemp("client"), "port": free_ports(1)[0]}
    settings = read_settings({}, flags | keys)
    version = releases(settings.releases_dir).publish(two_tastes(), now_ms=wall_clock_ms())
    with asyncio.Runner() as runner:
        system = OwnSystem(settings)
        runner.run(system.__aenter__())
        try:
            with Client(system.address, admin_key=ADMIN_KEY) as client:
                client.activate(version)
                until(lambda: client.health().release == version)
            yield system.address
        finally:
            runner.run(system.stop())


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address, write_key=WRITE_KEY, admin_key=ADMIN_KEY) as client:
        yield client


class Forgetful(BaseHTTPRequestHandler):
    """Hands each request on to the system, and every other time keeps the answer to itself."""

    behind = ""
    asked = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name: self.headers[name] for name in ("content-type", "x-ledstream-key")}
        answer = httpx.post(self.behind + self.path, content=body, headers=headers)
        kind = type(self)
        kind.asked += 1
        if kind.asked % 2:
            return  # the connection ends
        self.send_response(answer.status_code)
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def forgetful(behind: str) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfThisTest", (Forgetful,), {"behind": behind}))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_posts_whose_answers_were_lost_are_sent_again_and_count_once(address: str, client: Client) -> None:
    with forgetful(address) as way, Client(way, write_key=WRITE_KEY, patience=Patience(first_pause_s=0.01)) as unlucky:
        for item in ("hat-01", "hat-02", "hat-03"):
            assert unlucky.track(Event("twice", item, "view")).accepted == 1
    client.track(Event("twice", "hat-04", "view"))
    until(lambda: "hat-04" in [entry.item_id for entry in client.user("twice").timeline], passing=(NotFound,))
    assert client.user("twice").events == 4


def test_an_answer_knows_of_what_was_tracked_a_moment_ago_through_both_clients(address: str, client: Client) -> None:
    taken = client.track_many([Event("fresh", "belt-03", "view"), Event("other", "hat-03", "view")])
    answer = client.recommend("fresh", k=4, exclude=["belt-04", "belt-05"], after=taken, wait_ms=1000)
    assert answer.after is not None
    assert answer.after.is_in
    assert (answer.source, answer.user, len(answer.items)) == ("personal", "fresh", 4)
    assert not {"belt-03", "belt-04", "belt-05"} & {item.item_id for item in answer.items}

    async def awaited() -> None:
        async with AsyncClient(address, write_key=WRITE_KEY) as other:
            taken = await other.track(Event("fresh", "belt-04", "sale", value=9.5))
            again = await other.recommend("fresh", k=4, seen=True, after=taken, wait_ms=1000)
            assert again.after is not None
            assert again.after.is_in
            both = await asyncio.gather(other.recommend("fresh", k=3), other.recommend_many(["fresh", "nobody"], k=3))
            assert both[0] == both[1][0]
            assert both[1][1].source == "popular"

    asyncio.run(awaited())


def test_everything_else_answers_as_it_is_typed(client: Client) -> None:
    assert [item.item_id[:3] for item in client.similar("hat-01", k=3).items] == ["hat"] * 3
    for_timeline = client.recommend_for([Event("nobody", "hat-01", "view")], k=3)
    assert (for_timeline.user, for_timeline.source) == (None, "personal")
    current = client.releases().current
    assert current is not None
    assert client.activate(current).version == current
    health = client.health()
    assert (health.ready, health.release, set(health.consumers) >= {"timelines"}) == (True, current, True)
    visitor = f"anon-{'0' * 32}"
    client.recommend(visitor, after=client.track(Event(visitor, "hat-01", "view")), wait_ms=1000)
    assert client.identify(visitor, "vera").merged == 1
    with pytest.raises(NotFound):
        client.similar("umbrella")


def test_reasons_add_up_and_an_event_that_is_struck_is_gone(client: Client) -> None:
    seen = client.track_many([Event("rita", item, "view") for item in ("hat-01", "belt-02")])
    first = client.recommend("rita", k=3, explain=True, after=seen, wait_ms=1000).items[0]
    assert first.reasons is not None
    assert {one.item_id for one in first.reasons.events} == {"hat-01", "belt-02"}
    total = first.reasons.bias + sum(one.contribution for one in first.reasons.events)
    assert total == pytest.approx(first.score, abs=1e-5)
    (belt,) = [one.entry for one in client.user("rita").timeline if one.item_id == "belt-02"]
    struck = client.strike("rita", belt)
    without = client.recommend("rita", k=3, explain=True, after=struck.token, wait_ms=1000).items[0]
    assert without.reasons is not None
    assert [one.item_id for one in without.reasons.events] == ["hat-01"]
    until(lambda: [one.item_id for one in client.user("rita").timeline] == ["hat-01"])


@pytest.mark.parametrize(("form", "name"), PROMISED.items(), ids=lambda one: getattr(one, "__name__", one))
def test_each_class_of_an_answer_has_what_the_contract_promises(form: type, name: str) -> None:
    promised = json.loads(CONTRACT.read_text())["components"]["schemas"][name]
    fields = {one.metadata.get(NAMED, one.name): one for one in dataclasses.fields(form)}
    fields.pop(REST, None)
    needed = {name for name, one in fields.items() if one.default is one.default_factory is dataclasses.MISSING}
    assert needed <= set(promised["required"])
    assert promised["properties"].keys() <= fields.keys()


def test_items_are_put_found_and_shown(client: Client) -> None:
    put = client.put_items(
        [CatalogueItem("hat-05", title="A red hat", price=12.5, currency="EUR", more={"colour": "red"})]
    )
    assert put.accepted == 1
    until(lambda: client.item("hat-05").title == "A red hat", passing=(NotFound,))
    assert client.item("hat-05").more == {"colour": "red"}
    until(lambda: [item.item_id for item in client.find_items("red hat").items] == ["hat-05"])
    until(lambda: "A red hat" in [item.title for item in client.similar("hat-04", k=40, details=True).items])
    assert all(period.events >= 0 for period in client.popularity("hat-05", "day"))


def test_a_user_who_is_erased_is_gone_and_there_is_a_receipt(client: Client) -> None:
    client.recommend("leaver", after=client.track(Event("leaver", "hat-01", "view")), wait_ms=1000)
    assert client.user("leaver").events == 1
    erased = client.erase("leaver")
    assert erased.status == "accepted"
    assert erased.receipt is not None
    assert "leaver" not in json.dumps(dict(erased.receipt))
    until(lambda: is_gone(client, "leaver"))


def is_gone(client: Client, user: str) -> bool:
    try:
        client.user(user)
    except NotFound:
        return True
    return False


def test_without_its_key_a_client_is_told_which_one(address: str) -> None:
    with Client(address) as stranger:
        with pytest.raises(NotAllowed, match="no write key"):
            stranger.track(Event("ana", "hat-01", "view"))
        with pytest.raises(NotAllowed, match="needs the admin key"):
            stranger.erase("ana")


def test_what_the_page_of_the_client_shows_runs_as_it_stands(address: str) -> None:
    """From top to bottom, in one interpreter of its own."""
    page = (CLIENT / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 7
    program = "\n".join(blocks).replace("http://localhost:8080", address)
    run = subprocess.run([sys.executable, "-c", program], env=environ(), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "wink known kinds are" in run.stdout
    assert "tries: ConnectError" in run.stdout


def test_each_example_does_what_it_says(example: Callable[..., str], address: str, tmp_path: Path) -> None:
    now = time.time_ns() // 1_000_000
    history = [["ines", f"hat-0{n}", "view", now - 1000 * n, f"h{n}"] for n in range(3)]
    columns = ["user_id", "item_id", "kind", "time_ms", "event_id"]
    table(tmp_path / "history.csv", [columns, *history, ["ines", "hat-09", "wink", now, "h9"]])
    table(tmp_path / "items.csv", [["item_id", "title", "price", "stock"], ["hat-07", "A blue hat", "20", "5"]])
    assert "3 taken, 1 rejected, 0 left" in example("import_history", address, str(tmp_path / "history.csv"))
    assert "1 of 1 put" in example("put_catalogue", address, str(tmp_path / "items.csv"))
    visit = example("visit", address, "ines", "hat-01", "hat-02")
    assert visit.startswith("personal, release ")
    assert len(visit.splitlines()) == 6
    assert example("newsletter", address, typed="ines\nnobody\n").count("\t") == 6
    assert json.loads(example("forget_user", address, "ines"))["signature"]
    tried = {"import_history", "put_catalogue", "visit", "newsletter", "forget_user", "wsgi_shop"}
    assert {path.stem for path in CLIENT.glob("examples/*.py")} == tried


def test_the_shop_of_the_examples_tracks_its_visitors(address: str, client: Client) -> None:
    shop = subprocess.Popen(
        [sys.executable, CLIENT / "examples/wsgi_shop.py", address, "0"],
        env=environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with shop:
        try:
            assert shop.stdout is not None
            page = httpx.get(shop.stdout.readline().strip() + "hat-01?user=walter")
            assert page.text.count("<li>") == 4
            until(lambda: client.user("walter").events == 1, passing=(NotFound,))
        finally:
            shop.terminate()


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs one as a program, in this process, and returns what it writes."""
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)

    def run(name: str, *given: str, typed: str = "") -> str:
        path = str(CLIENT / f"examples/{name}.py")
        monkeypatch.setattr(sys, "argv", [path, *given])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        runpy.run_path(path, run_name="__main__")
        return capsys.readouterr().out

    return run


def environ() -> dict[str, str]:
    return os.environ | KEYS | {"PYTHONPATH": str(CLIENT)}


def table(path: Path, rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
