"""Signs of life of consumer processes, for servers to show: who consumes, who waits for what, who is gone.

One hash, `{namespace}:heartbeats`, a field for each process: "<server's time in ms> <JSON>". A server out of memory
takes them too (`allow-oom`): a process that waits for memory must be able to say so, in some hundred bytes that replace
the ones before. What was silent for a day goes when somebody else writes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from store.connection import Client, unavailable_is_ours

SILENT_AFTER_S = 15.0  # three times the longest pause between two turns of the loop
KEPT_S = 86_400
LONGEST_TEXT = 300
State = Literal["running", "waiting", "stopped"]

# KEYS: heartbeats. ARGV: process, JSON, kept ms.
_BEAT = """#!lua flags=allow-oom
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now) .. ' ' .. ARGV[2])
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local at = tonumber(string.match(all[i + 1], '^%d+')) or 0
  if now - at > tonumber(ARGV[3]) then redis.call('HDEL', KEYS[1], all[i]) end
end
"""


@dataclass(frozen=True)
class Heartbeat:
    """What a consumer process says of itself. since_ms: Unix milliseconds, when this state began.

    cause: what it waits for, or what ended it. lag: records it has not read yet, of its partitions.
    """

    group: str
    state: State
    since_ms: int
    cause: str | None = None
    lag: int = 0


class Heartbeats:
    """Of one namespace. Raises StoreUnavailable."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client, self._key = client, f"{namespace}:heartbeats"
        self._beat = client.register_script(_BEAT)

    def beat(self, process: str, heartbeat: Heartbeat) -> None:
        """Say that the process, named as no other is, lives. Idempotent."""
        fields = asdict(heartbeat)
        fields["cause"] = heartbeat.cause and heartbeat.cause[:LONGEST_TEXT]
        with unavailable_is_ours():
            self._beat(keys=[self._key], args=[process, json.dumps(fields), KEPT_S * 1000])

    def read(self) -> dict[str, tuple[Heartbeat, float]]:
        """The last heartbeat of each process and its age in seconds, by the store's clock."""
        with unavailable_is_ours():
            pipeline: Any = self._client.pipeline(transaction=False)
            seconds_micros, found = pipeline.time().hgetall(self._key).execute()
        now_ms = seconds_micros[0] * 1000 + seconds_micros[1] // 1000
        beats = {}
        for process, data in found.items():
            at_ms, _, text = data.partition(b" ")
            fields = json.loads(text)  # another version's may be more
            known = {name: fields[name] for name in Heartbeat.__dataclass_fields__ if name in fields}
            beats[process.decode()] = (Heartbeat(**known), max(0, now_ms - int(at_ms)) / 1000)
        return beats
