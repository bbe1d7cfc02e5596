"""What is raised, and nothing else but mistakes of the caller's own (TypeError and its like)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ledstream_client.handing import Taken

SHOWN = 200


class LedstreamError(Exception):
    """All that is raised here."""


class Refused(LedstreamError):
    """Not done, and asking again would not help: `field` had `value`, and why that cannot be.

    status: of HTTP; 0 where it was seen before anything was sent.
    """

    def __init__(self, field: str, value: str | None, reason: str, status: int = 0) -> None:
        self.field, self.value, self.reason, self.status = field, value, reason, status
        super().__init__(f"{field} = {value}: {reason}" if value is not None else f"{field}: {reason}")


class NotFound(Refused):
    """There is no such user, item, entry or release."""


class NotAllowed(Refused):
    """The key is missing, or is not one for this."""


class Unavailable(LedstreamError):
    """No answer within the time that was given, however often it was asked. It may have been done all the same.

    tries: how often. retry_after_s: when the server would like to be asked again; 0 where it did not say.
    """

    def __init__(self, reason: str, tries: int = 0, retry_after_s: float = 0.0) -> None:
        self.reason, self.tries, self.retry_after_s = reason, tries, retry_after_s
        super().__init__(f"{reason} (tries: {tries})" if tries else reason)


class Unfinished(Unavailable):
    """Not all was taken. taken: what became of each; send `taken.failed` again, as they are."""

    def __init__(self, cause: LedstreamError, taken: Taken[Any]) -> None:
        later_s = cause.retry_after_s if isinstance(cause, Unavailable) else 0.0
        super().__init__(f"{len(taken.failed)} of {len(taken.verdicts)} were not taken: {cause}", 0, later_s)
        self.taken = taken


class UnexpectedAnswer(LedstreamError):
    """What came back is no answer of a ledstream server that this client knows."""


def refusal(status: int, body: bytes) -> LedstreamError:
    """The error in an answer of HTTP's 4xx; anything but a ledstream server's own (a proxy's page) is quoted."""
    kind = {401: NotAllowed, 403: NotAllowed, 404: NotFound}.get(status, Refused)
    try:
        error = json.loads(body)["error"]
        return kind(str(error["field"]), error["value"], str(error["reason"]), status)
    except (ValueError, KeyError, TypeError, RecursionError):
        shown = body[:SHOWN].decode("utf-8", "replace")
        if 400 <= status < 500:
            return kind("request", None, f"HTTP {status}: {shown}", status)
        return UnexpectedAnswer(f"HTTP {status}: {shown}")
