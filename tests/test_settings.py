"""Settings: one object, read once, and every bad value named before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledstream.settings import SettingsError, read_settings


def test_without_anything_set_the_defaults_hold() -> None:
    settings = read_settings({"PATH": "/bin"})
    assert (settings.log, settings.store, settings.port, settings.timeline_events) == ("", "", 8080, 50)
    assert settings.archive_dir == Path("ledstream-data/archive")


def test_the_environment_sets_and_a_flag_wins() -> None:
    environ = {"LEDSTREAM_PORT": "9000", "LEDSTREAM_DATA_DIR": "/data", "LEDSTREAM_TUNE": "true"}
    settings = read_settings(environ, {"port": "9001", "dim": None, "workers": 2})
    assert (settings.port, settings.workers, settings.dim, settings.tune) == (9001, 2, 64, True)
    assert settings.releases_dir == Path("/data/releases")


def test_a_flag_saves_a_bad_variable() -> None:
    assert read_settings({"LEDSTREAM_PORT": "eighty"}, {"port": "80"}).port == 80


def test_an_unknown_variable_stops_the_start_and_the_known_ones_are_listed() -> None:
    with pytest.raises(SettingsError, match=r"LEDSTREAM_PROT is no setting.*LEDSTREAM_PORT"):
        read_settings({"LEDSTREAM_PROT": "8080"})


def test_variables_of_tests_and_their_data_are_no_settings() -> None:
    environ = {"LEDSTREAM_DATA": "x", "LEDSTREAM_TEST_KAFKA": "localhost:9092", "LEDSTREAM_TEST_REDIS": "redis://x"}
    assert read_settings(environ) == read_settings({})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", ""), ("PORT", "0"), ("PORT", "65536"), ("PORT", "80.5"), ("PORT", "http"),
        ("PARTITIONS", "0"), ("PARTITIONS", "1025"), ("REPLICATION", "0"), ("WORKERS", "-1"), ("DIM", "0"),
        ("NAMESPACE", ""), ("NAMESPACE", "a b"), ("NAMESPACE", "led\n"), ("NAMESPACE", "x" * 33), ("NAMESPACE", "a.b"),
        ("HALF_LIFE_S", "-1"), ("HALF_LIFE_S", "nan"), ("HALF_LIFE_S", "inf"), ("RETRAIN_EVERY", "inf"),
        ("MAX_EVENT_AGE_S", "nan"), ("ARCHIVE_FLUSH_S", "0"), ("IDLE_AFTER_S", "0"), ("TIMELINE_EVENTS", "1001"),
        ("TUNE", "perhaps"), ("SUPERVISOR_PID", "-5"),
        ("KINDS", ""), ("KINDS", "view=1,view=2"), ("KINDS", "view=-1"), ("KINDS", "view=nan"), ("KINDS", "view=inf"),
        ("KINDS", "view=1e7"), ("KINDS", "view=1e-7"), ("KINDS", "view=much"), ("KINDS", "=1"), ("KINDS", "view=1=2"),
        ("KINDS", "erase=1"), ("KINDS", "a b=1"), ("KINDS", "ü=1"), ("KINDS", "k" * 33), ("KINDS", "view\x00"),
        ("HEAD_WEIGHTS", "3,0"), ("HEAD_WEIGHTS", "3,,2"), ("HEAD_WEIGHTS", "nan"), ("HEAD_WEIGHTS", "2," * 9 + "2"),
        ("KINDS", ",".join(f"kind-{n}" for n in range(60))),  # two of them share a code
    ],
)  # fmt: skip
def test_a_bad_value_stops_the_start_by_its_name_and_itself(name: str, value: str) -> None:
    flag = "--" + name.lower().replace("_", "-")
    with pytest.raises(SettingsError) as refused:
        read_settings({f"LEDSTREAM_{name}": value})
    assert str(refused.value).startswith(f"LEDSTREAM_{name} ({flag}) = {value!r}: ")


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("view=1,sale=5", {"view": 1.0, "sale": 5.0}),
        (" view = 0.5 , sale ", {"view": 0.5, "sale": 1.0}),
        ("view,click=0,", {"view": 1.0, "click": 0.0}),
        ("add-to:cart/2=1e-6", {"add-to:cart/2": 1e-6}),
    ],
)
def test_kinds_are_read_with_their_weights(text: str, kinds: dict[str, float]) -> None:
    settings = read_settings({"LEDSTREAM_KINDS": text})
    assert settings.kinds == kinds
    assert settings.kind_codes.keys() == kinds.keys()


@pytest.mark.parametrize(("text", "factors"), [("3.9,2.7", (3.9, 2.7)), (" 2 ", (2.0,)), ("", ())])
def test_head_weights_are_read_newest_first(text: str, factors: tuple[float, ...]) -> None:
    assert read_settings({"LEDSTREAM_HEAD_WEIGHTS": text}).head_weights == factors


names = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=",="), min_size=1, max_size=32)


@given(
    kinds=st.dictionaries(names, st.just(0.0) | st.floats(1e-6, 1e6), min_size=1, max_size=2),
    half_life_s=st.floats(0, 1e9),
    age_s=st.floats(0, allow_nan=False),
    tune=st.booleans(),
    head_weights=st.lists(st.floats(0.1, 1e6), max_size=8).map(tuple),
)
def test_a_child_process_gets_the_very_same_settings(
    kinds: dict[str, float], half_life_s: float, age_s: float, tune: bool, head_weights: tuple[float, ...]
) -> None:
    given_flags = {"half_life_s": half_life_s, "max_event_age_s": age_s, "tune": tune, "data_dir": "some where/ü"}
    given_flags |= {"head_weights": head_weights}
    try:
        settings = read_settings({}, {"kinds": kinds, **given_flags})
    except SettingsError as error:
        assert "cannot be told from" in str(error)  # noqa: PT017
        return
    assert read_settings(settings.as_environ()) == settings


@pytest.mark.parametrize("name", ["a,b", "a=b", " a", "a\n"])
def test_a_kind_that_its_variable_could_not_hold_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="kind"):
        read_settings({}, {"kinds": {name: 1.0}})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read_settings({}).__setattr__("port", 1)
