"""Events refused at the border: looked at, and sent again once they would be taken."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import orjson
import pytest

from ledstream.cli import main
from store.connection import connect
from stream.bad_rows import KEPT_BYTES, BadRow, as_entry, read_rows
from stream.events import decode_event
from stream.log import Log
from stream.redis_log import RedisLog
from stream.topics import BAD_ROWS, EVENTS, IMPRESSIONS, topics

NOW_MS = 1_700_000_000_000
EVENT = {"user_id": "ana", "item_id": "hat-01", "kind": "wish", "time_ms": NOW_MS + 3_600_000 - 5000}
Badrows = Callable[..., tuple[int, list[str]]]


def row(raw: object, *, field: str = "kind", site: str = "shop", ahead_ms: int = 0) -> BadRow:
    return BadRow(field, "wish", f"bad {field}", orjson.dumps(raw), site, "curl", NOW_MS, ahead_ms)


@pytest.fixture
def log(redis_address: str, namespace: str) -> Iterator[RedisLog]:
    log = RedisLog(connect(redis_address), namespace)
    for topic, partitions in topics(1).items():
        log.create_topic(topic, partitions)
    yield log
    log.close()


@pytest.fixture
def badrows(redis_address: str, namespace: str, capsys: pytest.CaptureFixture[str]) -> Badrows:
    def ask(action: str, *more: str) -> tuple[int, list[str]]:
        where = ["--log", redis_address, "--store", redis_address, "--namespace", namespace]
        code = main(["badrows", action, *more, *where])
        return code, capsys.readouterr().out.splitlines()

    return ask


def keep(log: Log, *rows: BadRow) -> None:
    log.append(BAD_ROWS, [as_entry(one) for one in rows])


def test_a_row_comes_back_as_it_was_kept(log: RedisLog) -> None:
    kept = row(EVENT, ahead_ms=-7)
    keep(log, kept)
    (found,) = read_rows(log)
    assert found == BadRow(**{**vars(kept), "place": 0})


def test_a_kind_that_is_known_by_now_is_replayed_once_at_the_time_it_happened(log: RedisLog, badrows: Badrows) -> None:
    keep(
        log,
        row(EVENT, ahead_ms=3_600_000),
        row(EVENT | {"kind": "nod"}),
        row({"kind": "impression"} | EVENT, site="blog"),
    )
    wish = ("--kinds", "view=1,wish=2")
    assert badrows("replay", "--dry-run", "--at", "0", *wish) == (0, ["row 0: would be replayed to events"])
    code, said = badrows("replay", "--site", "shop", *wish)
    assert code == 1, "one is refused still"
    assert said[0].startswith("row 1: refused: kind = nod: known kinds are view, wish")
    assert said[1] == "row 0: replayed to events/0@0"
    event = decode_event(log.read(EVENTS, 0, 0, 1)[0].value)
    assert (event.kind, event.time_ms, event.event_id) == ("wish", NOW_MS - 5000, "badrow-0")
    assert badrows("replay", "--at", "0", *wish)[1][0].startswith("row 0: left alone: replayed before")
    assert badrows("replay", "--at", "0", "--again", *wish) == (0, ["row 0: replayed to events/0@1"])
    assert decode_event(log.read(EVENTS, 0, 1, 1)[0].value) == event


def test_what_was_shown_is_replayed_to_where_it_belongs(log: RedisLog, badrows: Badrows) -> None:
    keep(log, row(EVENT | {"kind": "impression", "time_ms": NOW_MS}, field="user-agent"))
    assert badrows("replay", "--field", "user-agent") == (0, [f"row 0: replayed to {IMPRESSIONS}/0@0"])


def test_what_was_cut_or_is_no_event_is_refused_by_its_row(log: RedisLog, badrows: Badrows) -> None:
    keep(log, row({"more": "x" * KEPT_BYTES}), row(7))
    code, said = badrows("replay")
    assert code == 1
    assert said[0] == f"row 0: refused: cut at {KEPT_BYTES} bytes when it was kept, the rest is not known"
    assert said[1].startswith("row 1: refused: event = 7")


def test_the_list_shows_the_newest_and_why_they_were_refused(log: RedisLog, badrows: Badrows) -> None:
    assert badrows("list") == (0, ["no bad rows"])
    keep(log, *(row(EVENT | {"item_id": f"hat-{number}"}, field=f"field-{number}") for number in range(5)))
    code, said = badrows("list", "--json", "--limit", "2")
    rows = [json.loads(line) for line in said]
    assert (code, [one["row"] for one in rows]) == (0, [4, 3])
    assert json.loads(rows[0]["event"])["item_id"] == "hat-4"
    assert (rows[0]["field"], rows[0]["site"], rows[0]["agent"]) == ("field-4", "shop", "curl")
    table = badrows("list", "--reason", "field-2")[1]
    assert len(table) == 2
    assert "bad field-2" in table[1]
