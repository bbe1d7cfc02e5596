"""Shapes of the console's own bodies and answers, for checking and for the OpenAPI page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.schemas import ReadyAnswer

MOST_LISTED, MOST_REPLAYED = 500, 1000
PLACE = r"^[\w.-]+/[0-9]+@[0-9]+$"


class Spread(BaseModel):
    """A histogram since the servers began, of all workers. Buckets count what is at most `at_most`, in seconds."""

    count: float
    sum: float
    at_most: list[float | None] = Field(description="upper bounds, ascending; null: no bound")
    counts: list[float] = Field(description="cumulative, one for each bound")


class LiveAnswer(BaseModel):
    """Counters since the workers began, added up over all of them; null is what nobody knows at present."""

    at_ms: int
    workers: int
    accepted: float = Field(description="events taken into the log, or onto the disk before it")
    rejected: float = Field(description="events refused as invalid")
    answers: float = Field(description="answers to a question for one user")
    refused: float = Field(description="requests answered 4xx")
    failed: float = Field(description="requests answered 5xx")
    cpu_seconds: float | None
    memory_bytes: float | None
    answer_seconds: Spread | None
    freshness_seconds: Spread | None = Field(description="from accepted to visible, as probes found it")
    users: float | None = Field(description="keys in the store that expire: users, and few others")
    lag: float | None = Field(description="events that the timelines consumers have not committed")
    spool_bytes: float | None = Field(description="events on the disk, for the log to come back; null without a spool")
    state: ReadyAnswer


class NewestEvent(BaseModel):
    user_id: str
    item_id: str
    kind: str
    time_ms: int


class NewestAnswer(BaseModel):
    events: Sequence[NewestEvent] = Field(description="newest first")


class Letter(BaseModel):
    """A record nobody could read."""

    at: str = Field(description="topic/partition@offset")
    time_ms: int
    cause: str
    key: str
    value: str
    cut: bool = Field(description="a part of it is missing: it cannot be replayed")
    replayed: str | None = Field(description='where it went; "unknown" if a replay began and did not say how it ended')


class LettersAnswer(BaseModel):
    letters: Sequence[Letter] = Field(description="newest first")
    total: int
    waiting: int = Field(description="of the total, those that can be replayed and were not")


class Row(BaseModel):
    """An event refused at the border."""

    at: int
    time_ms: int
    site: str
    field: str
    value: str | None
    reason: str
    event: str
    cut: bool
    replayed: bool


class RowsAnswer(BaseModel):
    rows: Sequence[Row] = Field(description="newest first")
    total: int
    waiting: int = Field(description="of the total, those that can be replayed and were not")


class LettersBody(BaseModel):
    """Which letters to send again: those at these places, or without `at` the oldest that were not yet."""

    model_config = ConfigDict(extra="forbid", strict=True)

    at: (
        Annotated[list[Annotated[str, Field(pattern=PLACE, max_length=300)]], Field(max_length=MOST_REPLAYED)] | None
    ) = None
    again: bool = Field(False, description="also what was replayed before")


class RowsBody(BaseModel):
    """Which rows to send again: those at these places, or without `at` the oldest that were not yet."""

    model_config = ConfigDict(extra="forbid", strict=True)

    at: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=MOST_REPLAYED)] | None = None
    again: bool = Field(False, description="also what was replayed before")


class Outcome(BaseModel):
    """left: replayed before. refused: it cannot be replayed. failed: it may have been stored all the same."""

    at: str | int
    status: Literal["replayed", "left", "refused", "failed", "missing"]
    says: str


class ReplayAnswer(BaseModel):
    counts: Mapping[str, int] = Field(description="outcomes by status")
    outcomes: Sequence[Outcome] = Field(description="for each place asked for; without `at`, up to 1,000 of them")


class Curve(BaseModel):
    """numbers, values: of passes, steps or epochs, as `unit` says. kept: whose model this is, where not the last's."""

    title: str
    unit: str
    numbers: Sequence[int]
    values: Sequence[float]
    kept: int | None


class Training(BaseModel):
    """How a release was made. curves: empty for a closed form, which has none."""

    version: str
    created_ms: int
    about: Mapping[str, Any]
    curves: Sequence[Curve]
    cpu_seconds: float | None = None
    peak_mb: float | None = None
    versions: Mapping[str, str] = {}


class TrainingsAnswer(BaseModel):
    trainings: Sequence[Training] = Field(description="newest first")


class AccessAnswer(BaseModel):
    """Given to who may read users and change things."""

    allowed: Literal[True] = True
