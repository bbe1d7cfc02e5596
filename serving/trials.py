"""A release on trial with a share of the users, and the way back: asked for and ended over HTTP.

As `ledstream canary` and `ledstream releases rollback` do it. Everything here may wait for the store or the log.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from serving.parts import Parts
from serving.refusals import Refused
from serving.schemas import ActivationAnswer, ErrorAnswer
from store.releases import UnknownRelease
from stream.announcements import (
    Announcement,
    NoSuchStep,
    announce_canary,
    promote,
    read_announcement,
    roll_back,
    withdraw,
)
from stream.current import CANNOT_LOAD
from stream.events import DecodeError

CONFLICT: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer}, 409: {"model": ErrorAnswer}}


class TrialBody(BaseModel):
    """A release to try on a share of the users, for so long."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: str
    share: Annotated[float, Field(gt=0, le=1)]
    for_s: Annotated[float, Field(gt=0, le=30 * 86_400)]


class ExpectedBody(BaseModel):
    """What whoever asks believes to do it to; anything else is refused, since somebody else was faster."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: str


class TrialAnswer(BaseModel):
    """recall, errors, refused: what the trial has shown; absent without one, or where nobody counts."""

    current: str | None
    canary: dict[str, Any] | None = Field(description="version, share, since_ms, until_ms; verdict and reason so far")
    rollback_to: str | None = None
    recall: dict[str, Any] | None = None
    errors: str | None = None
    refused: dict[str, str] | None = None


class Trials:
    """Used by any thread."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def status(self) -> TrialAnswer:
        """What is current and on trial, and what the trial has shown. Raises LogUnavailable, StoreUnavailable."""
        if self._parts.trial is not None:
            return TrialAnswer(**self._parts.trial())
        last = self._announcement()
        if last is None:
            return TrialAnswer(current=None, canary=None)
        if last.canary is not None:
            return TrialAnswer(current=last.version, canary=last.canary._asdict(), rollback_to=last.version)
        return TrialAnswer(current=last.version, canary=None, rollback_to=next(iter(last.before), None))

    def start(self, body: TrialBody) -> TrialAnswer:
        """Try a release that loads and that no gate refused. A trial under way ends."""
        self._check(body.version)
        refusal = self._parts.releases.reports.refusal(body.version)
        if refusal:
            raise Refused("version", body.version, refusal, status=409)
        try:
            announce_canary(self._parts.log, body.version, body.share, self._parts.now_ms(), body.for_s)
        except NoSuchStep as error:
            raise Refused("version", body.version, str(error), status=409) from None
        return self.status()

    def end(self, body: ExpectedBody, *, promoted: bool) -> TrialAnswer:
        """Make the canary current, or leave the current release to everybody."""
        last = self._announcement()
        if last is None or last.canary is None or last.canary.version != body.version:
            raise Refused("version", body.version, "this release is not on trial, look again", status=409)
        try:
            (promote if promoted else withdraw)(self._parts.log, self._parts.now_ms(), only=last.canary)
        except NoSuchStep as error:
            raise Refused("version", body.version, str(error), status=409) from None
        return self.status()

    def roll_back(self, body: ExpectedBody) -> ActivationAnswer:
        """Make current what was before, or end the trial. version: what is to be current then."""
        last = self._announcement()
        to = None if last is None else last.version if last.canary is not None else next(iter(last.before), None)
        if to is None or to != body.version:
            found = f"a rollback leads to {to}" if to else "no release is known to have been current before this one"
            raise Refused("version", body.version, found, status=409)
        self._check(to)
        return ActivationAnswer(version=roll_back(self._parts.log, self._parts.now_ms()))

    def _announcement(self) -> Announcement | None:
        try:
            return read_announcement(self._parts.log)
        except DecodeError as error:
            raise Refused("release", None, f"{error}; activate one, which puts it right", status=409) from None

    def _check(self, version: str) -> None:
        try:
            self._parts.releases.load(version)
        except UnknownRelease:
            raise Refused("version", version, "there is no such release", status=404) from None
        except CANNOT_LOAD as error:
            raise Refused("version", version, str(error), status=409) from None


def add_trials(app: FastAPI, trials: Trials) -> None:
    """The endpoints. What changes something needs the admin key (`serving/collector/paths.py`)."""

    @app.get("/v1/canary", tags=["releases"], responses={409: {"model": ErrorAnswer}})
    def canary() -> TrialAnswer:
        """The release on trial, if there is one, and what follows from what it has shown."""
        return trials.status()

    @app.post("/v1/canary", tags=["releases"], responses=CONFLICT)
    def start(body: TrialBody) -> TrialAnswer:
        """Try a release on a share of the users, beside the current one. A trial under way ends."""
        return trials.start(body)

    @app.post("/v1/canary/promote", tags=["releases"], responses=CONFLICT)
    def promoted(body: ExpectedBody) -> TrialAnswer:
        """Make the release on trial current."""
        return trials.end(body, promoted=True)

    @app.post("/v1/canary/withdraw", tags=["releases"], responses=CONFLICT)
    def withdrawn(body: ExpectedBody) -> TrialAnswer:
        """End the trial; the current release is everybody's again."""
        return trials.end(body, promoted=False)

    @app.post("/v1/releases/rollback", tags=["releases"], responses=CONFLICT)
    def rolled_back(body: ExpectedBody) -> ActivationAnswer:
        """Withdraw the canary, or where none is on trial make current what was current before."""
        return trials.roll_back(body)
