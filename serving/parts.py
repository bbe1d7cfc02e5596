"""What a server process is made of, given to it by whoever wires it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store.catalogue import Catalogue
from store.erased_users import ErasedUsers
from store.heartbeats import Heartbeats
from store.popularity import Popularity
from store.releases import Releases
from store.tallies import Tallies
from store.tombstones import Tombstones
from store.user_state import UserStates
from stream.events import Border
from stream.log import Log
from stream.spool import Spool


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Erasures:
    """Who was erased, and how the store forgets."""

    tombstones: Tombstones
    users: ErasedUsers


@dataclass(frozen=True)
class Parts:
    """states: on a client whose calls give up after a quarter of a second, since requests wait for them.

    heartbeats: of the consumers; None where nobody publishes any. spool: where events go while the log is away; None
    where they are refused then. workers: folder where the workers of one server find each other; None for one alone.
    erasures: None where an erasure is an event of the log and nothing more.
    trial: what the canary's trial has shown so far, as `ledstream canary` tells it; None where nobody wires it.
    catalogue: what is known of items; None where nothing is. popularity: how many events they had; None where nobody
    counts.
    """

    log: Log
    states: UserStates
    releases: Releases
    border: Border
    now_ms: Callable[[], int] = wall_clock_ms
    heartbeats: Heartbeats | None = None
    tallies: Tallies | None = None
    spool: Spool | None = None
    workers: Path | None = None
    erasures: Erasures | None = None
    trial: Callable[[], Mapping[str, Any]] | None = None
    catalogue: Catalogue | None = None
    popularity: Popularity | None = None


@dataclass(frozen=True)
class Limits:
    """Where a process begins to refuse instead of letting everybody wait."""

    batch: int = 64  # questions answered together: more save nothing, and take longer
    waiting_questions: int = 2048
    waiting_events: int = 20_000
    probe_every_s: float = 0  # to see how fresh answers are; 0: never
    waiting_writes: int = 256  # questions that wait for what their askers sent before
    retry_release_every_s: float = 2.0
    events_per_s: float = 0  # of a site, in this process; 0: any number
