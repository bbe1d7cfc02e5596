"""What the console asks beyond what programs ask, under `/v1/console`.

Live figures and how releases were made are told to everybody, as `/metrics`, `/readyz` and `/v1/releases` are. All else
there is about users, or changes something, and needs the admin key (`serving/collector/paths.py`).
"""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Query

from serving.console.files import Files, add_files
from serving.console.live import LiveFigures
from serving.console.newest import newest_events
from serving.console.shapes import (
    MOST_LISTED,
    AccessAnswer,
    LettersAnswer,
    LettersBody,
    LiveAnswer,
    NewestAnswer,
    ReplayAnswer,
    RowsAnswer,
    RowsBody,
    TrainingsAnswer,
)
from serving.console.trainings import trainings
from serving.console.troubles import Troubles
from serving.parts import Parts

Limit = Annotated[int, Query(ge=1, le=MOST_LISTED, description="at most so many")]
Text = Annotated[str, Query(max_length=200, description="only those with this text in them")]


def add_console(app: FastAPI, parts: Parts, live: LiveFigures) -> None:
    """The page and its endpoints."""
    add_files(app, Files())
    _add_public(app, parts, live)
    _add_troubles(app, Troubles(parts))

    @app.get("/v1/console/access", tags=["console"])
    async def access() -> AccessAnswer:
        """Answered to who may read users and change things, and refused to everybody else."""
        return AccessAnswer()

    @app.get("/v1/console/events", tags=["console"])
    def events(limit: Limit = 20) -> NewestAnswer:
        """The newest events of the log."""
        tombstones = None if parts.erasures is None else parts.erasures.tombstones
        if tombstones is not None:
            tombstones.refresh()  # by other processes
        return NewestAnswer(events=newest_events(parts.log, limit, parts.border.kinds, tombstones))


def _add_public(app: FastAPI, parts: Parts, live: LiveFigures) -> None:
    @app.get("/v1/console/live", tags=["console"])
    def figures() -> LiveAnswer:
        """The figures of all worker processes of this server, added up, at most half a second old."""
        return live.answer()

    @app.get("/v1/console/trainings", tags=["console"])
    def made() -> TrainingsAnswer:
        """How the releases in the folder were made, with the curves of those learned in epochs."""
        return TrainingsAnswer(trainings=trainings(parts.releases))


def _add_troubles(app: FastAPI, troubles: Troubles) -> None:
    @app.get("/v1/console/deadletters", tags=["console"])
    def letters(limit: Limit = 100, text: Text = "") -> LettersAnswer:
        """Records nobody could read."""
        return troubles.letters(limit, text)

    @app.post("/v1/console/deadletters/replay", tags=["console"])
    def replay_letters(body: LettersBody) -> ReplayAnswer:
        """Send letters to their topics again, up to 1,000 in a call."""
        return troubles.replay_letters(body)

    @app.get("/v1/console/badrows", tags=["console"])
    def rows(limit: Limit = 100, text: Text = "") -> RowsAnswer:
        """Events that were refused at the border."""
        return troubles.rows(limit, text)

    @app.post("/v1/console/badrows/replay", tags=["console"])
    def replay_rows(body: RowsBody) -> ReplayAnswer:
        """Judge rows again and send those that are taken now, up to 1,000 in a call."""
        return troubles.replay_rows(body)
