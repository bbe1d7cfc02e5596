"""A shop's export into the catalogue's topic: what is good of it, and by line what is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ledstream.cli import main
from store.connection import connect
from stream.items import read_item
from stream.redis_log import RedisLog
from stream.topics import ITEMS

Import = Callable[..., tuple[int, str, str]]


@pytest.fixture
def imported(redis_address: str, namespace: str, capsys: pytest.CaptureFixture[str]) -> Import:
    def ask(file: Path, *more: str) -> tuple[int, str, str]:
        where = ["--log", redis_address, "--store", redis_address, "--namespace", namespace]
        code = main(["items", "import", str(file), *more, *where])
        said = capsys.readouterr()
        return code, said.out, said.err

    return ask


def items_of(address: str, namespace: str) -> list[tuple[str, str]]:
    log = RedisLog(connect(address), namespace)
    items = [read_item(record.key, record.value) for record in log.read(ITEMS, 0, 0, 100)]
    log.close()
    return [(item.item_id, item.fields.decode()) for item in items]


def test_a_csv_is_put_line_by_line(imported: Import, tmp_path: Path, redis_address: str, namespace: str) -> None:
    file = tmp_path / "items.csv"
    file.write_text(
        "\ufeffitem_id,title,price,stock,delete\n"
        'hat-01,"A felt\that, grey",39.9,3,\nhat-02,,,,true\nhat-03,x,dear,,\nhat-04,"x",,,maybe\nhat-05,Cap,,0,\n',
        encoding="utf-8",
    )
    code, out, err = imported(file)
    assert (code, out) == (1, "2 items put, 3 refused\n")
    assert "line 2: title" in err, "a tab is no text"
    assert "line 4: could not convert" in err
    assert items_of(redis_address, namespace) == [("hat-02", ""), ("hat-05", '{"title":"Cap","stock":0}')]


def test_a_json_object_a_line(imported: Import, tmp_path: Path, redis_address: str, namespace: str) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text('{"item_id":"hat-01","brand":"Ödön"}\n\n{"item_id":\n')
    assert imported(file, "--dry-run")[:2] == (1, "1 items would be put, 1 refused\n")
    code, out, err = imported(file)
    assert (code, out) == (1, "1 items put, 1 refused\n")
    assert "line 3: " in err
    assert items_of(redis_address, namespace) == [("hat-01", '{"brand":"Ödön"}')]
    code, _, err = imported(tmp_path / "nowhere.jsonl")
    assert (code, "nowhere.jsonl" in err) == (2, True)
