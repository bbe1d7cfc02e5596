"""What a load driver keeps of what it sent and got: recall against popularity, latencies, and nothing lost."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field

RECENT = 1000


class PopularLately:
    """Most popular items of a sliding window: the baseline any personal answer has to beat."""

    def __init__(self, *, window_ms: int = 300_000, refresh_ms: int = 1000) -> None:
        self._window_ms, self._refresh_ms = window_ms, refresh_ms
        self._events: deque[tuple[int, str]] = deque()
        self._counts: Counter[str] = Counter()
        self._ranking: list[str] = []
        self._ranked_at_ms: int | None = None

    def add(self, item: str, time_ms: int) -> None:
        """Count an event. Times may not fall by more than matters to a window of minutes."""
        self._events.append((time_ms, item))
        self._counts[item] += 1

    def top(self, k: int, seen: Set[str], now_ms: int) -> list[str]:
        """The k items of most events in the window that are not among the seen ones, best first.

        Ranked anew when the last ranking is refresh_ms old; the smaller id wins a tie.
        """
        if self._ranked_at_ms is None or now_ms >= self._ranked_at_ms + self._refresh_ms:
            self._rank(now_ms)
        best = []
        for item in self._ranking:
            if item not in seen:
                best.append(item)
                if len(best) == k:
                    break
        return best

    def _rank(self, now_ms: int) -> None:
        while self._events and self._events[0][0] <= now_ms - self._window_ms:
            _, item = self._events.popleft()
            self._counts[item] -= 1
            if not self._counts[item]:
                del self._counts[item]
        self._ranking = sorted(self._counts, key=lambda item: (-self._counts[item], item))
        self._ranked_at_ms = now_ms


@dataclass
class Recall:
    """Hits of two rankings on the same questions: was the next item among the first k?"""

    asked: int = 0
    personal_hits: int = 0
    popular_hits: int = 0
    _recent: deque[tuple[bool, bool]] = field(default_factory=lambda: deque(maxlen=RECENT))

    def record(self, *, personal: bool, popular: bool) -> None:
        self.asked += 1
        self.personal_hits += personal
        self.popular_hits += popular
        self._recent.append((personal, popular))

    @property
    def personal(self) -> float:
        """Recall of the personal answers over everything asked; 0 before the first question."""
        return self.personal_hits / max(1, self.asked)

    @property
    def popular(self) -> float:
        """Recall of the baseline over the same questions."""
        return self.popular_hits / max(1, self.asked)

    def recent(self) -> tuple[float, float]:
        """Personal and popular recall over the newest thousand questions."""
        asked = max(1, len(self._recent))
        return sum(own for own, _ in self._recent) / asked, sum(popular for _, popular in self._recent) / asked


class Latencies:
    """How long things took, in buckets of 2 %: the memory stays small however long it runs."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.count = 0

    def add(self, seconds: float) -> None:
        self._counts[math.floor(math.log(max(seconds, 1e-7)) / _BUCKET)] += 1
        self.count += 1

    def quantile_ms(self, q: float) -> float:
        """The time in milliseconds, within 1 %, that a share q (0..1) of what was added did not exceed; 0 of none."""
        left = max(1.0, q * self.count)
        for bucket in sorted(self._counts):
            left -= self._counts[bucket]
            if left <= 0:
                return 1000 * math.exp((bucket + 0.5) * _BUCKET)
        return 0.0


_BUCKET = math.log(1.02)


@dataclass
class _Account:
    last_s: float
    items: set[str] = field(default_factory=set)
    accepted: int = 0  # since the record last agreed
    agreed: int = 0  # what the record counted then
    may_be_gone: bool = False  # the record may have expired between the two


class Ledger:
    """Who was sent what, and whether the server's records say the same. Exact, though records expire.

    idle_after_s: records of users without an event for so long are gone; None: they stay. A user is to be checked
    (`due`) before that, while idle.
    """

    def __init__(self, *, idle_after_s: float | None = None) -> None:
        self._idle_after_s = math.inf if idle_after_s is None else idle_after_s
        self._accounts: dict[str, _Account] = {}
        self.users = 0
        self.sent = self.applied = 0
        self.lost = self.surplus = 0

    @property
    def missing(self) -> int:
        """Accepted events that no record was seen to count: lost, or not compared yet."""
        return self.sent - self.applied + self.surplus

    def seen(self, user: str) -> Set[str]:
        """Items the user has had events of, since the record last may have expired."""
        account = self._accounts.get(user)
        return account.items if account else frozenset()

    def sending(self, user: str, item: str, now_s: float) -> None:
        """An event is on its way."""
        account = self._accounts.get(user)
        if account is None:
            account = self._accounts[user] = _Account(now_s)
            self.users += 1
        elif now_s - account.last_s >= 0.9 * self._idle_after_s:  # a little early: the server's clock starts later
            account.may_be_gone = True
            account.items.clear()
        account.items.add(item)
        account.last_s = now_s

    def accepted(self, users: Iterable[str]) -> None:
        """One event each was accepted by the server."""
        for user in users:
            self._accounts[user].accepted += 1
            self.sent += 1

    def due(self, now_s: float) -> list[str]:
        """Users with unchecked events who have been idle for half the time after which records expire."""
        return [
            user
            for user, account in self._accounts.items()
            if account.accepted and now_s - account.last_s >= 0.5 * self._idle_after_s
        ]

    def unchecked(self) -> Iterator[str]:
        """Everybody with events whose record has not been seen to agree yet."""
        return (user for user, account in self._accounts.items() if account.accepted)

    def check(self, user: str, applied: int, *, final: bool = False) -> bool:
        """Compare with a record that counts `applied` events (0: no record). True if it agrees.

        A record that does not agree may be late; when `final`, it counts as lost or as applied more than once.
        """
        account = self._accounts[user]
        gained = applied - account.agreed
        if gained != account.accepted and account.may_be_gone and applied == account.accepted:
            gained = applied
        if gained != account.accepted and not final:
            return False
        self.lost += max(0, account.accepted - gained)
        self.surplus += max(0, gained - account.accepted)
        self.applied += gained
        agrees = gained == account.accepted
        account.accepted, account.agreed, account.may_be_gone = 0, applied, False
        return agrees

    def forget_gone(self, now_s: float) -> None:
        """Drop checked users whose records have certainly expired: whoever returns later starts anew."""
        gone = [
            user
            for user, account in self._accounts.items()
            if not account.accepted and now_s - account.last_s > 2 * self._idle_after_s
        ]
        for user in gone:
            del self._accounts[user]
