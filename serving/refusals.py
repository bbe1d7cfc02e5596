"""What is refused, in one shape: {"error": {"field", "value", "reason"}} under the right status."""

from __future__ import annotations

import orjson

from stream.events import InvalidEvent

RETRY_AFTER_S = 1


class Refused(Exception):
    """A request that is not answered as asked. status: 4xx where the request is at fault, 503 where we are."""

    def __init__(self, field: str, value: object, reason: str, *, status: int = 400) -> None:
        self.field, self.reason, self.status = field, reason, status
        self.value = None if value is None else InvalidEvent(field, value, reason).value
        super().__init__(f"{field} = {self.value}: {reason}")

    def to_json(self) -> bytes:
        return orjson.dumps({"error": {"field": self.field, "value": self.value, "reason": self.reason}})


class Overloaded(Refused):
    """More is waiting than will be answered in good time."""

    def __init__(self, what: str) -> None:
        super().__init__(what, None, "too many are waiting, try again shortly", status=503)
