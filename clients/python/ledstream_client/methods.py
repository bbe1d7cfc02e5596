"""Everything that can be asked of a server, once for both clients."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypedDict, TypeVar, overload
from urllib.parse import quote, urlencode

from ledstream_client.answers import (
    Activation,
    Erasure,
    Found,
    Health,
    Known,
    Merged,
    Period,
    Recommendations,
    Releases,
    Similar,
    Strike,
    User,
)
from ledstream_client.errors import Refused, UnexpectedAnswer
from ledstream_client.events import Event
from ledstream_client.handing import EVENTS, ITEMS, Taken, hand_over
from ledstream_client.items import CatalogueItem
from ledstream_client.patience import Key, Request, Steps, asked
from ledstream_client.reading import read

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ledstream_client.client import AsyncClient, Client

P = ParamSpec("P")
T = TypeVar("T")


class Choice(TypedDict, total=False):
    """What is wanted of recommendations. details: with what was put of each item.

    Options of newer servers are handed on as they are.
    """

    k: int
    exclude: Collection[str]
    details: bool


class TimelineChoice(Choice, total=False):
    """explain: with each item's reasons."""

    explain: bool


class UserChoice(Choice, total=False):
    """seen: items the user had events with may be among them."""

    seen: bool


class FullChoice(UserChoice, total=False):
    """explain: with each item's reasons, which name what the user did: needs the admin key.

    after: what `track` returned, or the token of another answer: answer once those events are in, waiting at most
    wait_ms for them.
    """

    explain: bool
    after: Taken[Event] | str | None
    wait_ms: int


class Method(Generic[P, T]):
    """A generator of requests as a method: one that blocks of `Client`, one to be awaited of `AsyncClient`."""

    def __init__(self, steps: Callable[P, Steps[T]]) -> None:
        self.steps = steps
        self.__doc__ = steps.__doc__

    @overload
    def __get__(self, client: None, owner: object = None) -> Method[P, T]: ...
    @overload
    def __get__(self, client: Client, owner: object = None) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: AsyncClient, owner: object = None) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, client: Client | AsyncClient | None, owner: object = None) -> Any:
        if client is None:
            return self
        chosen = client

        @functools.wraps(self.steps)
        def method(*args: P.args, **given: P.kwargs) -> Any:
            return chosen.ask(self.steps(*args, **given))

        return method


def _track(event: Event) -> Steps[Taken[Event]]:
    """Hand over an event. Raises Refused naming field and value, Unfinished."""
    taken = yield from hand_over(EVENTS, [event])
    for verdict in taken.rejected:
        raise Refused(verdict.field or "event", verdict.value, verdict.reason or "", 400)
    return taken


def _track_many(events: Iterable[Event]) -> Steps[Taken[Event]]:
    """Hand over any number of events, in order, in posts of up to 1,000; each post has the time of a request.

    Returns a verdict on each. Raises Refused where already the first post is refused as a whole (a wrong key),
    Unfinished where some could not be handed over.
    """
    return (yield from hand_over(EVENTS, events))


def _recommend(user: str, **wanted: Unpack[FullChoice]) -> Steps[Recommendations]:
    """The best items for a user; the most popular ones for a user nobody knows."""
    query: dict[str, Any] = {"user": user, **wanted}
    after = query.pop("after", None)
    if token := after.tokens.get(user) if isinstance(after, Taken) else after:
        query["after"] = token
    else:
        query.pop("wait_ms", None)  # nothing was taken that could be waited for
    key: Key = "admin" if wanted.get("explain") else "none"
    return read(Recommendations, (yield from asked(Request("GET", f"/v1/recommendations?{_encoded(query)}", key))))


def _recommend_many(users: Sequence[str], **wanted: Unpack[UserChoice]) -> Steps[list[Recommendations]]:
    """The best items for each of up to 1,000 users, in their order."""
    body = {"users": list(users), **_listed(wanted)}
    answer = yield from asked(Request("POST", "/v1/recommendations/batch", body=body))
    if not isinstance(answer, dict) or not isinstance(answer.get("answers"), list):
        raise UnexpectedAnswer("answer.answers is missing")
    return [read(Recommendations, one, f"answers.{place}") for place, one in enumerate(answer["answers"])]


def _recommend_for(timeline: Iterable[Event], **wanted: Unpack[TimelineChoice]) -> Steps[Recommendations]:
    """The best items for who did this, oldest first. Nothing is stored, and users of the events do not matter."""
    events = [{"item_id": event.item_id, "kind": event.kind, "time_ms": event.time_ms} for event in timeline]
    body = {"timeline": events, **_listed(wanted)}
    return read(Recommendations, (yield from asked(Request("POST", "/v1/recommendations", body=body))))


def _similar(item_id: str, k: int = 20, *, details: bool = False) -> Steps[Similar]:
    """The best items for who looked at this one. Raises NotFound where the current release does not know it."""
    query = {"k": k, "details": True} if details else {"k": k}
    return read(Similar, (yield from asked(Request("GET", f"/v1/items/{_part(item_id)}/similar?{_encoded(query)}"))))


def _identify(anonymous_id: str, user_id: str) -> Steps[Merged]:
    """What a visitor did, under the id that the tracker drew, becomes the user's."""
    body = {"anonymous_id": anonymous_id, "user_id": user_id}
    return read(Merged, (yield from asked(Request("POST", "/v1/identify", "write", body))))


def _user(user_id: str) -> Steps[User]:
    """What is known of a user. Needs the admin key. Raises NotFound."""
    return read(User, (yield from asked(Request("GET", f"/v1/users/{_part(user_id)}", "admin"))))


def _erase(user_id: str) -> Steps[Erasure]:
    """Forget all of a user that was accepted before this, for good. Needs the admin key."""
    return read(Erasure, (yield from asked(Request("DELETE", f"/v1/users/{_part(user_id)}", "admin"))))


def _strike(user_id: str, entry: str) -> Steps[Strike]:
    """Take one event out of a user's timeline, as `user` shows them. Needs the admin key. Raises NotFound."""
    path = f"/v1/users/{_part(user_id)}/timeline/{_part(entry)}"
    return read(Strike, (yield from asked(Request("DELETE", path, "admin"))))


def _put_items(items: Iterable[CatalogueItem]) -> Steps[Taken[CatalogueItem]]:
    """Say what is to be known of any number of items, in posts of up to 1,000; a verdict on each. Needs the admin key.

    Raises Refused where already the first post is refused as a whole, Unfinished where some could not be handed over.
    """
    return (yield from hand_over(ITEMS, items))


def _delete_item(item_id: str) -> Steps[None]:
    """Forget what was put of an item, and recommend it to nobody until it is put again. Needs the admin key."""
    yield from asked(Request("DELETE", f"/v1/items/{_part(item_id)}", "admin"))


def _item(item_id: str) -> Steps[Known]:
    """What is known of an item. Raises NotFound."""
    return read(Known, (yield from asked(Request("GET", f"/v1/items/{_part(item_id)}"))))


def _find_items(q: str, k: int = 20) -> Steps[Found]:
    """Items by the beginning of an id, or by words of a title."""
    return read(Found, (yield from asked(Request("GET", f"/v1/items?{_encoded({'q': q, 'k': k})}"))))


def _popularity(item_id: str, by: Literal["hour", "day"] = "hour") -> Steps[list[Period]]:
    """How many events an item had in each of the last 48 hours, or of the last 28 days, oldest first."""
    periods = yield from asked(Request("GET", f"/v1/items/{_part(item_id)}/popularity?by={by}"))
    if not isinstance(periods, list):
        raise UnexpectedAnswer("answer: should be a list")
    return [read(Period, one, f"answer.{place}") for place, one in enumerate(periods)]


def _releases() -> Steps[Releases]:
    """Every release in the server's folder."""
    return read(Releases, (yield from asked(Request("GET", "/v1/releases"))))


def _activate(version: str, *, force: bool = False) -> Steps[Activation]:
    """Make a release the current one; a rollback is the same. Needs the admin key. Raises NotFound, Refused (409).

    force: although its gate refused it.
    """
    path = f"/v1/releases/{_part(version)}/activate?{_encoded({'force': force})}"
    return read(Activation, (yield from asked(Request("POST", path, "admin"))))


def _health() -> Steps[Health]:
    """Whether the server can answer, and how those fare that it answers from. That it cannot is an answer, too."""
    return read(Health, (yield from asked(Request("GET", "/readyz", answers=(503,)))))


class Methods:
    """Of both clients."""

    track = Method(_track)
    track_many = Method(_track_many)
    recommend = Method(_recommend)
    recommend_many = Method(_recommend_many)
    recommend_for = Method(_recommend_for)
    similar = Method(_similar)
    identify = Method(_identify)
    user = Method(_user)
    erase = Method(_erase)
    strike = Method(_strike)
    put_items = Method(_put_items)
    delete_item = Method(_delete_item)
    item = Method(_item)
    find_items = Method(_find_items)
    popularity = Method(_popularity)
    releases = Method(_releases)
    activate = Method(_activate)
    health = Method(_health)


def _part(text: str) -> str:
    """As a part of a path. Raises Refused for what would be another path altogether."""
    if text in ("", ".", ".."):
        raise Refused("id", text, "cannot be part of an address")
    return quote(text, safe="")


def _encoded(query: Mapping[str, Any]) -> str:
    """true and false in JSON's spelling, lists repeated."""
    shown = {name: str(value).lower() if isinstance(value, bool) else value for name, value in query.items()}
    return urlencode(
        {name: value if isinstance(value, str) else _several(value) for name, value in shown.items()}, doseq=True
    )


def _several(value: Any) -> Any:
    return sorted(value) if isinstance(value, (set, frozenset)) else value


def _listed(wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if name == "exclude" else value for name, value in wanted.items()}
