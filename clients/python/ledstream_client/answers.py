"""What a server answers. Fields with a default are missing in answers of older servers, or come only if asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ledstream_client.reading import NAMED, REST


@dataclass(frozen=True)
class Reason:
    """What an event of the user adds to a score. item_id: None where the current release does not know the item."""

    entry: str
    item_id: str | None
    kind: str | None
    time_ms: int
    contribution: float


@dataclass(frozen=True)
class Reasons:
    """Why an item has its score: bias and all contributions add up to it."""

    bias: float
    events: tuple[Reason, ...]


@dataclass(frozen=True)
class Item:
    """An item of an answer. From title on: only with `details=True`, and what was put of it. more: a shop's own fields.

    reasons: only with `explain=True`.
    """

    item_id: str
    score: float
    title: str | None = None
    url: str | None = None
    image: str | None = None
    category: str | None = None
    price: float | None = None
    currency: str | None = None
    stock: int | None = None
    reasons: Reasons | None = None
    more: Mapping[str, str] = field(default_factory=dict, metadata={NAMED: REST})


@dataclass(frozen=True)
class Waited:
    """Whether the events that were named in `after` are in the answer, and what was waited for them."""

    is_in: bool = field(metadata={NAMED: "in"})
    waited_ms: float


@dataclass(frozen=True)
class Recommendations:
    """Items, best first. source: "personal", or "popular" for a user nobody knows.

    release: what all of it was computed from. as_of: time of the user's last applied event, Unix milliseconds.
    degraded: the store did not answer, so that a known user may have got the popular items.
    """

    user: str | None
    items: tuple[Item, ...]
    release: str | None
    as_of: int | None
    source: str
    degraded: bool
    after: Waited | None = None


@dataclass(frozen=True)
class Similar:
    """Items, most similar first."""

    item_id: str
    items: tuple[Item, ...]
    release: str | None


@dataclass(frozen=True)
class Known:
    """What is known of an item. in_release: whether the current release can recommend it.

    popularity: weighted events in the release's data. withheld: out of stock or deleted, so that nobody gets it.
    """

    item_id: str
    title: str | None = None
    url: str | None = None
    image: str | None = None
    category: str | None = None
    price: float | None = None
    currency: str | None = None
    stock: int | None = None
    release: str | None = None
    in_release: bool = False
    popularity: float | None = None
    withheld: bool = False
    more: Mapping[str, str] = field(default_factory=dict, metadata={NAMED: REST})


@dataclass(frozen=True)
class Found:
    """Items, the most popular first. complete: all items were looked at; of a large catalogue only a part may be."""

    items: tuple[Known, ...]
    complete: bool = True


@dataclass(frozen=True)
class Period:
    """How many events an item had in the hour or the day that began then (UTC, Unix milliseconds)."""

    from_ms: int
    events: int


@dataclass(frozen=True)
class TimelineEntry:
    """An event of a user's timeline. entry: what `strike` takes."""

    item_id: str | None
    kind: str | None
    time_ms: int
    entry: str
    item_key: str | None = None


@dataclass(frozen=True)
class User:
    """events: how many took effect. timeline: the newest of them."""

    user: str
    events: int
    timeline: tuple[TimelineEntry, ...]
    release: str | None
    as_of: int | None


@dataclass(frozen=True)
class Erasure:
    """receipt: signed, without the id; keep it as it is. None where the server keeps no tombstones."""

    user: str
    status: str = "accepted"
    receipt: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Strike:
    """One event leaves the user's timeline, as if it had never been. token: for `after`, as of a post."""

    user: str
    entry: str
    status: str = "accepted"
    token: str | None = None


@dataclass(frozen=True)
class Merged:
    """merged: events that were the visitor's and are the user's now. token: for `after`, as of a post."""

    user: str
    merged: int
    token: str | None = None


@dataclass(frozen=True)
class Release:
    """One release in the folder; with `problem` and without figures where its description cannot be read."""

    version: str
    current: bool
    announced: bool
    created_ms: int | None = None
    dim: int | None = None
    items: int | None = None
    index: Mapping[str, Any] | None = None
    about: Mapping[str, Any] | None = None
    gate: Mapping[str, Any] | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Releases:
    """Oldest first."""

    current: str | None
    announced: str | None
    releases: tuple[Release, ...]


@dataclass(frozen=True)
class Activation:
    """Told to every process; each swaps when it has loaded and checked the release."""

    version: str
    status: str = "announced"


@dataclass(frozen=True)
class Declined:
    """A release that this server would not take, and why."""

    version: str
    reason: str


@dataclass(frozen=True)
class Consumer:
    """A group of consumers, by what its processes say of themselves."""

    state: str
    waits_for: str | None = field(default=None, metadata={NAMED: "for"})
    since: int | None = None
    processes: int = 0
    lag: int | None = None


@dataclass(frozen=True)
class Health:
    """ready: the store and the log answer. degraded: a consumer group waits or is gone, so that answers fall behind."""

    ready: bool
    degraded: bool
    store: str
    log: str
    consumers: Mapping[str, Consumer]
    release: str | None
    announced: str | None
    refused: Declined | None = None
    canary: str | None = None
    canary_share: float | None = None
    canary_refused: Declined | None = None
