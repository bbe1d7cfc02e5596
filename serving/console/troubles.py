"""What went wrong on its way and was kept: dead letters and bad rows, looked at and sent again.

As `ledstream deadletters` and `ledstream badrows` do it. Each call reads a whole topic, so one at a time does.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence

from serving.collector.post import put_right
from serving.collector.sorter import Sorter
from serving.console.shapes import (
    MOST_REPLAYED,
    Letter,
    LettersAnswer,
    LettersBody,
    Outcome,
    ReplayAnswer,
    Row,
    RowsAnswer,
    RowsBody,
)
from serving.parts import Parts
from serving.publisher import entry_of
from stream.bad_rows import BadRow, note_replayed, read_replayed, read_rows
from stream.dead_letters import DeadLetter, Place, read_letters, read_replays, replay
from stream.erased_records import is_of_erased, is_row_of_erased
from stream.events import Event, InvalidEvent
from stream.kept import appended
from stream.log import Log, LogUnavailable, Position, UnknownTopic
from stream.spool import Addressed

AT_ONCE = 100
SHOWN = 2000  # characters of a value
ERASED = "its user was erased since"


class Troubles:
    """Used by any thread. Raises LogUnavailable, UnknownTopic."""

    def __init__(self, parts: Parts) -> None:
        self._log: Log = parts.log
        self._now_ms, self._sorter = parts.now_ms, Sorter(parts.border)
        self._tombstones = None if parts.erasures is None else parts.erasures.tombstones
        self._lock = threading.Lock()

    def letters(self, limit: int, text: str) -> LettersAnswer:
        """The newest whose cause, key, value or place has the text in it; none of users erased since."""
        with self._lock:
            self._learn_of_erasures()
            replays = read_replays(self._log)
            shown: deque[Letter] = deque(maxlen=limit)
            total = waiting = 0
            for letter in read_letters(self._log):
                if self._tombstones is not None and is_of_erased(letter, self._tombstones):
                    continue
                described = _letter(letter, replays)
                total += 1
                waiting += described.replayed is None and not letter.is_cut
                if _has(text, described.at, described.cause, described.key, described.value):
                    shown.append(described)
        return LettersAnswer(letters=list(reversed(shown)), total=total, waiting=waiting)

    def rows(self, limit: int, text: str) -> RowsAnswer:
        """The newest whose site, field, reason or event has the text in it; none of users erased since."""
        with self._lock:
            self._learn_of_erasures()
            replayed = read_replayed(self._log)
            shown: deque[Row] = deque(maxlen=limit)
            total = waiting = 0
            for row in read_rows(self._log):
                if self._tombstones is not None and is_row_of_erased(row, self._tombstones):
                    continue
                described = _row(row, row.place in replayed)
                total += 1
                waiting += not described.replayed and not row.is_cut
                if _has(text, described.site, described.field, described.reason, described.event):
                    shown.append(described)
        return RowsAnswer(rows=list(reversed(shown)), total=total, waiting=waiting)

    def replay_letters(self, body: LettersBody) -> ReplayAnswer:
        """At most MOST_REPLAYED, in the order of burial."""
        asked = None if body.at is None else set(body.at)
        with self._lock:
            self._learn_of_erasures()
            replays = read_replays(self._log)
            outcomes: list[Outcome] = []
            ready: list[DeadLetter] = []
            for letter in read_letters(self._log):
                at, is_new = str(letter.place), body.again or letter.place not in replays
                if (not is_new if asked is None else at not in asked) or len(ready) == MOST_REPLAYED:
                    continue
                if letter.is_cut:
                    outcomes.append(Outcome(at=at, status="refused", says="it was cut when it was kept"))
                elif self._tombstones is not None and is_of_erased(letter, self._tombstones):
                    outcomes.append(Outcome(at=at, status="refused", says=ERASED))
                elif not is_new:
                    outcomes.append(Outcome(at=at, status="left", says="replayed before"))
                else:
                    ready.append(letter)
            for first in range(0, len(ready), AT_ONCE):
                outcomes += self._send_letters(ready[first : first + AT_ONCE])
        return _told(body.at, outcomes)

    def replay_rows(self, body: RowsBody) -> ReplayAnswer:
        """At most MOST_REPLAYED, oldest first. Each is judged as of when it came, by what is known now."""
        asked = None if body.at is None else set(body.at)
        with self._lock:
            self._learn_of_erasures()
            replayed = read_replayed(self._log)
            outcomes: list[Outcome] = []
            ready: list[tuple[BadRow, Addressed]] = []
            for row in read_rows(self._log):
                is_new = body.again or row.place not in replayed
                if (not is_new if asked is None else row.place not in asked) or len(ready) == MOST_REPLAYED:
                    continue
                if not is_new:
                    outcomes.append(Outcome(at=row.place, status="left", says="replayed before"))
                    continue
                try:
                    event, topic = self._sorter.accept(put_right(row.event(), row.ahead_ms), row.received_ms)
                except (InvalidEvent, ValueError) as error:
                    outcomes.append(Outcome(at=row.place, status="refused", says=str(error)))
                else:
                    if self._is_erased(event, row):
                        outcomes.append(Outcome(at=row.place, status="refused", says=ERASED))
                    else:
                        ready.append((row, entry_of(event, self._now_ms(), topic)))
            for first in range(0, len(ready), AT_ONCE):
                outcomes += self._send_rows(ready[first : first + AT_ONCE])
        return _told(body.at, outcomes)

    def _learn_of_erasures(self) -> None:
        if self._tombstones is not None:
            self._tombstones.refresh()  # by other processes

    def _is_erased(self, event: Event, row: BadRow) -> bool:
        until_ms = None if self._tombstones is None else self._tombstones.until_ms(event.user_id)
        return until_ms is not None and min(event.time_ms, row.received_ms) <= until_ms

    def _send_letters(self, letters: Sequence[DeadLetter]) -> Iterator[Outcome]:
        try:
            went = replay(self._log, letters, self._now_ms())
        except UnknownTopic as error:
            yield from (Outcome(at=str(one.place), status="refused", says=str(error)) for one in letters)
            return
        for letter, to in zip(letters, went, strict=True):
            if isinstance(to, Position):
                says = f"to {Place(letter.topic, *to)}"
                yield Outcome(at=str(letter.place), status="replayed", says=says)
            else:
                yield Outcome(at=str(letter.place), status="failed", says=str(to))

    def _send_rows(self, rows: Sequence[tuple[BadRow, Addressed]]) -> Iterator[Outcome]:
        went = appended(self._log, [entry for _, entry in rows])
        sent = [row.place for (row, _), to in zip(rows, went, strict=True) if not isinstance(to, LogUnavailable)]
        note_replayed(self._log, sent, self._now_ms())
        for (row, entry), to in zip(rows, went, strict=True):
            if isinstance(to, LogUnavailable):
                yield Outcome(at=row.place, status="failed", says=str(to))
            else:
                yield Outcome(at=row.place, status="replayed", says=f"to {Place(entry.topic, *to)}")


def _letter(letter: DeadLetter, replays: Mapping[Place, Position | None]) -> Letter:
    went = None
    if letter.place in replays:
        to = replays[letter.place]
        went = "unknown" if to is None else str(Place(letter.topic, *to))
    return Letter(
        at=str(letter.place),
        time_ms=letter.time_ms,
        cause=letter.cause,
        key=letter.shown_key[:SHOWN],
        value=letter.shown_value[:SHOWN],
        cut=letter.is_cut,
        replayed=went,
    )


def _row(row: BadRow, was_replayed: bool) -> Row:
    return Row(
        at=row.place,
        time_ms=row.received_ms,
        site=row.site,
        field=row.field,
        value=row.value,
        reason=row.reason,
        event=row.raw.decode(errors="backslashreplace")[:SHOWN],
        cut=row.is_cut,
        replayed=was_replayed,
    )


def _has(text: str, *among: str) -> bool:
    wanted = text.casefold()
    return any(wanted in one.casefold() for one in among)


def _told(asked: Sequence[str] | Sequence[int] | None, outcomes: Sequence[Outcome]) -> ReplayAnswer:
    """One for each place asked for, in that order; where none was named, as many of all as an answer takes."""
    if asked is not None:
        found = {outcome.at: outcome for outcome in outcomes}
        missing = "there is none at this place"
        outcomes = [found.get(at) or Outcome(at=at, status="missing", says=missing) for at in asked]
    counts: Counter[str] = Counter(outcome.status for outcome in outcomes)
    return ReplayAnswer(counts=counts, outcomes=outcomes[:MOST_REPLAYED])
