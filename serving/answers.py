"""The recommender: questions that arrived together, answered from one release with one search."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from serving.explained import Explained, Shown
from serving.live import Live
from serving.questions import Question
from serving.ranking import NO_KEY, Ranked, best, most_popular
from serving.recent import RecentItems
from serving.served import Served, beginning
from store.profiles import Profiles, profiles
from stream.events import item_key
from stream.stages import Stages

Source = Literal["personal", "popular"]
NO_RECORD = b""


class Answer(NamedTuple):
    """Items best first with their scores, and what they were computed from.

    items: each one's JSON up to its score. scores: (n,) <u, v_i> + b_i of the release if personal; otherwise weighted
    events of the item in the release's data, or events posted to this process lately where release is None.
    as_of: time of the user's last applied event, Unix milliseconds; None for a user without any.
    degraded: the store did not answer, so that a known user may have got the popular items.
    reasons: of each item, why it scores so, as JSON (`serving/explained.py`); none where nobody asked, or no user did.
    """

    user: str | None
    items: Sequence[bytes]
    scores: npt.NDArray[np.floating]
    release: bytes
    as_of: int | None
    source: Source
    degraded: bool
    reasons: Sequence[bytes] = ()

    def items_json(self) -> bytes:
        """The list of items on the wire; scores in the shortest form that reads back as the same number."""
        if not self.items:
            return b"[]"
        scores = orjson.dumps(self.scores, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
        if self.reasons:
            scores = [b'%b,"reasons":%b' % pair for pair in zip(scores, self.reasons, strict=True)]
        return b"[%b}]" % b"},".join([item + score for item, score in zip(self.items, scores, strict=True)])

    def to_json(self) -> bytes:
        """The answer on the wire."""
        return b'{"user":%b,"items":%b,"release":%b,"as_of":%b,"source":"%b","degraded":%b}' % (
            orjson.dumps(self.user),
            self.items_json(),
            self.release,
            b"null" if self.as_of is None else b"%d" % self.as_of,
            self.source.encode(),
            b"true" if self.degraded else b"false",
        )


Attempt = Callable[[Live, Served | None, Callable[[Served | None], list[Answer]]], list[Answer]]

NO_ANSWER = Answer(None, (), np.empty(0), b"null", None, "popular", False)


class Recommender:
    """Used by one thread. live: the releases of this moment; asked once for all questions of a call.

    attempt: answers from one of the two releases, with an eye on how it goes (`serving.live.Outcomes.attempt`).
    stages: where its time goes: decode (records to vectors), search, choose (what is not hidden).
    kinds: names of kinds of events by their codes.
    """

    def __init__(
        self,
        live: Callable[[], Live],
        recent: RecentItems,
        stages: Stages | None = None,
        attempt: Attempt = lambda _, served, answer: answer(served),
        *,
        kinds: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        self._kinds = kinds
        self._live, self._recent, self.stages, self._attempt = live, recent, stages or Stages(), attempt

    def answer(self, questions: Sequence[Question], found: Sequence[bytes | None]) -> list[Answer]:
        """An answer to each, in order. found: records, NO_RECORD where there is none, None where the store is away.

        A damaged record is as none: the consumer sets it aside at the user's next event. Raises nothing that an input
        could cause.
        """
        answers = [NO_ANSWER] * len(questions)
        live = self._live()
        for served, places in _by_release(live, questions):
            theirs = [questions[place] for place in places]
            records = [found[place] or NO_RECORD for place in places]
            some = self._attempt(live, served, partial(self._from, theirs, records))
            for place, answer in zip(places, some, strict=True):
                answers[place] = answer if found[place] is not None else answer._replace(degraded=True)
        return answers

    def _from(self, questions: Sequence[Question], records: Sequence[bytes], served: Served | None) -> list[Answer]:
        since = time.perf_counter()
        users = profiles(records, served.release if served else None)
        hidden = [_hidden_keys(question, seen) for question, seen in zip(questions, users.seen, strict=True)]
        self.stages.lap("decode", since)
        if served is None:
            return self._lately(questions, users, hidden)
        explained = {
            place: Explained(records[place], served, self._kinds)
            for place, question in enumerate(questions)
            if question.explain and users.has_vector[place]
        }
        for place, why in explained.items():
            users.queries[place, :-1] = why.vector
        return self._personally(served, questions, users, hidden, explained=explained)

    def _lately(self, questions: Sequence[Question], users: Profiles, hidden: Sequence[set[int]]) -> list[Answer]:
        ranking, answers = self._recent.ranking(), []
        for question, as_of, not_shown in zip(questions, users.as_of, hidden, strict=True):
            keyed = ((pair, item_key(pair[0])) for pair in ranking)
            shown = (pair for pair, key in keyed if key not in not_shown and key not in self._recent.withheld)
            ranked = list(islice(shown, question.k))
            items, scores = [beginning(item) for item, _ in ranked], np.array([count for _, count in ranked], float)
            answers.append(Answer(question.user, items, scores, b"null", as_of, "popular", False))
        return answers

    def _personally(
        self,
        served: Served,
        questions: Sequence[Question],
        users: Profiles,
        hidden: Sequence[set[int]],
        *,
        explained: Mapping[int, Explained],
    ) -> list[Answer]:
        """The popular items to who has no vector under the release. explained: by place, who asked for reasons."""
        known = [place for place, has_vector in enumerate(users.has_vector) if has_vector]
        ranked: dict[int, Ranked] = {}
        if known:
            queries = users.queries if len(known) == len(questions) else users.queries[known]
            ks, not_shown = [questions[place].k for place in known], [hidden[place] for place in known]
            ranked = dict(zip(known, best(served, queries, ks, not_shown, self.stages), strict=True))
        answers = []
        for place, (question, as_of) in enumerate(zip(questions, users.as_of, strict=True)):
            source: Source = "personal" if place in ranked else "popular"
            found = ranked.get(place) or most_popular(served, question.k, hidden[place])
            shown: Shown = explained[place].ranked(found.rows) if place in explained else (*found, ())
            rows, scores, reasons = shown
            items = list(map(served.item, rows))
            answers.append(Answer(question.user, items, scores, served.json, as_of, source, False, reasons))
        return answers


def _by_release(live: Live, questions: Sequence[Question]) -> list[tuple[Served | None, Sequence[int]]]:
    """Which release answers which questions, by place."""
    if live.canary is None:
        return [(live.champion, range(len(questions)))]
    places: dict[Served | None, list[int]] = {}
    for place, question in enumerate(questions):
        places.setdefault(live.of(question.user), []).append(place)
    return list(places.items())


def _hidden_keys(question: Question, seen: Sequence[int]) -> set[int]:
    """Keys of the items that the answer must not hold: the excluded, and the seen unless asked for. NO_KEY is one."""
    hidden = {NO_KEY} if question.seen else {NO_KEY, *seen}
    if question.exclude:
        hidden.update(map(item_key, question.exclude))
    return hidden
