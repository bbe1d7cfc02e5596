"""Everything that can be set, once: environment `LEDSTREAM_*` and command-line flags of the same names.

A flag wins over the environment. Unknown names and bad values stop the start, each named with what was found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from led.encoder import Encoder
from stream.events import ERASE, MAX_KIND_BYTES, kind_code
from stream.strikes import STRIKE

PREFIX = "LEDSTREAM_"
NOT_SETTINGS = {"LEDSTREAM_DATA"}  # where tests look for recorded data; and LEDSTREAM_TEST_*, their servers
_KIND = re.compile(rf"[!-+\--<>-~]{{1,{MAX_KIND_BYTES}}}")  # what the text of LEDSTREAM_KINDS can hold

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SPAN = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([smhd])")


class SettingsError(ValueError):
    """A setting that is unknown or has a bad value; the message names it."""


class Settings(BaseModel):
    """One process's settings. Field descriptions are the help of the flags."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    log: str = Field("", description="kafka://host:port,… or redis://host:port; empty: the embedded store")
    store: str = Field("", description="redis://host:port/db or unix:///path; empty: the embedded store")
    data_dir: Path = Field(Path("ledstream-data"), description="archive, releases, embedded store")
    namespace: str = Field("led", pattern=r"^[A-Za-z0-9_-]{1,32}$", description="prefix of topics and store keys")
    partitions: int = Field(4, ge=1, le=1024, description="partitions of the events topic, when it is created")
    kafka_client: Literal["kafka-python", "confluent"] = Field(
        "kafka-python", description="kafka-python, or confluent (the extra `confluent`)"
    )
    replication: int = Field(1, ge=1, le=9, description="replicas of a Kafka topic, when it is created")

    host: str = Field("127.0.0.1", description="address the server listens on; ::1 and :: (IPv4 too) as well")
    port: int = Field(8080, ge=1, le=65535, description="port the server listens on")
    workers: int = Field(1, ge=1, le=256, description="server processes")
    pin_workers: bool = Field(False, description="each server process keeps to a core: on machines with nothing else")
    write_keys: str = Field(
        "", repr=False, description="keys of sites for events, as shop=KEY,shop=NEWKEY; empty: none"
    )
    admin_key: str = Field("", repr=False, description="key for everything that changes; empty: on loopback none")
    cors_origins: str = Field("", description="pages that may send events, as https://www.example.org,… or *")
    events_per_s: float = Field(0, ge=0, allow_inf_nan=False, description="most events a second of a site; 0: any")
    refuse_bots: bool = Field(True, description="reject events of programs that name themselves bots")
    probe_every_s: float = Field(
        1,
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="each server process measures so often how fresh answers are",
    )
    spool_mb: int = Field(1024, ge=0, description="disk for events while the log is away; 0: refuse them then")
    spool_dir: Path | None = Field(None, description="where, on a disk of this machine; default: spool in data_dir")
    metrics_port: int = Field(0, ge=0, le=65535, description="port of a consumer's /metrics; 0: none")

    kinds: dict[str, float] = Field(
        {"view": 1.0, "click": 1.0, "sale": 1.0},
        min_length=1,
        description="kinds of events and their weights in the encoder, as view=1,click=1,sale=1",
    )
    half_life_s: float = Field(
        0, ge=0, allow_inf_nan=False, description="age at which an event counts half for its user; 0: no decay"
    )
    head_weights: tuple[float, ...] = Field(
        (),
        description="how much a user's newest events count, newest first, as 3.9,2.7 (the others: 1); empty: as all",
    )
    timeline_events: int = Field(50, ge=1, le=1000, description="newest events kept for a user")
    idle_after_s: int = Field(30 * 86400, ge=1, description="a user without events for so long is forgotten")
    max_event_ahead_s: float = Field(300, ge=0, description="how far in the future an event may be dated")
    max_event_age_s: float = Field(7 * 86400, ge=0, description="how far in the past an event may be dated")

    erasures_dir: Path | None = Field(
        None,
        description="who was erased, and the key of receipts; better on another disk; default: erasures in data_dir",
    )
    erasure_key: str = Field("", repr=False, description="secret of receipts, the same everywhere; empty: one is drawn")
    compact_every_s: float = Field(
        3600, gt=0, allow_inf_nan=False, description="how soon after an erasure the archive is rewritten, at the latest"
    )

    archive_flush_s: float = Field(60, gt=0, description="longest time an event waits for its archive file")
    train_days: int = Field(30, ge=1, description="days of archive a release is trained on")
    retrain_every: float = Field(
        0, ge=0, allow_inf_nan=False, description="`up` retrains so often: 30m, 1h, 1d, or seconds; 0: only when asked"
    )
    train_nice: int = Field(10, ge=0, le=19, description="niceness of a training: who serves goes first")
    train_threads: int = Field(1, ge=1, le=256, description="threads of a training; more where nothing else runs")
    train_memory_mb: int = Field(
        0, ge=0, description="memory a training may take, in MiB; 0: what is free when it starts"
    )
    canary_share: float = Field(0, ge=0, le=1, description="share of users a new release is tried on first; 0: none")
    canary_s: float = Field(600, gt=0, allow_inf_nan=False, description="how long a new release is tried")
    train_half_life_s: float = Field(
        0, ge=0, allow_inf_nan=False, description="age at which an event counts half in training; 0: no decay"
    )
    popularity_half_life_s: float = Field(
        86400, ge=0, allow_inf_nan=False, description="age at which an event counts half for popularity; 0: no decay"
    )
    popularity_bias: float = Field(
        0, ge=0, allow_inf_nan=False, description="how much popularity adds to every score; `tune` tries others too"
    )
    keep_releases: int = Field(20, ge=1, description="newest releases kept on disk; older ones go at the next training")
    max_release_lag_s: float = Field(
        86400, gt=0, description="a release whose data ends so long before the newest event is refused"
    )
    dim: int = Field(64, ge=1, le=4096, description="dimension of the embeddings")
    tune: bool = Field(False, description="choose the model's exponents on a validation part, which takes longer")
    config: str = Field("", description="TOML file of how a release is trained; empty: as these settings say")
    supervisor_pid: int = Field(0, ge=0, description="stop when this process is gone; set by `up`")

    @field_validator("retrain_every", mode="before")
    @classmethod
    def _read_span(cls, value: object) -> object:
        span = _SPAN.fullmatch(value.strip()) if isinstance(value, str) else None
        return float(span[1]) * SECONDS[span[2]] if span else value

    @field_validator("kinds", mode="before")
    @classmethod
    def _read_kinds(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        kinds = {name.strip(): weight.strip() or "1" for name, _, weight in pairs}
        if len(kinds) < len(pairs):
            raise ValueError("a kind appears twice")
        return kinds

    @field_validator("kinds")
    @classmethod
    def _check_kinds(cls, value: dict[str, float]) -> dict[str, float]:
        codes: dict[int, str] = {}
        for name in (*value, ERASE):
            if not _KIND.fullmatch(name):
                raise ValueError(
                    f"kind {name!r}: 1 to {MAX_KIND_BYTES} printable ASCII characters, no space, comma or ="
                )
            other = codes.setdefault(kind_code(name), name)
            if other != name or (name == ERASE and ERASE in value):
                raise ValueError(f"kind {name!r} cannot be told from kind {other!r}: rename one")
        if STRIKE in value:
            raise ValueError(f"kind {STRIKE!r} is that of records which strike events: rename it")
        Encoder({kind_code(name): weight for name, weight in value.items()})  # refuses weights that it cannot carry
        return value

    @field_validator("head_weights", mode="before")
    @classmethod
    def _read_heads(cls, value: object) -> object:
        return value if not isinstance(value, str) else [part.strip() for part in value.split(",") if value.strip()]

    @field_validator("head_weights")
    @classmethod
    def _check_heads(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        return Encoder({}, head_weights=value).head_weights  # refuses those that are none

    @field_validator("spool_dir", "erasures_dir", mode="before")
    @classmethod
    def _read_folder(cls, value: object) -> object:
        return None if value in ("", "None") else value

    def url(self, port: int) -> str:
        """Of what listens there on `host`."""
        return f"http://[{self.host}]:{port}" if ":" in self.host else f"http://{self.host}:{port}"

    @property
    def archive_dir(self) -> Path:
        return self.data_dir / "archive"

    @property
    def releases_dir(self) -> Path:
        return self.data_dir / "releases"

    @property
    def kind_codes(self) -> dict[str, int]:
        """8-bit code of every kind by name."""
        return {name: kind_code(name) for name in self.kinds}

    def as_environ(self) -> dict[str, str]:
        """The environment that makes these settings: for child processes."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        values |= {name: values[name] or "" for name in ("spool_dir", "erasures_dir")}
        values["kinds"] = ",".join(f"{name}={weight}" for name, weight in self.kinds.items())
        values["head_weights"] = ",".join(map(str, self.head_weights))
        return {PREFIX + name.upper(): str(value) for name, value in values.items()}


def read_settings(environ: Mapping[str, str], flags: Mapping[str, Any] | None = None) -> Settings:
    """Settings from LEDSTREAM_* variables and flags (None: not given). Raises SettingsError."""
    names = set(Settings.model_fields)
    values: dict[str, Any] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable in NOT_SETTINGS or variable.startswith(f"{PREFIX}TEST_"):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in names:
            known = ", ".join(PREFIX + known.upper() for known in sorted(names))
            raise SettingsError(f"{variable} is no setting; there are {known}")
        values[name] = value
    values |= {name: value for name, value in (flags or {}).items() if value is not None}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise SettingsError(
            f"{PREFIX}{name.upper()} (--{name.replace('_', '-')}) = {values.get(name)!r}: {first['msg']}"
        ) from None
