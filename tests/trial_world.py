"""A world in which a canary is tried: users of one taste each, who turn to items that either release may have shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ledstream.judge import Judge
from ledstream.verdict import Rules, Verdict
from store.connection import Client
from store.releases import Model
from store.tallies import Tallies
from store.user_state import UserStates
from stream.announcements import Canary, announce, announce_canary
from stream.events import Event, encode_event
from stream.log import Entry
from stream.memory_log import MemoryLog
from stream.topics import EVENTS, topics
from tests.records import lengths, put
from tests.worlds import NOW_MS, records, releases, two_tastes, viewed

USERS, SEEN = 120, 4
TRIAL_S = 600.0


def shuffled(model: Model, seed: int = 5) -> Model:
    """What each item is like is another item's: finite, of the right size, and useless."""
    order = np.random.default_rng(seed).permutation(len(model.item_ids))
    return replace(model, output_embeddings=model.output_embeddings[order], biases=model.biases[order])


class Interrupted(MemoryLog):
    """A log in which something happens, once, while somebody asks how far the events are."""

    meanwhile: Callable[[], object] | None = None

    def end_offsets(self, topic: str) -> dict[int, int]:
        if topic == EVENTS and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return super().end_offsets(topic)


class TrialWorld:
    """A champion that is current, users with a few hats or belts each, and a judge whose clock is the caller's."""

    def __init__(self, client: Client, namespace: str, folder: Path) -> None:
        self.log, self.folder = Interrupted(), folder
        for topic, partitions in topics(2).items():
            self.log.create_topic(topic, partitions)
        self.states = UserStates(client, namespace, lengths)
        self.releases, self.tallies = releases(folder), Tallies(client, namespace)
        self.champion = self.publish(two_tastes())
        announce(self.log, self.champion, NOW_MS)
        self.users = {f"user-{n}": ["hat", "belt"][n % 2] for n in range(USERS)}
        histories = {user: viewed(user, *self.items(user, range(SEEN)), at_ms=NOW_MS - 60_000) for user in self.users}
        put(self.states, records(histories, self.releases.load(self.champion)))

    def publish(self, model: Model) -> str:
        self.published = getattr(self, "published", 0) + 1
        return self.releases.publish(model, now_ms=NOW_MS + self.published)

    def items(self, user: str, places: Sequence[int]) -> list[str]:
        """Items of the user's taste."""
        first = int(user.removeprefix("user-"))
        return [f"{self.users[user]}-{(first + 7 * place) % 30:02}" for place in places]

    def judge(self, rules: Rules | None = None) -> Judge:
        return Judge(self.log, self.states, self.releases, self.tallies, rules)

    def begin(self, version: str, *, share: float = 0.5, now_ms: int = NOW_MS) -> Canary:
        return announce_canary(self.log, version, share, now_ms, TRIAL_S)

    def turn(self, place: int, *, users: int = USERS) -> None:
        """So many users turn to another item of their taste each; the log knows, and their records not yet."""
        for user in list(self.users)[:users]:
            (item,) = self.items(user, [place])
            event = Event(user, item, "view", NOW_MS + 1000 * place, f"{user}-{place}")
            self.log.append(EVENTS, [Entry(user.encode(), encode_event(event), event.time_ms)])

    def look(self, judge: Judge, after_s: float) -> Verdict:
        """What the judge says so long after the trial began."""
        said = judge.look(NOW_MS + int(1000 * after_s))
        assert said is not None
        return said
