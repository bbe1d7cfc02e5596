"""A scrape of one worker shows all of them, whichever of them have ended, hang or began anew."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serving.siblings import Siblings


class Worker:
    """One that counts and can be scraped."""

    def __init__(self, folder: Path, name: str) -> None:
        own = CollectorRegistry()
        self.asked = Counter("asked", "Questions", ["code"], registry=own)
        self.took = Histogram("took", "Seconds", buckets=(1.0, 2.0), registry=own)
        self.siblings = Siblings(folder, name, own)
        self.siblings.start()

    def shown(self) -> dict[tuple[str, ...], float]:
        """Values by name and labels' values, in the order of the labels' names; without times of creation."""
        whole = CollectorRegistry()
        whole.register(self.siblings)
        families = list(text_string_to_metric_families(generate_latest(whole).decode()))
        assert len({family.name for family in families}) == len(families), "a family is told in one piece"
        samples = [sample for family in families for sample in family.samples if not sample.name.endswith("_created")]
        return {(one.name, *(value for _, value in sorted(one.labels.items()))): one.value for one in samples}


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="workers-") as name:  # sockets want short paths
        yield Path(name)


@pytest.fixture
def workers(folder: Path) -> Iterator[list[Worker]]:
    with ExitStack() as stack:
        made = [Worker(folder, name) for name in ("10", "11", "12")]
        for worker in made:
            stack.callback(worker.siblings.stop)
        yield made


def test_whoever_is_asked_shows_what_all_have_counted_each_under_its_name(workers: list[Worker]) -> None:
    for number, worker in enumerate(workers):
        worker.asked.labels("200").inc(number + 1)
    workers[2].took.observe(1.5)
    for worker in workers:
        shown = worker.shown()
        assert [shown["asked_total", "200", name] for name in ("10", "11", "12")] == [1, 2, 3]
        assert [shown["took_bucket", le, "12"] for le in ("1.0", "2.0", "+Inf")] == [0, 1, 1]
        assert shown["took_count", "10"] == 0
        assert shown["ledstream_workers",] == 3


def test_one_that_ended_is_left_out_and_so_is_what_a_killed_one_leaves_behind(
    workers: list[Worker], folder: Path
) -> None:
    ended = Worker(folder, "13")
    assert workers[0].shown()["ledstream_workers",] == 4
    ended.siblings.stop()
    killed = socket.socket(socket.AF_UNIX)
    killed.bind(str(folder / "14"))
    killed.close()
    assert workers[0].shown()["ledstream_workers",] == 3
    assert sorted(path.name for path in folder.iterdir()) == ["10", "11", "12"]


def test_one_that_hangs_keeps_nobody_from_the_others(
    workers: list[Worker], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(folder / "15"))
        hanging.listen()
        workers[1].asked.labels("503").inc()
        shown = workers[0].shown()
    assert shown["asked_total", "503", "11"] == 1
    assert shown["ledstream_workers",] == 3
    assert "worker 15 does not tell its figures: timed out" in caplog.text
