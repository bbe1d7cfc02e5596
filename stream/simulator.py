"""A shop with visitors, made up: who views, clicks and buys what, when. For demos, load and tests.

Items lie on rings, one ring a taste: neighbours on a ring are alike. A shopper has a home on one to three rings and
looks around there, mostly at things not seen yet, drawn by how popular they are; now and then at what the whole shop
looks at. So what a shopper did tells what comes next, and popularity tells some of it too.

Nobody stays: shoppers leave between visits, return, and in the end leave for good; another takes the place. Items do
the same, slowly: one is retired and a new one, with another popularity, takes its place on the ring.
"""

from __future__ import annotations

import heapq
from bisect import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from math import exp
from random import Random
from typing import NamedTuple

from stream.events import Event

REACH = 8  # how far a shopper looks to either side on a ring, in items
NEARNESS = 3.0  # an item this many places away draws 1/e as much
SECOND_LOOKS = 3  # how often a shopper who has seen an item already looks for another instead


@dataclass(frozen=True)
class SimulatorSettings:
    """shoppers: present or about to return, at any time. events_per_s: mean over a minute or so.

    visit_views: mean views a visit. visits: mean visits before leaving for good. item_life_s: mean life of an item.
    zipf: exponent of popularity by rank. click_share: of views. sale_share: of clicks. window_share: of views, what
    the whole shop looks at instead of one's own taste.
    """

    seed: int = 1
    items: int = 1000
    tastes: int = 25
    shoppers: int = 600
    events_per_s: float = 300.0
    visit_views: float = 8.0
    visits: float = 4.0
    item_life_s: float = 1800.0
    zipf: float = 0.9
    click_share: float = 0.3
    sale_share: float = 0.3
    window_share: float = 0.15

    def __post_init__(self) -> None:
        for name in ("items", "tastes", "shoppers", "visit_views", "visits"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        if self.items % self.tastes:
            raise ValueError(f"items = {self.items}: must be a multiple of tastes, {self.tastes}")
        for name in ("events_per_s", "item_life_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0")
        for name in ("click_share", "sale_share", "window_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must lie in 0..1")

    @property
    def visit_events(self) -> float:
        """Mean events of one visit: views, clicks and sales."""
        return self.visit_views * (1 + self.click_share * (1 + self.sale_share))

    @property
    def think_s(self) -> float:
        """Mean pause between two events of a visit. A visit and the absence after it are equally long on average."""
        events = self.visit_events
        return self.shoppers * events / (self.events_per_s * (2 * events - 1))

    @property
    def longest_absence_s(self) -> float:
        """Who has done nothing for longer than this never returns."""
        return self.think_s * max(1.6, self.visit_events * 1.75)


class Placed(NamedTuple):
    """An item, the ring it lies on, and its place among the ring's places."""

    item_id: str
    taste: int
    place: int
    places: int


class Simulator:
    """One world. The same settings make the same stream; `events` goes on from where it was left."""

    def __init__(self, settings: SimulatorSettings, *, start_ms: int = 0) -> None:
        self._settings = settings
        self._random = Random(settings.seed).random
        self._catalogue = _Catalogue(settings, self._random)
        self._taste_shares = list(accumulate((n + 1) ** -0.5 for n in range(settings.tastes)))
        self._arrived = 0
        self._shoppers = [self._arrival() for _ in range(settings.shoppers)]
        think_ms = settings.think_s * 1000
        cycle_ms = think_ms * settings.visit_events
        self._due = [
            (start_ms + self._random() * (think_ms if self._random() < 0.5 else cycle_ms), place)
            for place in range(settings.shoppers)
        ]
        heapq.heapify(self._due)
        self._birth_every_ms = settings.item_life_s * 1000 / settings.items
        self._next_birth_ms = start_ms + self._birth_every_ms

    def events(self) -> Iterator[Event]:
        """Events in time order, without end and without event ids."""
        settings, random, due = self._settings, self._random, self._due
        think_ms = settings.think_s * 1000
        absence_ms = think_ms * settings.visit_events
        while True:
            at_ms, place = due[0]
            while at_ms >= self._next_birth_ms:
                self._catalogue.renew(int(random() * settings.items))
                self._next_birth_ms += self._birth_every_ms
            shopper = self._shoppers[place]
            kind = self._act(shopper)
            event = Event(shopper.name, shopper.item, kind, int(at_ms))
            if shopper.next_kind == "view" and shopper.views_left == 0:
                pause_ms = absence_ms * (0.25 + 1.5 * random())
                self._leave(place)
            else:
                pause_ms = think_ms * (0.4 + 1.2 * random())
            heapq.heapreplace(due, (at_ms + pause_ms, place))
            yield event

    def on_sale(self) -> list[Placed]:
        """The items of this moment."""
        names, slots = self._catalogue.names, self._catalogue.slots
        return [Placed(name, slot // slots, slot % slots, slots) for slot, name in enumerate(names)]

    def likely_items(self, user_id: str) -> list[str]:
        """What a shopper who is not gone for good views next, likeliest first, as only the simulator knows.

        Raises KeyError for anybody else.
        """
        for shopper in self._shoppers:
            if shopper.name == user_id:
                return self._catalogue.likely(shopper.homes)
        raise KeyError(user_id)

    def _act(self, shopper: _Shopper) -> str:
        """What the shopper does now; settles what comes next."""
        kind, random = shopper.next_kind, self._random
        if kind == "view":
            self._look(shopper)
            shopper.views_left -= 1
            shopper.next_kind = "click" if random() < self._settings.click_share else "view"
        elif kind == "click":
            shopper.next_kind = "sale" if random() < self._settings.sale_share else "view"
        else:
            shopper.next_kind = "view"
        return kind

    def _look(self, shopper: _Shopper) -> None:
        catalogue, random, settings = self._catalogue, self._random, self._settings
        for _ in range(1 + SECOND_LOOKS):
            if random() < settings.window_share:
                slot = catalogue.popular(random())
            else:
                if random() < 0.25:  # another of the shopper's tastes, or the same one from home again
                    shopper.slot = shopper.homes[int(random() * len(shopper.homes))]
                slot = catalogue.near(shopper.slot, random())
                shopper.slot = slot if random() < 0.5 else shopper.slot
            shopper.item = catalogue.names[slot]
            if shopper.item not in shopper.viewed:
                break
        shopper.viewed.add(shopper.item)

    def _leave(self, place: int) -> None:
        shopper = self._shoppers[place]
        shopper.visits_left -= 1
        if shopper.visits_left == 0:
            self._shoppers[place] = self._arrival()
        else:
            shopper.views_left = self._about(self._settings.visit_views)
            shopper.slot = shopper.homes[int(self._random() * len(shopper.homes))]

    def _arrival(self) -> _Shopper:
        random, slots = self._random, self._catalogue.slots
        homes = []
        for _ in range(1 + int(random() * 3)):
            taste = _drawn(self._taste_shares, random())
            homes.append(self._catalogue.near(taste * slots + int(random() * slots), random()))
        name = f"shopper-{self._arrived:05d}"
        self._arrived += 1
        views, visits = self._about(self._settings.visit_views), self._about(self._settings.visits)
        return _Shopper(name, homes, homes[0], views, visits)

    def _about(self, mean: float) -> int:
        """A whole number from 1 to about twice the mean, evenly."""
        return 1 + int(self._random() * (2 * mean - 1))


@dataclass(slots=True)
class _Shopper:
    name: str
    homes: list[int]
    slot: int
    views_left: int
    visits_left: int
    next_kind: str = "view"
    item: str = ""
    viewed: set[str] = field(default_factory=set)


class _Catalogue:
    """Slots 0..items-1 on rings of `slots` each. u: an evenly drawn number in 0..1."""

    def __init__(self, settings: SimulatorSettings, random: Callable[[], float]) -> None:
        self.slots = settings.items // settings.tastes
        self._zipf, self._random = settings.zipf, random
        self._born = settings.items
        self.names = [f"item-{n:05d}" for n in range(settings.items)]
        ranks = sorted(range(settings.items), key=lambda _: random())
        self._weights = [(1 + rank) ** -settings.zipf for rank in ranks]
        self._popular = list(accumulate(self._weights))
        rings = [self._ring(slot) for slot in range(settings.items)]
        self._around = [[other for other, _ in ring] for ring in rings]
        self._nearness = [[near for _, near in ring] for ring in rings]
        self._near = [self._nearby(slot) for slot in range(settings.items)]

    def near(self, slot: int, u: float) -> int:
        """A slot around this one on its ring, drawn by nearness and popularity."""
        return self._around[slot][_drawn(self._near[slot], u)]

    def popular(self, u: float) -> int:
        """Any slot, drawn by popularity."""
        return _drawn(self._popular, u)

    def renew(self, slot: int) -> None:
        """Retire the item there; another takes the place."""
        self.names[slot] = f"item-{self._born:05d}"
        self._born += 1
        self._weights[slot] = (1 + int(self._random() * len(self.names))) ** -self._zipf
        self._popular = list(accumulate(self._weights))
        for neighbour in self._around[slot]:
            self._near[neighbour] = self._nearby(neighbour)

    def likely(self, homes: list[int]) -> list[str]:
        """Names around the homes, likeliest first."""
        draws: dict[int, float] = {}
        for home in homes:
            for slot, near in zip(self._around[home], self._nearness[home], strict=True):
                draws[slot] = draws.get(slot, 0.0) + self._weights[slot] * near / self._near[home][-1]
        return [self.names[slot] for slot in sorted(draws, key=lambda slot: (-draws[slot], slot))]

    def _ring(self, slot: int) -> list[tuple[int, float]]:
        """The slots within reach on the slot's ring, with their nearness."""
        first = slot - slot % self.slots
        nearness: dict[int, float] = {}
        for step in sorted(range(-REACH, REACH + 1), key=abs):
            nearness.setdefault(first + (slot - first + step) % self.slots, exp(-abs(step) / NEARNESS))
        return list(nearness.items())

    def _nearby(self, slot: int) -> list[float]:
        """Cumulative weights of the slots around this one."""
        weights = self._weights
        return list(
            accumulate(
                weights[other] * near for other, near in zip(self._around[slot], self._nearness[slot], strict=True)
            )
        )


def _drawn(cumulative: list[float], u: float) -> int:
    """The index whose share of the whole holds u, which lies in 0..1."""
    return min(bisect(cumulative, u * cumulative[-1]), len(cumulative) - 1)
