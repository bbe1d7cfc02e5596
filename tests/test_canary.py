"""A release on trial with a share of the users: how it is judged, and how it ends."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from consumers.live_recall import CANARY, CHAMPION, before, group_of, is_shown
from led.ranking import score, top_k
from ledstream import parts
from ledstream.canary_command import introduce
from ledstream.cli import main
from ledstream.judge import judging
from ledstream.settings import read_settings
from ledstream.verdict import Evidence, Rules
from store.connection import Client
from store.tallies import Tallies
from store.user_state import encode_timelines
from stream.announcements import Announcement, Canary, announce, announce_canary, read_announcement, withdraw
from stream.events import Event, encode_event, erasure, item_key
from stream.log import Entry
from stream.memory_log import MemoryLog
from stream.topics import EVENTS, RELEASES
from tests.eventually import until
from tests.records import record, timeline
from tests.trial_world import SEEN, TRIAL_S, USERS, TrialWorld, shuffled
from tests.worlds import NOW_MS, item_ids, two_tastes


@pytest.fixture
def world(redis_client: Client, namespace: str, tmp_path: Path) -> TrialWorld:
    return TrialWorld(redis_client, namespace, tmp_path)


def announced(world: TrialWorld) -> Announcement:
    last = read_announcement(world.log)
    assert last is not None
    return last


def test_a_worse_canary_is_withdrawn_long_before_its_time(world: TrialWorld) -> None:
    world.begin(world.publish(shuffled(two_tastes())))
    judge = world.judge()
    assert world.look(judge, 1).action == "wait"  # from now on
    world.turn(SEEN)
    said = world.look(judge, 2)
    assert said.action == "withdraw"
    assert "it recalls less: recall@20 0." in said.reason
    assert announced(world) == Announcement(world.champion, NOW_MS + 2000, None)
    assert judge.look(NOW_MS + 3000) is None


def test_an_equal_canary_is_promoted_when_its_time_is_over_and_not_before(world: TrialWorld) -> None:
    version = world.publish(two_tastes())
    world.begin(version)
    judge = world.judge()
    world.look(judge, 0)
    for place in range(SEEN, SEEN + 3):
        world.turn(place)
        assert world.look(judge, 10 * place).action == "wait"
    said = world.look(judge, TRIAL_S)
    assert (said.action, "nothing speaks against it" in said.reason) == ("promote", True)
    assert announced(world) == Announcement(version, NOW_MS + int(1000 * TRIAL_S), None, (world.champion,))


def test_a_trial_that_saw_too_little_goes_on_and_ends_by_what_it_saw(world: TrialWorld) -> None:
    for model, action in ((two_tastes(), "promote"), (shuffled(two_tastes()), "withdraw")):
        announce(world.log, world.champion, NOW_MS)
        world.begin(world.publish(model))
        judge = world.judge(Rules(level=1e-9))  # no bet is won on so little
        world.look(judge, 0)
        world.turn(SEEN, users=60)
        held = world.look(judge, TRIAL_S)
        assert (held.action, held.reason) == ("wait", "60 events, 200 wanted: up to 1200 s longer")
        assert world.look(judge, 3 * TRIAL_S).action == action


def test_a_trial_that_nobody_took_part_in_ends_with_a_promotion(world: TrialWorld) -> None:
    world.begin(world.publish(shuffled(two_tastes())))
    judge = world.judge()
    assert world.look(judge, 2 * TRIAL_S).action == "wait"
    assert world.look(judge, 3 * TRIAL_S).action == "promote"


def test_a_canary_that_fails_more_often_is_withdrawn(world: TrialWorld) -> None:
    trial = world.begin(world.publish(two_tastes()), share=0.05)
    judge = world.judge()
    world.tallies.add(trial.trial, {"champion:answers": 9500, "canary:answers": 498})
    assert world.look(judge, 1).action == "wait"
    world.tallies.add(trial.trial, {"canary:errors": 2})
    said = world.look(judge, 2)
    assert said == ("withdraw", "it fails more often: 2 of 500 calls, the champion's 0 of 9500")


def test_failures_that_both_have_are_nobodys(world: TrialWorld) -> None:
    trial = world.begin(world.publish(two_tastes()), share=0.5)
    world.tallies.add(trial.trial, {"champion:answers": 900, "canary:answers": 900})
    world.tallies.add(trial.trial, {"champion:errors": 30, "canary:errors": 33})
    assert world.look(world.judge(), 1).action == "wait"


def test_a_canary_that_cannot_be_loaded_is_withdrawn_unless_its_folder_only_came_late(world: TrialWorld) -> None:
    version = world.publish(two_tastes())
    trial = world.begin(version)
    biases = world.folder / version / "biases.npy"
    whole = biases.read_bytes()
    biases.write_bytes(whole[:-1])
    judge = world.judge()
    assert world.look(judge, 1).action == "wait"
    assert "biases.npy has" in world.tallies.read(trial.trial).refused["judge"]
    biases.write_bytes(whole)
    assert world.look(judge, 11).action == "wait"
    world.tallies.refuse(trial.trial, "server:1", "no space left")
    said = world.look(judge, 12)
    assert said == ("withdraw", "1 processes cannot load it, server:1: no space left")


def test_another_judge_goes_on_where_one_ended(world: TrialWorld) -> None:
    trial = world.begin(world.publish(two_tastes()))
    world.look(world.judge(), 0)
    world.turn(SEEN)  # nobody looks meanwhile
    world.look(world.judge(), 5)
    kept = world.tallies.read(trial.trial).evidence
    assert kept is not None
    seen = Evidence.from_bytes(kept)
    assert seen.all_pairs.events == USERS
    assert seen.next_offsets == world.log.end_offsets(EVENTS)
    assert world.look(world.judge(), 6).action == "wait"
    assert Evidence.from_bytes(kept).all_pairs.events == USERS


def test_a_judge_at_work_withdraws_by_itself_and_goes_on_where_what_another_wrote_cannot_be_read(
    world: TrialWorld,
) -> None:
    trial = world.begin(world.publish(shuffled(two_tastes())), now_ms=int(time.time() * 1000))
    world.tallies.keep(trial.trial, b"[]")
    stop = threading.Event()
    thread = threading.Thread(target=world.judge().run, args=(stop,))
    thread.start()
    until(lambda: world.tallies.read(trial.trial).evidence != b"[]")
    world.turn(SEEN)
    until(lambda: announced(world).canary is None)
    assert announced(world).version == world.champion
    assert not stop.is_set()
    stop.set()
    thread.join()


def test_a_canary_is_judged_while_training_goes_on(
    redis_address: str, redis_client: Client, namespace: str, tmp_path: Path
) -> None:
    flags = {"log": redis_address, "store": redis_address, "namespace": namespace, "data_dir": tmp_path}
    settings, stop = read_settings({}, flags), threading.Event()
    one, two = (parts.releases(settings).publish(two_tastes(seed), now_ms=NOW_MS + seed) for seed in range(2))
    log = parts.open_log(settings)
    announce(log, one, NOW_MS)
    with judging(settings, log, stop):
        trial = announce_canary(log, two, 0.5, int(time.time() * 1000), 600)
        until(lambda: Tallies(redis_client, namespace).read(trial.trial).evidence is not None)
    assert stop.is_set()
    assert "judge" not in {thread.name for thread in threading.enumerate()}
    log.close()


def test_an_error_nobody_expected_ends_the_process_of_the_judge(
    world: TrialWorld, redis_client: Client, namespace: str
) -> None:
    trial = world.begin(world.publish(two_tastes()))
    redis_client.set(f"{namespace}:trial:{trial.trial}", "no hash")
    stop = threading.Event()
    with pytest.raises(Exception, match="WRONGTYPE"):
        world.judge().run(stop)
    assert stop.is_set()


def test_what_ends_a_judge_beside_trainings_ends_their_process_too_and_not_as_if_all_were_well(
    redis_address: str, redis_client: Client, namespace: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = {"log": redis_address, "store": redis_address, "namespace": namespace, "data_dir": tmp_path}
    settings, stop = read_settings({}, flags), threading.Event()
    log = parts.open_log(settings)
    announce(log, "one", NOW_MS)
    trial = announce_canary(log, "two", 0.5, int(time.time() * 1000), 600)
    redis_client.set(f"{namespace}:trial:{trial.trial}", "no hash")
    with pytest.raises(Exception, match="WRONGTYPE"), judging(settings, log, stop):
        assert stop.wait(30), "it tells the others to end"
    assert "the judge ended" in caplog.text
    log.close()


def test_what_somebody_decides_by_hand_while_the_judge_looks_stands(world: TrialWorld) -> None:
    world.begin(world.publish(two_tastes()))
    judge = world.judge(Rules(events=0))
    world.look(judge, 0)
    world.log.meanwhile = lambda: withdraw(world.log, NOW_MS + 1)
    assert world.look(judge, TRIAL_S).action == "promote"
    assert announced(world) == Announcement(world.champion, NOW_MS + 1)


def test_every_event_is_asked_of_both_groups_alike() -> None:
    users = [f"user-{n}" for n in range(20_000)]
    for share, size in ((0.05, 0.05), (0.5, 0.5), (0.8, 0.2)):
        trial = Canary("v", share, 0, 1)
        groups = [group_of(trial, user) for user in users]
        for group in (CHAMPION, CANARY):
            assert groups.count(group) / len(users) == pytest.approx(size, abs=0.01)
        tried = [trial.is_tried_on(user) for user in users]
        assert all(is_tried == (group == CANARY) for is_tried, group in zip(tried, groups, strict=True) if group)
    assert {group_of(Canary("v", 1.0, 0, 1), user) for user in users} == {CANARY}


def test_what_is_asked_about_is_off_the_timeline_and_so_is_what_came_later() -> None:
    known = record(("hat", NOW_MS), ("belt", NOW_MS + 5000), ("shoe", NOW_MS + 90_000), offset=2)

    def of(item: str, at_ms: int) -> list[int] | None:
        history = before(known, Event("ana", item, "view", at_ms))
        return None if history is None else history["item"].tolist()

    hat, belt, shoe = map(item_key, ("hat", "belt", "shoe"))
    assert of("shoe", NOW_MS + 90_000) == [hat, belt]
    assert of("belt", NOW_MS + 5000) == [hat]
    assert of("hat", NOW_MS) == []
    assert of("glove", NOW_MS + 91_000) == [hat, belt, shoe]  # not applied yet
    assert of("belt", NOW_MS + 92_000) is None  # seen before


def test_erasures_first_events_and_strangers_are_not_asked_about(world: TrialWorld) -> None:
    trial = world.begin(world.publish(two_tastes()), share=1.0)
    judge = world.judge()
    world.look(judge, 0)
    for event in (erasure("user-1", NOW_MS), Event("nobody", "hat-01", "view", NOW_MS)):
        world.log.append(EVENTS, [Entry(event.user_id.encode(), encode_event(event), NOW_MS)])
    world.log.append(EVENTS, [Entry(b"user-1", b"garbage", NOW_MS)])
    world.look(judge, 1)
    kept = world.tallies.read(trial.trial).evidence
    assert kept is not None
    assert Evidence.from_bytes(kept).all_pairs.events == 0


def test_an_item_is_shown_where_the_whole_ranking_without_the_seen_has_it(world: TrialWorld) -> None:
    release = world.releases.load(world.publish(two_tastes(3)))
    rng = np.random.default_rng(3)
    ids = item_ids()
    histories = [timeline(*((ids[i], NOW_MS + n) for n, i in enumerate(rng.choice(60, 6, False)))) for _ in range(80)]
    histories[3] = timeline(("unknown", NOW_MS))
    items = np.array([item_key(ids[i]) for i in rng.integers(0, 60, 80)], np.uint64)
    items[7] = item_key("unknown")
    shown = is_shown(release, histories, items, k=20)
    for place, (history, item) in enumerate(zip(histories, items, strict=True)):
        scores = score(encode_timelines([history], release).vectors(), release.output_embeddings, release.biases)
        if place == 3:
            scores = release.popularity[None].copy()
        seen = release.rows(history["item"].astype(np.uint64))
        scores[0, seen[seen >= 0]] = -np.inf
        row = release.rows(items[place : place + 1])[0]
        if row in seen:
            continue
        assert shown[place] == (row in top_k(scores, 20)[0]), (place, item)
    assert not shown[7]
    assert 10 < shown.sum() < 70


def test_a_new_release_is_tried_first_where_a_share_is_set(world: TrialWorld) -> None:
    tried, at_once = read_settings({}, {"canary_share": 0.1, "canary_s": 60}), read_settings({}, {})
    introduce(tried, world.log, "two", 5)
    trial = Canary("two", 0.1, 5, 60_005)
    assert announced(world) == Announcement(world.champion, 5, trial)
    introduce(tried, world.log, "three", 100_000)  # the trial is left in peace
    assert announced(world).canary == trial
    introduce(tried, world.log, "three", 300_000)  # nobody has judged it for long
    assert announced(world) == Announcement(world.champion, 300_000, Canary("three", 0.1, 300_000, 360_000))
    introduce(at_once, world.log, "four", 300_001)
    assert announced(world) == Announcement("four", 300_001, None, (world.champion,))


def test_the_first_release_of_all_is_current_at_once() -> None:
    log = MemoryLog()
    log.create_topic(RELEASES, 1)
    introduce(read_settings({}, {"canary_share": 0.1}), log, "one", 5)
    assert read_announcement(log) == Announcement("one", 5)


def test_a_trial_by_hand_from_its_start_to_the_way_back(
    redis_address: str, namespace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--log", redis_address, "--store", redis_address, "--namespace", namespace, "--data-dir", str(tmp_path)]
    releases = parts.releases(read_settings({}, {"data_dir": tmp_path}))
    one, two = (releases.publish(two_tastes(seed), now_ms=NOW_MS + seed) for seed in range(2))

    def ledstream(*words: str) -> str:
        code = main([*words, *where])
        said = capsys.readouterr()
        assert (code, bool(said.err)) in ((0, False), (2, True)), said
        return said.out + said.err

    assert "no release but" in ledstream("canary", "start", one, "--share", "0.1")
    assert "is current" in ledstream("releases", "activate", one)
    assert json.loads(ledstream("canary")) == {"current": one, "canary": None, "rollback_to": None}
    assert "needs a share" in ledstream("canary", "start", two)
    assert "there is no release" in ledstream("canary", "start", "three", "--share", "0.1")
    assert "on trial with 0.1 of the users for 90 s" in ledstream(
        "canary", "start", two, "--share", "0.1", "--for", "90"
    )
    assert "canary 0.1" in ledstream("releases")
    status = json.loads(ledstream("canary", "status"))
    assert (status["current"], status["canary"]["version"], status["canary"]["verdict"]) == (one, two, "wait")
    assert status["recall"]["all"]["events"] == 0
    assert f"{two} is withdrawn" in ledstream("canary", "stop")
    assert "no canary is on trial" in ledstream("canary", "promote")
    ledstream("canary", "start", two, "--share", "0.1")
    assert f"{two} is current" in ledstream("canary", "promote")
    (tmp_path / "releases" / one).rename(tmp_path / "aside")
    assert "there is no release" in ledstream("releases", "rollback")
    (tmp_path / "aside").rename(tmp_path / "releases" / one)
    assert f"{one} is current" in ledstream("releases", "rollback")
    assert "no release is known" in ledstream("releases", "rollback")
