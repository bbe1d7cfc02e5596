"""Who was erased: what a tombstone takes, where it is kept, and under which key."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest

from store.erasure_key import ErasureKey, WrongErasureKey, erasure_key
from store.receipts import BadReceipt, checked, signed, tombstones_of
from store.tombstones import FILE, Place, Tombstone, Tombstones, Where

KEY = ErasureKey(b"secret")
ANA = Tombstone(KEY.name("ana"), 1000, Place(7, 2, 40))


def folders(tmp_path: Path) -> list[Path]:
    return [tmp_path / "erasures", tmp_path / "archive"]


def taken(tombstones: Tombstones, *events: tuple[str, int, int], where: Where | None = None) -> list[bool]:
    """events: user, time, when the log took it."""
    users, times_ms, appended_ms = zip(*events, strict=True)
    takes: list[bool] = tombstones.takes(users, np.array(times_ms), np.array(appended_ms), where).tolist()
    return takes


def test_it_takes_what_happened_or_was_logged_before_and_nobody_elses(tmp_path: Path) -> None:
    tombstones = Tombstones(folders(tmp_path), KEY)
    assert taken(tombstones, ("ana", 1, 1)) == [False]
    tombstones.add([ANA])
    events = [("ana", 1000, 5000), ("ana", 5000, 1000), ("ana", 1001, 1001), ("bob", 1, 1)]
    assert taken(tombstones, *events) == [True, True, False, False]


def test_in_the_erasures_own_partition_its_place_decides_too(tmp_path: Path) -> None:
    """A server whose clock is ahead."""
    tombstones = Tombstones(folders(tmp_path), KEY)
    tombstones.add([ANA])
    events, offsets = [("ana", 2000, 2000)] * 3, np.array([39, 40, 41])
    assert taken(tombstones, *events, where=Where(7, 2, offsets)) == [True, False, False]
    assert taken(tombstones, *events, where=Where(7, 1, offsets)) == [False] * 3
    assert taken(tombstones, *events, where=Where(8, 2, offsets)) == [False] * 3


def test_the_last_erasure_of_several_counts(tmp_path: Path) -> None:
    tombstones = Tombstones(folders(tmp_path), KEY)
    tombstones.add([ANA._replace(time_ms=3000, place=None), ANA])
    assert (tombstones.until_ms("ana"), tombstones.until_ms("bob"), len(tombstones)) == (3000, None, 1)
    assert [place.offset for place in tombstones.places("ana", 7)] == [40]


def test_others_see_it_at_once_and_a_lost_folder_is_filled_from_the_other(tmp_path: Path) -> None:
    first, second = (Tombstones(folders(tmp_path), KEY) for _ in range(2))
    first.add([ANA])
    second.refresh()
    assert second.all() == [ANA]
    (tmp_path / "archive" / FILE).unlink()
    third = Tombstones(folders(tmp_path), KEY)
    third.spread()
    assert Tombstones([tmp_path / "archive"], KEY).all() == [ANA]


def test_adding_again_writes_nothing_and_files_may_be_joined(tmp_path: Path) -> None:
    tombstones = Tombstones(folders(tmp_path), KEY)
    tombstones.add([ANA, ANA])
    tombstones.add([ANA])
    file = tmp_path / "erasures" / FILE
    assert len(file.read_text().splitlines()) == 1
    file.write_bytes(file.read_bytes() * 2)
    assert Tombstones(folders(tmp_path), KEY).all() == [ANA]


def test_a_line_cut_short_by_a_crash_is_passed_over_and_the_next_is_whole(tmp_path: Path) -> None:
    tombstones = Tombstones(folders(tmp_path), KEY)
    tombstones.add([ANA])
    file = tmp_path / "erasures" / FILE
    file.write_bytes(file.read_bytes() + b'{"key":"')
    again = Tombstones(folders(tmp_path), KEY)
    bob = Tombstone(KEY.name("bob"), 5)
    again.add([bob])
    assert Tombstones([tmp_path / "erasures"], KEY).all() == [bob, ANA]


def test_no_id_is_in_the_file_and_another_key_is_refused(tmp_path: Path) -> None:
    Tombstones(folders(tmp_path), KEY).add([ANA])
    assert "ana" not in (tmp_path / "erasures" / FILE).read_text()
    with pytest.raises(WrongErasureKey, match="a tombstone of key"):
        Tombstones(folders(tmp_path), ErasureKey(b"another"))


def test_without_a_secret_one_is_drawn_once_for_its_owner_alone(tmp_path: Path) -> None:
    first, second = (erasure_key("", tmp_path / "erasures") for _ in range(2))
    assert first.name("ana") == second.name("ana")
    assert stat.S_IMODE((tmp_path / "erasures" / "key").stat().st_mode) == 0o600
    assert erasure_key("set", tmp_path).fingerprint != first.fingerprint


def test_a_receipt_is_good_as_it_was_signed_and_not_otherwise() -> None:
    visitor = Tombstone(KEY.name("visitor"), 1000)
    receipt = signed([ANA, visitor], {"record": "removed"}, KEY)
    assert tombstones_of(checked(json.dumps(receipt), KEY)) == [ANA, visitor]
    receipt["receipt"]["user"] = KEY.name("bob").hex()
    for text, why in (
        (json.dumps(receipt), "altered"),
        ("[]", "no receipt"),
        ("{", "no receipt"),
        ('{"user": "ana", "receipt": null}', "no receipt"),
    ):
        with pytest.raises(BadReceipt, match=why):
            checked(text, KEY)
    with pytest.raises(BadReceipt, match="signed with key"):
        checked(json.dumps(signed([ANA], {}, ErasureKey(b"another"))), KEY)
