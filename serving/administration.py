"""What people and programs ask now and then: a user's record, the releases.

Everything here may wait for the store or the log: call it from a thread that may.
"""

from __future__ import annotations

import numpy as np

from serving.parts import Parts
from serving.refusals import Refused
from serving.schemas import (
    ActivationAnswer,
    ReleaseEntry,
    ReleasesAnswer,
    TimelineItem,
    UserAnswer,
)
from serving.served import Served
from store.entries import entries_of
from store.releases import UnknownRelease
from store.user_record import decode_record
from store.user_state import is_damaged
from stream.announcements import announce
from stream.current import CANNOT_LOAD, CurrentRelease


class Administration:
    """Used by any thread."""

    def __init__(self, parts: Parts, current: CurrentRelease[Served]) -> None:
        self._parts, self._current = parts, current
        self._kinds = parts.border.codes()

    def user(self, user_id: str) -> UserAnswer:
        """The stored record. Raises Refused (404), StoreUnavailable."""
        (data,) = self._parts.states.find([user_id])
        record = decode_record(data) if data and not is_damaged(data) else None
        if record is None or not record.applied:
            raise Refused("user_id", user_id, "no events are known of this user", status=404)
        served, entries = self._current.get(), entries_of(data)[::-1]
        keys = np.array([entry.item for entry in entries], np.uint64)
        rows = served.release.rows(keys).tolist() if served else [-1] * len(keys)
        timeline = [
            TimelineItem(
                entry=entry.id,
                item_key=f"{entry.item:016x}",
                item_id=served.release.item_id(row) if served and row >= 0 else None,
                kind=self._kinds.get(entry.kind),
                time_ms=entry.time_ms,
            )
            for entry, row in zip(entries, rows, strict=True)
        ]
        version = served.version if served else None
        return UserAnswer(user=user_id, events=record.applied, timeline=timeline, release=version, as_of=record.as_of)

    def releases(self) -> ReleasesAnswer:
        """Every release in the folder, the current and the announced one marked."""
        versions = self._parts.releases.versions()
        current, announced = self._current_version(), self._current.announced
        return ReleasesAnswer(
            current=current, announced=announced, releases=[self._entry(v, current, announced) for v in versions]
        )

    def activate(self, version: str, *, force: bool = False) -> ActivationAnswer:
        """Announce a release that loads and that no gate refused, or force was given. Raises Refused (404, 409),
        LogUnavailable.
        """
        try:
            self._parts.releases.load(version)
        except UnknownRelease:
            raise Refused("version", version, "there is no such release", status=404) from None
        except CANNOT_LOAD as error:
            raise Refused("version", version, str(error), status=409) from None
        refusal = self._parts.releases.reports.refusal(version)
        if refusal and not force:
            raise Refused("version", version, f"{refusal} (force=true activates it all the same)", status=409)
        announce(self._parts.log, version, self._parts.now_ms())
        return ActivationAnswer(version=version)

    def _current_version(self) -> str | None:
        served = self._current.get()
        return served.version if served else None

    def _entry(self, version: str, current: str | None, announced: str | None) -> ReleaseEntry:
        entry = ReleaseEntry(version=version, current=version == current, announced=version == announced)
        try:
            info = self._parts.releases.info(version)
            report = self._parts.releases.reports.read(version)
        except (ValueError, UnknownRelease) as error:  # BadRelease is a ValueError
            return entry.model_copy(update={"problem": str(error)})
        figures = {"created_ms": info.created_ms, "dim": info.dim, "items": info.items}
        described = {"index": dict(info.index), "about": dict(info.about)}
        return entry.model_copy(update={**figures, **described, "gate": report.as_json() if report else None})
