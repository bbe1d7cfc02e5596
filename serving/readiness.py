"""Whether this process is ready, and how those fare who turn its events into what it answers from.

Not ready (503) is a server that cannot reach the store or the log: another one may. Consumers that wait or are gone
make it degraded, and it stays ready: it answers as well as any other server would, from what was applied so far.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from serving.metrics import CATALOGUE_GROUP, GROUPS, lag
from serving.parts import Parts
from serving.schemas import ConsumerEntry, ReadyAnswer, RefusedEntry
from serving.served import Served
from store.connection import StoreUnavailable
from store.heartbeats import SILENT_AFTER_S, Heartbeat
from stream.current import CurrentRelease, RefusedRelease
from stream.log import LogUnavailable, UnknownTopic


class Readiness:
    """Asks the store and the log: call it from a thread that may wait. Used by any thread."""

    def __init__(self, parts: Parts, current: CurrentRelease[Served]) -> None:
        self._parts, self._current = parts, current

    def answer(self) -> ReadyAnswer:
        """All of it."""
        store = _state(self._parts.states.count)
        log = _state(self._parts.log.ping)
        in_use = self._current.in_use()
        consumers = self._consumers()
        return ReadyAnswer(
            ready=store == log == "ok",
            degraded=any(entry.state != "running" for entry in consumers.values()),
            store=store,
            log=log,
            consumers=consumers,
            release=in_use.version,
            announced=self._current.announced,
            refused=_refusal(self._current.refused),
            canary=in_use.trial.version if in_use.trial else None,
            canary_share=in_use.trial.share if in_use.trial else None,
            canary_refused=_refusal(self._current.canary_refused),
        )

    def troubled(self) -> float:
        """Consumer groups that wait, or have no process. Raises StoreUnavailable."""
        beats = self._parts.heartbeats.read() if self._parts.heartbeats else {}
        return float(sum(_entry(beats, group).state != "running" for group in _groups(beats)))

    def _consumers(self) -> Mapping[str, ConsumerEntry]:
        """By group; empty where nobody publishes heartbeats."""
        if self._parts.heartbeats is None:
            return {}
        try:
            beats = self._parts.heartbeats.read()
        except StoreUnavailable as error:
            return {group: ConsumerEntry(state="unknown", waits_for=str(error)) for group in GROUPS}
        return {group: self._with_lag(_entry(beats, group), group) for group in _groups(beats)}

    def _with_lag(self, entry: ConsumerEntry, group: str) -> ConsumerEntry:
        """Where no process says how far behind it is, the log does."""
        if entry.processes:
            return entry
        try:
            return entry.model_copy(update={"lag": int(lag(self._parts.log, group))})
        except (LogUnavailable, UnknownTopic):
            return entry


def _refusal(refused: RefusedRelease | None) -> RefusedEntry | None:
    return None if refused is None else RefusedEntry(version=refused.version, reason=refused.reason)


def _groups(beats: Mapping[str, tuple[Heartbeat, float]]) -> Sequence[str]:
    """Those whose processes are missed; that of the catalogue only where there was one: not every shop puts items."""
    has_catalogue = any(beat.group == CATALOGUE_GROUP for beat, _ in beats.values())
    return (*GROUPS, CATALOGUE_GROUP) if has_catalogue else GROUPS


def _entry(beats: Mapping[str, tuple[Heartbeat, float]], group: str) -> ConsumerEntry:
    """What the heartbeats say of a group. Its processes that are gone matter only once all of them are."""
    ours = [(beat, age_s) for beat, age_s in beats.values() if beat.group == group]
    alive = [beat for beat, age_s in ours if beat.state != "stopped" and age_s <= SILENT_AFTER_S]
    if alive:
        shown = min(alive, key=lambda beat: (beat.state != "waiting", beat.since_ms))
        behind = sum(beat.lag for beat in alive)
        return ConsumerEntry(
            state=shown.state, waits_for=shown.cause, since=shown.since_ms, processes=len(alive), lag=behind
        )
    if not ours:
        return ConsumerEntry(state="absent", waits_for="no heartbeat within a day")
    last, age_s = min(ours, key=lambda one: one[1])
    if last.state == "stopped":
        return ConsumerEntry(state="stopped", waits_for=last.cause, since=last.since_ms)
    silent_since = int((time.time() - age_s) * 1000)
    return ConsumerEntry(state="silent", waits_for=f"no heartbeat for {age_s:.0f} s", since=silent_since)


def _state(ask: Callable[[], object]) -> str:
    try:
        ask()
    except (StoreUnavailable, LogUnavailable) as error:
        return str(error)
    return "ok"
