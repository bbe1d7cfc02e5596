"""What a canary's trial has shown: answers and failures that servers count, and the evidence of whoever judges it.

One hash a trial, `{namespace}:trial:{trial}`, which goes a day after the last that was written to it:

    champion:answers, champion:errors, canary:answers, canary:errors    counts, raised by every server
    refused:{process}                                                   when and why this process cannot load the canary
    evidence                                                            bytes of the judge, replaced whole
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from store.connection import Client, unavailable_is_ours

KEPT_S = 86_400
REFUSED_FOR_S = 5.0  # a process that still refuses says so every second; of one that was killed nobody hears any more
COUNTS = ("champion:answers", "champion:errors", "canary:answers", "canary:errors")
REFUSED, EVIDENCE = "refused:", "evidence"


@dataclass(frozen=True)
class Tally:
    """All that is stored of a trial. counts: by each of COUNTS. refused: reasons by process."""

    counts: Mapping[str, int]
    refused: Mapping[str, str]
    evidence: bytes | None

    def calls(self, side: str) -> int:
        """Calls of the champion or the canary, failed ones too."""
        return self.counts[f"{side}:answers"] + self.counts[f"{side}:errors"]


class Tallies:
    """Of one namespace. trial: a name no other trial has. Raises StoreUnavailable.

    refused_for_s: by the store's clock, a refusal lapses unless it is told again.
    """

    def __init__(self, client: Client, namespace: str, *, refused_for_s: float = REFUSED_FOR_S) -> None:
        self._client, self._namespace, self._refused_for_ms = client, namespace, 1000 * refused_for_s

    def add(self, trial: str, counts: Mapping[str, int]) -> None:
        """Raise counts, of those in COUNTS. Twice counts twice."""
        with unavailable_is_ours(), self._client.pipeline() as pipeline:
            for name, count in counts.items():
                pipeline.hincrby(self._key(trial), name, count)
            pipeline.expire(self._key(trial), KEPT_S)
            pipeline.execute()

    def refuse(self, trial: str, process: str, reason: str | None) -> None:
        """Say why this process cannot load the canary, again and again while that is so; None: it can. Idempotent."""
        with unavailable_is_ours(), self._client.pipeline() as pipeline:
            if reason is None:
                pipeline.hdel(self._key(trial), REFUSED + process)
            else:
                pipeline.hset(self._key(trial), REFUSED + process, f"{_ms(self._client.time())} {reason}")
            pipeline.expire(self._key(trial), KEPT_S)
            pipeline.execute()

    def keep(self, trial: str, evidence: bytes) -> None:
        """Replace the judge's evidence. Idempotent."""
        with unavailable_is_ours(), self._client.pipeline() as pipeline:
            pipeline.hset(self._key(trial), EVIDENCE, evidence)
            pipeline.expire(self._key(trial), KEPT_S)
            pipeline.execute()

    def read(self, trial: str) -> Tally:
        """What is stored; nothing counted where nothing is."""
        with unavailable_is_ours(), self._client.pipeline(transaction=False) as pipeline:
            pipeline.hgetall(self._key(trial))
            pipeline.time()
            found, clock = pipeline.execute()
        refused = {}
        for name, told in found.items():
            if name.startswith(REFUSED.encode()):
                at_ms, _, reason = told.decode().partition(" ")
                if at_ms.isdigit() and _ms(clock) - int(at_ms) < self._refused_for_ms:
                    refused[name.decode().removeprefix(REFUSED)] = reason
        return Tally({name: int(found.get(name.encode(), 0)) for name in COUNTS}, refused, found.get(EVIDENCE.encode()))

    def _key(self, trial: str) -> str:
        return f"{self._namespace}:trial:{trial}"


def _ms(clock: Any) -> int:
    """Of the store's seconds and microseconds."""
    seconds, micros = clock
    return int(seconds) * 1000 + int(micros) // 1000
