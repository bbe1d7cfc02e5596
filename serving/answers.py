"""The recommender: questions that arrived together, answered from one release with one read and one search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from serving.breaker import GuardedStates
from serving.questions import Question
from serving.ranking import NOTHING, Ranked, best, hidden_rows, most_popular
from serving.recent import RecentItems
from serving.served import Served
from store.connection import StoreUnavailable
from store.user_record import DamagedRecord, UserRecord
from store.user_state import user_vectors
from stream.events import item_key

Source = Literal["personal", "popular"]


class Answer(NamedTuple):
    """Items best first with their scores, and what they were computed from.

    scores: <u, v_i> + b_i of the release if personal; otherwise weighted events of the item in the release's data,
    or events posted to this process lately where release is None.
    as_of: time of the user's last applied event, Unix milliseconds; None for a user without any.
    degraded: the store did not answer, so that a known user may have got the popular items.
    """

    user: str | None
    item_ids: Sequence[str]
    scores: Sequence[float]
    release: str | None
    as_of: int | None
    source: Source
    degraded: bool

    def items(self) -> list[dict[str, object]]:
        return [{"item_id": item, "score": score} for item, score in zip(self.item_ids, self.scores, strict=True)]

    def to_json(self) -> bytes:
        """The answer on the wire; scores in the shortest form that reads back as the same float32."""
        fields = {
            "user": self.user,
            "items": self.items(),
            "release": self.release,
            "as_of": self.as_of,
            "source": self.source,
            "degraded": self.degraded,
        }
        return orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY)


class Recommender:
    """Used by one thread. current: the release of this moment; asked once for all questions of a call."""

    def __init__(self, states: GuardedStates, current: Callable[[], Served | None], recent: RecentItems) -> None:
        self._states, self._current, self._recent = states, current, recent

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """An answer to each, in order. Raises nothing that an input could cause."""
        served = self._current()
        records, degraded = self._records(questions)
        if served is None:
            return [self._lately(*asked) for asked in zip(questions, records, degraded, strict=True)]
        answers = _personal(served, questions, records)
        return [
            answers.get(place) or _popular(served, question, records[place], degraded[place])
            for place, question in enumerate(questions)
        ]

    def _records(self, questions: Sequence[Question]) -> tuple[list[UserRecord | None], list[bool]]:
        """Each question's record, None where there is no good one; and whether that is the store's fault."""
        records = [question.record for question in questions]
        stored = [place for place, question in enumerate(questions) if question.user and question.record is None]
        degraded = [False] * len(questions)
        try:
            found = self._states.read([questions[place].user or "" for place in stored])
        except StoreUnavailable:
            for place in stored:
                degraded[place] = True
            return records, degraded
        for place, record in zip(stored, found, strict=True):
            if not isinstance(record, DamagedRecord):  # the consumer sets those aside at the user's next event
                records[place] = record
        return records, degraded

    def _lately(self, question: Question, record: UserRecord | None, degraded: bool) -> Answer:
        hidden = set(_hidden_keys(question, record).tolist())
        ranked = [pair for pair in self._recent.ranking() if item_key(pair[0]) not in hidden][: question.k]
        ids, scores = [item for item, _ in ranked], [float(count) for _, count in ranked]
        return Answer(question.user, ids, scores, None, _as_of(record), "popular", degraded)


def _personal(served: Served, questions: Sequence[Question], records: Sequence[UserRecord | None]) -> dict[int, Answer]:
    """Answers, by place, to those whose users have a vector under this release."""
    known = [(place, record) for place, record in enumerate(records) if record is not None]
    vectors = user_vectors([record for _, record in known], served.release)
    has_vector = vectors.any(axis=1)
    known = [known[i] for i in np.flatnonzero(has_vector)]
    if not known:
        return {}
    hidden = hidden_rows([_hidden_keys(questions[place], record) for place, record in known], served)
    ks = [questions[place].k for place, _ in known]
    ranked = best(served, vectors[has_vector], ks, hidden)
    return {
        place: _answer(served, questions[place], record, of_user, "personal")
        for (place, record), of_user in zip(known, ranked, strict=True)
    }


def _popular(served: Served, question: Question, record: UserRecord | None, degraded: bool) -> Answer:
    keys = _hidden_keys(question, record)
    hidden = hidden_rows([keys], served)[0] if len(keys) else NOTHING
    ranked = most_popular(served, question.k, hidden)
    return _answer(served, question, record, ranked, "popular")._replace(degraded=degraded)


def _answer(served: Served, question: Question, record: UserRecord | None, ranked: Ranked, source: Source) -> Answer:
    ids = list(map(served.item_id, ranked.rows))
    return Answer(question.user, ids, ranked.scores, served.version, _as_of(record), source, False)


def _hidden_keys(question: Question, record: UserRecord | None) -> npt.NDArray[np.uint64]:
    """Keys of the items this answer must not hold: the excluded, and the seen unless asked for."""
    seen = record.timeline["item"] if record is not None and not question.seen else np.empty(0, np.uint64)
    if not question.exclude:
        return seen
    excluded = np.fromiter(map(item_key, question.exclude), np.uint64, len(question.exclude))
    return np.concatenate([seen, excluded])


def _as_of(record: UserRecord | None) -> int | None:
    return None if record is None else record.as_of
