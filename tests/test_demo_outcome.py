"""How the demo judges a run, and what it shows meanwhile."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from ledstream.demo import Plan, broken_promises, settings_of
from ledstream.live_view import Moment, opened
from ledstream.scoring import Ledger
from ledstream.traffic import Figures
from stream.simulator import SimulatorSettings

MOMENT = Moment(
    at_s=12.0,
    events_per_s=301.4,
    answers_per_s=299.6,
    p50_ms=1.25,
    p99_ms=9.04,
    lag_records=7,
    users_known=900,
    users_alive=640,
    release="20261121T120000Z",
    doing="serving",
    recall_personal=0.3412,
    recall_popular=0.1534,
    answer_errors=0,
)


def good_run() -> tuple[Figures, Ledger]:
    """Two events of one user, both found again, two releases, and one hit more than popularity."""
    figures, ledger = Figures(answers=2, personal=2, releases=["r1", "r2"]), Ledger()
    figures.recall.record(personal=True, popular=False)
    for item in ("hat", "belt"):
        ledger.sending("ana", item, 0.0)
    ledger.accepted(["ana", "ana"])
    ledger.check("ana", 2)
    return figures, ledger


def test_a_run_that_kept_everything_broke_no_promise() -> None:
    assert broken_promises(*good_run()) == []


def lose_an_event(_: Figures, ledger: Ledger) -> None:
    ledger.sending("bob", "hat", 0.0)
    ledger.accepted(["bob"])
    ledger.check("bob", 0, final=True)


def double_an_event(_: Figures, ledger: Ledger) -> None:
    ledger.sending("bob", "hat", 0.0)
    ledger.accepted(["bob"])
    ledger.check("bob", 2, final=True)


def leave_an_event_uncompared(_: Figures, ledger: Ledger) -> None:
    ledger.sending("bob", "hat", 0.0)
    ledger.accepted(["bob"])


def fail_an_answer(figures: Figures, _: Ledger) -> None:
    figures.answer_errors += 1
    figures.failed("GET /v1/recommendations: 500")


def see_one_release_only(figures: Figures, _: Ledger) -> None:
    figures.releases.pop()


def be_as_good_as_popularity(figures: Figures, _: Ledger) -> None:
    figures.recall.record(personal=False, popular=True)


@pytest.mark.parametrize(
    ("mishap", "sentence"),
    [
        (lose_an_event, "1 events were lost"),
        (double_an_event, "1 events were applied more than once"),
        (leave_an_event_uncompared, "1 events were lost"),
        (fail_an_answer, "1 answers were errors: GET /v1/recommendations: 500"),
        (see_one_release_only, "no release was swapped for another under load"),
        (be_as_good_as_popularity, "personal recall 0.5000 is not above popularity's 0.5000"),
    ],
)
def test_every_mishap_is_named(mishap: Callable[[Figures, Ledger], None], sentence: str) -> None:
    figures, ledger = good_run()
    mishap(figures, ledger)
    assert sentence in broken_promises(figures, ledger)


def test_a_plan_whose_users_expire_before_they_return_is_refused() -> None:
    assert Plan().shop.longest_absence_s < Plan().idle_after_s
    with pytest.raises(ValueError, match="idle_after_s = 30: must be above"):
        Plan(shop=SimulatorSettings(shoppers=6000))


def test_off_a_terminal_there_is_a_line_every_few_seconds() -> None:
    out = io.StringIO()
    with opened(Console(file=out, width=60), every_s=3.0) as view:
        for at_s in (0.0, 0.5, 1.0, 3.0, 3.5):
            view.show(replace(MOMENT, at_s=at_s))
        view.say("release 1 announced")
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[2] == "release 1 announced"
    for words in ("301/s", "lag 7", "p50 1.2 ms", "640 alive, 260 expired", "0.341 personal, 0.153 popular"):
        assert words in lines[0]


def test_on_a_terminal_the_same_is_shown_in_place() -> None:
    out = io.StringIO()
    with opened(Console(file=out, width=100, force_terminal=True, color_system=None)) as view:
        view.show(MOMENT)
    for words in ("301/s", "lag 7 records", "p99 9.0 ms", "640 alive", "260 expired", "0.341 personal", "20261121"):
        assert words in out.getvalue()


@pytest.mark.parametrize(("for_s", "idle_after_s"), [(60.0, 30), (600.0, 1800), (None, 1800)])
def test_who_visits_the_shop_may_take_time_and_drive_the_browser_by_a_program(
    tmp_path: Path, for_s: float | None, idle_after_s: int
) -> None:
    settings = settings_of(Plan(), tmp_path, "http://127.0.0.1:8081", for_s)
    assert (settings.idle_after_s, settings.refuse_bots) == (idle_after_s, False)
    assert settings.cors_origins == "http://127.0.0.1:8081"
