"""The log on Redis Streams: for a single box, and for the embedded server.

Keys of a topic, all under `<namespace>:log:<topic>`:

    (itself)             "<partitions> <identity>", made once
    :<partition>         the stream; ids are 0-1, 0-2, …, so that an entry's offset is its sequence number minus one
    :groups              the groups that ever read; what one of them has not committed is not trimmed
    :seen                sorted set: when each group last had a member; one gone for too long holds trimming no more
    :committed:<group>   hash: next offset by partition
    :members:<group>     sorted set: when each reader's membership runs out, in the server's milliseconds
    :leases:<group>      hash: reader by partition; good while that reader is a member
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from store.connection import Client, StoreUnavailable, ping, unavailable_is_ours
from stream.log import Batch, Entry, LogUnavailable, LogWentBack, Position, Record, UnknownTopic, partition_of
from stream.redis_scripts import COMMIT, LEAVE, SHARE, TRIM
from stream.topics import KEPT_RECORDS

FORGET_GROUPS_AFTER_S = 7 * 86400.0
RENEW_EVERY_S = 0.25
BLOCK_AT_MOST_S = 0.5


class RedisLog:
    """See `stream.log.Log`. Needs Redis 7 or Valkey; the client must answer bytes.

    retain_records: how many of a partition's newest records are kept even when every group has committed them.
    membership_s: how long after its last call a reader that died in silence keeps its partitions.
    forget_groups_after_s: how long a group without a member, which then commits nothing, holds the trimming back.
    """

    def __init__(
        self,
        client: Client,
        namespace: str,
        *,
        retain_records: int = 100_000,
        membership_s: float = 10.0,
        forget_groups_after_s: float = FORGET_GROUPS_AFTER_S,
    ) -> None:
        self._client, self._namespace = client, namespace
        self._retain_records, self._membership_ms = retain_records, int(membership_s * 1000)
        self.forget_groups_after_s = forget_groups_after_s
        self._partitions: dict[str, int] = {}

    def create_topic(self, topic: str, partitions: int) -> None:
        with _unavailable():
            if not self._client.exists(self._key(topic)):  # a server out of memory would refuse even to set it in vain
                self._client.set(self._key(topic), f"{partitions} {secrets.randbits(64)}", nx=True)

    def partitions(self, topic: str) -> int:
        # An existing topic keeps its partitions, so asking once is enough.
        if topic not in self._partitions:
            self._partitions[topic] = self._made(topic)[0]
        return self._partitions[topic]

    def identity(self, topic: str) -> int:
        return self._made(topic)[1]

    def append(self, topic: str, entries: Sequence[Entry]) -> list[Position | LogUnavailable]:
        partitions = self.partitions(topic)
        streams = [self._key(topic, number) for number in range(partitions)]
        numbers = [partition_of(entry.key, partitions) for entry in entries]
        bound = ["MAXLEN", "~", KEPT_RECORDS[topic]] if topic in KEPT_RECORDS else []
        pipeline: Any = self._client.pipeline(transaction=False)
        for number, entry in zip(numbers, entries, strict=True):
            pipeline.execute_command(
                "XADD", streams[number], *bound, "0-*", "t", entry.time_ms, "k", entry.key, "v", entry.value
            )
        try:
            with _unavailable():
                answers = pipeline.execute(raise_on_error=False)
        except LogUnavailable as error:
            return [error] * len(entries)
        return [
            LogUnavailable(str(answer)) if isinstance(answer, Exception) else Position(number, _offset(answer))
            for number, answer in zip(numbers, answers, strict=True)
        ]

    def read(self, topic: str, partition: int, offset: int, max_records: int) -> list[Record]:
        self.partitions(topic)
        with _unavailable():
            found: Any = self._client.xrange(self._key(topic, partition), f"0-{offset + 1}", count=max_records)
        return _records(found)

    def delete(self, topic: str, partition: int, offsets: Sequence[int]) -> int:
        """Delete records that every group which reads the topic has read; returns how many. Twice is harmless."""
        read_until = self._read_by_all(topic, partition)
        ids = [f"0-{offset + 1}" for offset in offsets if read_until is None or offset < read_until]
        with _unavailable():
            return int(self._client.xdel(self._key(topic, partition), *ids)) if ids else 0

    def _read_by_all(self, topic: str, partition: int) -> int | None:
        """Up to where every group has committed, but for those that are gone for too long; None without a group."""
        with _unavailable():
            clock: Any = self._client.time()
            oldest_ms = clock[0] * 1000 - self.forget_groups_after_s * 1000
            scores: Any = self._client.zrange(self._key(topic, "seen"), 0, -1, withscores=True)
            groups: Any = self._client.smembers(self._key(topic, "groups"))
        seen = dict(scores)
        alive = [group.decode() for group in groups if seen.get(group, clock[0] * 1000) >= oldest_ms]
        return min((self.committed(topic, group).get(partition, 0) for group in alive), default=None)

    def start_offsets(self, topic: str) -> dict[int, int]:
        bounds = self._bounds(topic, range(self.partitions(topic)))
        return {number: start for number, (start, _) in bounds.items()}

    def end_offsets(self, topic: str) -> dict[int, int]:
        bounds = self._bounds(topic, range(self.partitions(topic)))
        return {number: end for number, (_, end) in bounds.items()}

    def committed(self, topic: str, group: str) -> dict[int, int]:
        self.partitions(topic)
        with _unavailable():
            found: Any = self._client.hgetall(self._key(topic, "committed", group))
        return {int(number): int(offset) for number, offset in sorted(found.items())}

    def reader(self, topic: str, group: str) -> RedisReader:
        self.partitions(topic)
        with _unavailable():
            if not self._client.sismember(self._key(topic, "groups"), group):
                self._client.sadd(self._key(topic, "groups"), group)
        return RedisReader(self, topic, group)

    def ping(self) -> None:
        with _unavailable():
            ping(self._client)

    def close(self) -> None:
        self._client.close()

    def _key(self, topic: str, *parts: str | int) -> str:
        return ":".join((self._namespace, "log", topic, *map(str, parts)))

    def _made(self, topic: str) -> tuple[int, int]:
        """Partitions and identity."""
        with _unavailable():
            found: Any = self._client.get(self._key(topic))
        if found is None:
            raise UnknownTopic(f"topic {topic} does not exist")
        partitions, identity = found.split()
        return int(partitions), int(identity)

    def _bounds(self, topic: str, partitions: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Start and end offset by partition."""
        pipeline: Any = self._client.pipeline(transaction=False)
        for number in partitions:
            pipeline.xinfo_stream(self._key(topic, number))
        with _unavailable():
            answers = pipeline.execute(raise_on_error=False)
            return {number: _bounds_of(answer) for number, answer in zip(partitions, answers, strict=True)}


class RedisReader:
    """See `stream.log.Reader`. Members get equal shares, give or take one partition."""

    def __init__(self, log: RedisLog, topic: str, group: str) -> None:
        self._log, self._client, self._topic, self._group = log, log._client, topic, group
        self._name, self._identity = secrets.token_hex(8), log.identity(topic)
        self._members, self._leases = log._key(topic, "members", group), log._key(topic, "leases", group)
        self._seen = log._key(topic, "seen")
        self._positions: dict[int, int] = {}
        self._unproven: set[int] = set()  # partitions that may be beyond the log's end, should the server be another
        self._deleted_until: dict[int, int] = {}
        self._forgotten: set[str] = set()
        self._trimmed_at: dict[int, int] = {}
        self._renewed_at = float("-inf")
        self._first = self._lost = 0
        self._closed = False
        timeout_s = self._client.connection_pool.connection_kwargs.get("socket_timeout")
        self._block_at_most_s = min(BLOCK_AT_MOST_S, timeout_s / 2) if timeout_s else BLOCK_AT_MOST_S
        self._share_script = self._client.register_script(SHARE)
        self._commit_script = self._client.register_script(COMMIT)
        self._leave_script = self._client.register_script(LEAVE)
        self._trim_script = self._client.register_script(TRIM)

    def poll(self, *, max_records: int, timeout_s: float) -> list[Batch]:
        deadline = time.monotonic() + timeout_s
        while not self._closed:
            if time.monotonic() >= self._renewed_at + RENEW_EVERY_S:
                self._share(take=True)
            batches = self._read(max_records, deadline - time.monotonic())
            if batches or time.monotonic() >= deadline:
                return batches
        return []

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        if not next_offsets:
            return
        pairs = [number for pair in next_offsets.items() for number in pair]
        keys = [self._leases, self._log._key(self._topic, "committed", self._group)]
        with self._starting_over():
            self._commit_script(keys=keys, args=[self._name, *pairs])
            self._trim(next_offsets)

    def seek(self, partition: int, offset: int) -> None:
        if partition not in self._positions:
            raise ValueError(f"partition {partition} is not assigned to this reader")
        self._positions[partition] = offset
        self._unproven.add(partition)

    def assignment(self) -> frozenset[int]:
        return frozenset(self._positions)

    def positions(self) -> dict[int, int]:
        return dict(self._positions)

    def lag(self) -> dict[int, int]:
        bounds = self._log._bounds(self._topic, list(self._positions))
        return {number: max(0, end - max(start, self._positions[number])) for number, (start, end) in bounds.items()}

    def remade(self) -> int:
        return 0

    def lost(self) -> int:
        return self._lost

    def keep_alive(self) -> None:
        if not self._closed and time.monotonic() >= self._renewed_at + RENEW_EVERY_S:
            self._share(take=False)

    def close(self) -> None:
        self._closed = True
        self._positions = {}
        try:
            with _unavailable():
                self._leave_script(keys=[self._members, self._leases], args=[self._name])
        except LogUnavailable as error:
            logging.getLogger(__name__).warning("a reader's partitions stay taken until its lease ends: %s", error)

    def _share(self, *, take: bool) -> None:
        """Stay a member; with take, also hand over what is too much and take up what is free."""
        partitions = self._log.partitions(self._topic)
        args: list[Any] = [self._name, self._log._membership_ms, partitions, int(take), self._group]
        with self._starting_over():
            # A server that lost everything begins at offset 0 again, where neither positions nor commits mean a thing.
            if self._log.identity(self._topic) != self._identity:
                raise UnknownTopic(f"{self._topic} is gone, another one was made in its place: begin anew")
            leases: Any = self._share_script(keys=[self._members, self._leases, self._seen], args=args)
            missing = {number for number, is_new in leases if is_new or number not in self._positions}
            committed = self._log.committed(self._topic, self._group) if missing else {}
        self._positions = {
            number: committed.get(number, 0) if number in missing else self._positions[number] for number, _ in leases
        }
        self._unproven |= self._positions.keys()
        self._renewed_at = time.monotonic()

    def _read(self, max_records: int, timeout_s: float) -> list[Batch]:
        """What is there of the assigned partitions, after waiting for at most one slice of the timeout."""
        wait_s = max(0.0, min(timeout_s, self._block_at_most_s))
        if not self._positions:
            time.sleep(min(wait_s, RENEW_EVERY_S))
            return []
        streams = self._streams()
        after: Any = {stream: f"0-{self._positions[number]}" for stream, number in streams.items()}
        block_ms = int(wait_s * 1000) or None  # 0 would mean for ever
        with self._starting_over():
            self._check_positions()
            found: Any = self._client.xread(after, count=max(1, max_records // len(streams)), block=block_ms)
        batches = []
        # With fewer records wanted than there are partitions, what is too much is left for the next call.
        for stream, entries in (found or ())[:max_records]:
            batch = Batch.of(streams[stream.decode()], _records(entries))
            self._count_gap(batch)
            self._positions[batch.partition] = batch.next_offset
            batches.append(batch)
        return batches

    def _check_positions(self) -> None:
        """Whether the log reaches as far as where reading goes on: a server restored from an older copy may not."""
        unproven = sorted(self._unproven & self._positions.keys())
        for number, (_, end) in (self._log._bounds(self._topic, unproven) if unproven else {}).items():
            if self._positions[number] > end:
                raise LogWentBack(
                    f"{self._topic}, partition {number}: next record is {self._positions[number]}, "
                    f"the log ends at {end}: begin anew"
                )
        self._unproven.clear()

    @contextmanager
    def _starting_over(self) -> Iterator[None]:
        """After an outage, from what was committed: a server that came back may have lost its last second."""
        try:
            with _unavailable():
                yield
        except LogUnavailable:
            self._positions, self._renewed_at = {}, float("-inf")
            raise

    def _streams(self) -> dict[str, int]:
        """Assigned partitions by stream; another leads each time, so that none starves where few records are wanted."""
        numbers = sorted(self._positions)
        self._first = (self._first + 1) % len(numbers)
        return {self._log._key(self._topic, n): n for n in numbers[self._first :] + numbers[: self._first]}

    def _count_gap(self, batch: Batch) -> None:
        """Once, though the reader may be sent back to where it was already told that there is nothing any more."""
        wanted, found = self._positions[batch.partition], batch.offsets[0]
        wanted = max(wanted, self._deleted_until.get(batch.partition, 0))
        if found > wanted:  # what is missing behind the log's oldest record was deleted on purpose
            found = min(found, self._log._bounds(self._topic, [batch.partition])[batch.partition][0])
        if found > wanted:
            self._deleted_until[batch.partition] = found
            self._lost += found - wanted
            logging.getLogger(__name__).error(
                "%s, partition %d: records %d to %d were trimmed before group %s read them",
                *(self._topic, batch.partition, wanted, found - 1, self._group),
            )

    def _trim(self, next_offsets: Mapping[int, int]) -> None:
        """Only after every tenth of retain_records, because it asks for every group's offset."""
        every = max(1, self._log._retain_records // 10)
        for number, offset in next_offsets.items():
            if offset - self._trimmed_at.setdefault(number, offset - every) < every:
                continue
            self._trimmed_at[number] = offset
            keys = [self._log._key(self._topic, number), self._log._key(self._topic, "groups"), self._seen]
            prefix, log = self._log._key(self._topic, "committed", ""), self._log
            args: list[Any] = [prefix, number, log._retain_records, int(log.forget_groups_after_s * 1000)]
            gone: Any = self._trim_script(keys=keys, args=args)
            self._tell_of({group.decode() for group in gone})

    def _tell_of(self, gone: set[str]) -> None:
        """Groups the trimming waits for no more: each is named once."""
        for group in sorted(gone - self._forgotten):
            logging.getLogger(__name__).warning(
                "%s: group %s had no member for %g s, records it has not read may be trimmed from now on",
                *(self._topic, group, self._log.forget_groups_after_s),
            )
        self._forgotten = gone


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        with unavailable_is_ours():
            yield
    except StoreUnavailable as error:
        raise LogUnavailable(str(error)) from error


def _offset(stream_id: bytes) -> int:
    return int(stream_id[2:]) - 1


def _records(entries: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> list[Record]:
    return [
        Record(int(stream_id[2:]) - 1, int(fields[b"t"]), fields[b"k"], fields[b"v"]) for stream_id, fields in entries
    ]


def _bounds_of(info: Any) -> tuple[int, int]:
    """Start and end offset in the answer to XINFO STREAM. A stream nothing was appended to does not exist yet."""
    if isinstance(info, Exception):
        if "no such key" in str(info):
            return 0, 0
        raise info
    end = _offset(info["last-generated-id"]) + 1
    return (_offset(info["first-entry"][0]) if info["first-entry"] else end), end
