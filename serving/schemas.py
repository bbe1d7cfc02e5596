"""Shapes of bodies and answers, for checking what is not asked often and for the OpenAPI page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from serving.refusals import Refused
from stream.events import EVENTS_PER_POST, EventBody, Id

DEFAULT_K, MAX_K, MAX_EXCLUDED, MAX_TIMELINE, MAX_USERS = 20, 200, 200, 1000, 1000
MAX_EXPLAINED = 50
WAIT_MS, MAX_WAIT_MS = 200, 1000
K = Annotated[int, Field(ge=1, le=MAX_K, description="how many items")]
Details = Annotated[bool, Field(description="with what is known of each item: title, url, image, …")]
Explain = Annotated[bool, Field(description=f"with the reasons for each score; k is at most {MAX_EXPLAINED}")]
Body = TypeVar("Body", bound=BaseModel)


class TimelineEvent(BaseModel):
    """One event of a timeline in a request. Without time_ms it happened now."""

    model_config = ConfigDict(strict=True, extra="forbid")

    item_id: Id
    kind: str
    time_ms: Annotated[int, Field(ge=0, lt=1 << 62)] | None = None


class TimelineBody(BaseModel):
    """A user who is not stored: events, oldest first."""

    model_config = ConfigDict(strict=True, extra="forbid")

    timeline: Annotated[list[TimelineEvent], Field(max_length=MAX_TIMELINE)]
    k: K = DEFAULT_K
    exclude: Annotated[list[Id], Field(max_length=MAX_EXCLUDED)] = []
    details: Details = False
    explain: Explain = False


class BatchBody(BaseModel):
    """Many users asked for at once; k, exclude, seen and details are for each of them."""

    model_config = ConfigDict(strict=True, extra="forbid")

    users: Annotated[list[Id], Field(min_length=1, max_length=MAX_USERS)]
    k: K = DEFAULT_K
    exclude: Annotated[list[Id], Field(max_length=MAX_EXCLUDED)] = []
    seen: bool = False
    details: Details = False


class EventsBody(BaseModel):
    """Several events in one post."""

    events: Annotated[list[EventBody], Field(min_length=1, max_length=EVENTS_PER_POST)]


class PostBody(RootModel[EventBody | EventsBody | Annotated[list[EventBody], Field(max_length=EVENTS_PER_POST)]]):
    """One event, or up to 1,000."""


class RecommendationsQuery(BaseModel):
    """What is asked for a user who is stored."""

    user: str
    k: K = DEFAULT_K
    exclude: list[str] = Field([], description="item ids; repeated or separated by commas")
    seen: bool = Field(False, description="items the user had events with may be among them")
    details: Details = False
    explain: bool = Field(
        False, description=f"with the reasons for each score; needs the admin key, k is at most {MAX_EXPLAINED}"
    )
    after: str | None = Field(
        None, description="token of a post: wait until its events are in what is answered; `after` of the answer tells"
    )
    wait_ms: int = Field(WAIT_MS, ge=0, le=MAX_WAIT_MS, description="how long to wait for that at most")


class ItemDetails(BaseModel):
    """What is known of an item; absent is what is not. Further fields that were put are there too, as texts."""

    model_config = ConfigDict(extra="allow")

    title: str | None = None
    url: str | None = None
    image: str | None = None
    category: str | None = None
    price: float | None = None
    currency: str | None = None
    stock: int | None = None


class Reason(BaseModel):
    """What one event of the timeline adds to a score: 0 where it does not count."""

    entry: str = Field(description="id of the event in this timeline, as GET /v1/users/{id} shows it")
    item_id: str | None = Field(description="null where the release does not know the item")
    kind: str | None
    time_ms: int
    contribution: float


class Reasons(BaseModel):
    """bias and contributions add up to the score."""

    bias: float
    events: list[Reason] = Field(description="all of the timeline, newest first")


class ScoredItem(ItemDetails):
    """With details only where they were asked for."""

    item_id: str
    score: float
    reasons: Reasons | None = Field(None, description="only if asked for by `explain`, and only of personal answers")


class AfterAnswer(BaseModel):
    """in: whether the events of the token are in this answer. The answer is a good one either way."""

    is_in: bool = Field(alias="in")
    waited_ms: int


class RecommendationsAnswer(BaseModel):
    """Items best first. Personal scores are <u, v> + b of the release, popular ones weighted events of the item."""

    user: str | None
    items: list[ScoredItem]
    release: str | None = Field(description="the one release all of this was computed from")
    as_of: int | None = Field(description="time of the user's last applied event, Unix milliseconds")
    source: Literal["personal", "popular"]
    degraded: bool = Field(description="the store did not answer: a known user may have got the popular items")
    after: AfterAnswer | None = Field(None, description="only if asked for by `after`")


class BatchAnswer(BaseModel):
    answers: list[RecommendationsAnswer] = Field(description="one for each user, in order")


class SimilarAnswer(BaseModel):
    item_id: str
    items: list[ScoredItem]
    release: str | None


class Verdict(BaseModel):
    """failed: the log did not acknowledge it; send it again under the same event_id."""

    status: Literal["accepted", "rejected", "failed"]
    field: str | None = None
    value: str | None = None
    reason: str | None = None


class VerdictsAnswer(BaseModel):
    accepted: int
    rejected: int
    failed: int
    verdicts: list[Verdict] = Field(description="one for each event, in order")
    token: str | None = Field(
        None,
        description="to ask for recommendations after these events; absent where none was accepted for a user record, "
        "or where some are only on the server's disk, because the log is away",
    )


class TimelineItem(BaseModel):
    entry: str = Field(description="id of this event in this timeline; opaque, and stays while others come and go")
    item_key: str = Field(description="64-bit key of the item id, hexadecimal")
    item_id: str | None = Field(description="null where the current release does not know the item")
    kind: str | None
    time_ms: int


class UserAnswer(BaseModel):
    user: str
    events: int = Field(description="events that took effect since the record began")
    timeline: list[TimelineItem] = Field(description="newest first")
    release: str | None = Field(description="the release item ids were looked up in")
    as_of: int | None


class StrikeAnswer(BaseModel):
    user: str
    entry: str
    status: Literal["accepted"] = "accepted"
    token: str | None = Field(None, description="to ask for recommendations after this, as a post's token")


class ErasureAnswer(BaseModel):
    user: str
    status: Literal["accepted"] = "accepted"
    receipt: dict[str, Any] | None = Field(
        None, description="`receipt` without the id, and `signature`: HMAC-SHA256, for `ledstream erasures check`"
    )


class ReleaseEntry(BaseModel):
    """One release in the folder; with `problem` and without figures if its description cannot be read."""

    version: str
    current: bool
    announced: bool
    created_ms: int | None = None
    dim: int | None = None
    items: int | None = None
    index: dict[str, Any] | None = None
    about: dict[str, Any] | None = None
    gate: dict[str, Any] | None = Field(
        default=None, description="the gate's verdict with all checks; null for a release that no gate has seen"
    )
    problem: str | None = None


class ReleasesAnswer(BaseModel):
    current: str | None
    announced: str | None
    releases: list[ReleaseEntry] = Field(description="oldest first")


class ActivationAnswer(BaseModel):
    version: str
    status: Literal["announced"] = "announced"


class RefusedEntry(BaseModel):
    version: str
    reason: str


class ConsumerEntry(BaseModel):
    """A consumer group: what its processes say of themselves, or when the last of them was heard of."""

    state: Literal["running", "waiting", "stopped", "silent", "absent", "unknown"]
    waits_for: str | None = Field(
        default=None, serialization_alias="for", description="what it waits for, or what ended it"
    )
    since: int | None = Field(default=None, description="when this state began, Unix milliseconds")
    processes: int = Field(default=0, description="how many were heard of lately")
    lag: int | None = Field(default=None, description="records not read; without a process, records not committed")


class ReadyAnswer(BaseModel):
    """ready: the store and the log answer. Without a release the popular items are served, which is ready too.

    degraded: a consumer group waits or has no process, so that answers fall behind; no reason to ask another server.
    """

    ready: bool
    degraded: bool
    store: str
    log: str
    consumers: Mapping[str, ConsumerEntry] = Field(description="by group")
    release: str | None
    announced: str | None
    refused: RefusedEntry | None
    canary: str | None = Field(None, description="the release on trial, once it is loaded here")
    canary_share: float | None = Field(None, description="of the users")
    canary_refused: RefusedEntry | None = None


class ErrorDetail(BaseModel):
    field: str
    value: str | None
    reason: str


class ErrorAnswer(BaseModel):
    error: ErrorDetail


def checked(model: type[Body], raw: object) -> Body:
    """The decoded JSON value as the model. Raises Refused naming the first offending field."""
    check_names(model, raw)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise refusal_of(first) from None


def check_names(model: type[BaseModel], raw: object, where: str = "") -> None:
    """Refuse the first unknown field, which pydantic does too, after an error for each: a second for a large body."""
    if isinstance(raw, dict) and len(raw) > len(model.model_fields):
        name = next(name for name in raw if name not in model.model_fields)
        raise Refused(where + name, raw[name], "unknown field")


def refusal_of(error: Any) -> Refused:
    """One of pydantic's errors as ours."""
    where = ".".join(str(part) for part in error["loc"] if part not in ("query", "path")) or "body"
    return Refused(where, error["input"], error["msg"])
