"""User records in Redis (`store/user_record.py` has their bytes), and how far each partition of the log is in them.

A record is replaced only where what was read is still what is stored, so zombies, races and retries change nothing; and
only while nobody else holds the records and the position is the one they were read with: a batch from before a rebuild
has no place in what was made anew, nor has a new user of it.
The position of a partition moves the same way, after the records: it is the store, not the log's commits, that says
where reading goes on. A store that was flushed, or restored from an older copy, says so by its positions.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from led.encoder import Events, Sums, encode
from store.connection import Client, Exchange, StoreUnavailable, unavailable_is_ours
from store.lookups import PAUSE_S, Lookups
from store.user_record import FENCE_BYTES, DamagedRecord, Timeline, UserRecord, decode_record, head_of, joined

if TYPE_CHECKING:
    from store.releases import Release

VIRTUAL_PARTITIONS = 1024
USERS_PER_CALL = 250  # what keeps the server from everybody else for half a millisecond
DAMAGED_KEPT_S = 7 * 86400
NOTHING = b""

# KEYS: hold, position, records. ARGV: who may hold them (nothing: nobody), the position read (nothing: none), seconds
# to live; then, each for all keys in one piece, which costs the server half of what two arguments a key do: the fences
# of what was read (zeros: no record), the new records' lengths (16 bits), the records.
# Answers the places of those that hold something else by now: of all where the hold or the position does.
_REPLACE = f"""
local call, sub, byte = redis.call, string.sub, string.byte
local ttl, fences, lengths, records = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local refused, at, none = {{}}, 1, string.rep('\\0', {FENCE_BYTES})
local is_ours = (call('GET', KEYS[1]) or '') == ARGV[1] and (call('GET', KEYS[2]) or '') == ARGV[2]
for i = 1, #KEYS - 2 do
  local key = KEYS[i + 2]
  local low, high = byte(lengths, 2 * i - 1, 2 * i)
  local after = at + low + 256 * high
  local fence, record = sub(fences, {FENCE_BYTES} * (i - 1) + 1, {FENCE_BYTES} * i), sub(records, at, after - 1)
  local stored
  if not is_ours then
    stored = false
  elseif fence == none then
    stored = call('SET', key, record, 'EX', ttl, 'NX')
  elseif call('GETRANGE', key, 0, {FENCE_BYTES - 1}) == fence then
    stored = call('SET', key, record, 'EX', ttl)
  end
  if not stored then refused[#refused + 1] = i end
  at = after
end
return refused
"""

_REPLACE_SHA = hashlib.sha1(_REPLACE.encode()).hexdigest()

# KEYS: hold, position. ARGV: who may hold the records, the position read (nothing: none), the new one.
_ADVANCE = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
if (redis.call('GET', KEYS[2]) or '') ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[2], ARGV[3])
return 1
"""

# KEYS: hold. ARGV: the holder, seconds (0: let go).
_KEEP_HOLDING = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
"""

_ADVANCE_SHA = hashlib.sha1(_ADVANCE.encode()).hexdigest()

_SET_ASIDE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('RENAME', KEYS[1], KEYS[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 1
"""


class UserStates:
    """User records in Redis. Keys are `{namespace}:u:{virtual partition}:user`, the braces being Redis's hash tag.

    tags_of: virtual partitions of user ids (their UTF-8), so that one Kafka partition's users share few cluster slots.
    """

    def __init__(
        self,
        client: Client,
        namespace: str,
        tags_of: Callable[[Sequence[bytes]], Sequence[int]],
        *,
        idle_after_s: int = 30 * 86400,
    ) -> None:
        self._client, self._namespace, self._tags_of = client, namespace, tags_of
        self._starts = [f"{namespace}:u:{{{tag}}}:".encode() for tag in range(VIRTUAL_PARTITIONS)]
        self._idle_after_s = idle_after_s
        self._holder: str | None = None
        self._set_aside = client.register_script(_SET_ASIDE)
        self._keep_holding = client.register_script(_KEEP_HOLDING)

    def keys(self, user_ids: Sequence[str]) -> list[bytes]:
        """Where the users' records are."""
        users = list(map(str.encode, user_ids))
        return [self._starts[tag] + user for tag, user in zip(self._tags_of(users), users, strict=True)]

    def key(self, user_id: str) -> bytes:
        """Where the user's record is."""
        return self.keys([user_id])[0]

    def read(self, user_ids: Sequence[str]) -> list[UserRecord | DamagedRecord | None]:
        """Records in the order asked, None for a user without one; one round trip. Raises StoreUnavailable.

        A damaged record is returned as its error: a server answers as for an unknown user, a consumer calls
        `set_aside` and begins anew.
        """
        return [_decoded(data) if data else None for data in self.find(user_ids)]

    def lookups(self, *, pause_s: float = PAUSE_S) -> Lookups:
        """For an event loop; answers are as `find` gives them."""
        return Lookups(self._client, pause_s=pause_s)

    def find(self, user_ids: Sequence[str]) -> list[bytes]:
        """Records as stored, in the order asked, NOTHING for a user without one. Raises StoreUnavailable."""
        if not user_ids:
            return []
        with unavailable_is_ours():
            found: Any = self._client.mget(self.keys(user_ids))
        return [data or NOTHING for data in found]

    def update(self, source: int) -> Update:
        """For the reads and writes of one batch of events of this source. Raises StoreUnavailable."""
        beside = self._hold_key, self._position_key(source)
        return Update(self._client, beside, self._holder, self._idle_after_s)

    def read_bytes(self, keys: Sequence[bytes], source: int) -> tuple[list[bytes], int | None]:
        """As `Update.ask` and `Update.records`, and the source's position."""
        with self.update(source) as update:
            update.ask(keys)
            return update.records(), update.position

    def replace(self, keys: Sequence[bytes], old: Sequence[bytes], new: Sequence[bytes]) -> list[int]:
        """As `Update.replace` and `Update.refused`."""
        with self.update(0) as update:
            update.replace(keys, old, new)
            return update.refused()

    def position(self, source: int) -> int | None:
        """Next offset of the source that is not in the records, None where nothing was. Raises StoreUnavailable."""
        return self.positions([source])[0]

    def positions(self, sources: Sequence[int]) -> list[int | None]:
        """`position` of each; one round trip. Raises StoreUnavailable, also while the records are being rebuilt."""
        with unavailable_is_ours():
            answer: Any = self._client.mget([self._hold_key, *map(self._position_key, sources)])
        check_hold(answer[0], self._holder)
        return [None if position is None else int(position) for position in answer[1:]]

    def position_keys(self, sources: Sequence[int]) -> list[bytes]:
        """Where the positions of these sources are, for `lookups`: as decimal texts."""
        return list(map(self._position_key, sources))

    def advance(self, source: int, old: int | None, new: int) -> bool:
        """As `Update.advance`."""
        with self.update(source) as update:
            return update.advance(old, new)

    def set_aside(self, user_id: str) -> None:
        """Move a damaged record to `{namespace}:damaged:…`, kept for a week. Leaves a record alone that reads well."""
        key = self.key(user_id)
        with unavailable_is_ours():
            data: Any = self._client.get(key)
            if data is None or not is_damaged(data):
                return
            aside = key.replace(b":u:", b":damaged:", 1)
            self._set_aside(keys=[key, aside], args=[data, DAMAGED_KEPT_S])

    def hold(self, holder: str, for_s: int) -> None:
        """Make all others wait who read or write records of events, for so long or until `hold_on` or `let_go`.

        Requests are answered from what is there meanwhile. Raises StoreUnavailable, also where another holds them.
        """
        with unavailable_is_ours():
            if not self._client.set(self._hold_key, holder, nx=True, ex=for_s):
                held: Any = self._client.get(self._hold_key)
                check_hold(held or b"another", None)
        self._holder = holder

    def hold_on(self, for_s: int) -> None:
        """Hold for so long from now on. Raises StoreUnavailable, also where the hold lapsed and others went on."""
        with unavailable_is_ours():
            kept: Any = self._keep_holding(keys=[self._hold_key], args=[self._holder or "", for_s])
        if not kept:
            check_hold(None, self._holder)

    def let_go(self) -> None:
        """Let the others go on. Harmless where nothing is held. Raises StoreUnavailable."""
        with unavailable_is_ours():
            self._keep_holding(keys=[self._hold_key], args=[self._holder or "", 0])
        self._holder = None

    def forget_all(self) -> Iterator[int]:
        """Delete the positions of all sources, then the records of all users; yields how many records, by and by.

        In this order, so that whoever goes on in the middle of it begins anew. Raises StoreUnavailable.
        """
        with unavailable_is_ours():
            for what in ("position", "u"):
                cursor = -1
                while cursor:
                    found: Any = self._client.scan(max(cursor, 0), match=f"{self._namespace}:{what}:*", count=1000)
                    cursor, keys = found
                    if keys:
                        self._client.unlink(*keys)
                    yield len(keys) if what == "u" else 0

    def count(self) -> int:
        """Keys in the database that expire: users, and links, trials and damaged records for a while. O(1)."""
        database = f"db{self._client.connection_pool.connection_kwargs.get('db') or 0}"
        with unavailable_is_ours():
            spaces: Any = self._client.info("keyspace")
        return int(spaces.get(database, {}).get("expires", 0))

    @property
    def _hold_key(self) -> bytes:
        return f"{self._namespace}:rebuilding".encode()

    def _position_key(self, source: int) -> bytes:
        return f"{self._namespace}:position:{source:016x}".encode()


class Update:
    """What one batch of events reads and writes, in calls that let others in between.

    Every `ask` is answered by one `records`, every `replace` by one `refused`, in the order they were made; to ask for
    the next users before working on these lets the server work meanwhile. All raise StoreUnavailable, after which any
    part of what was to be written may be stored. Until it is left it has two connections of its own, so that no answer
    to a question waits for what is being written.
    position: how far the source was in the records of the last `records`, None where nothing of it was. It is read
    with them in one step: records that are gone, because the store was flushed, are not taken for users never seen.
    """

    def __init__(
        self, client: Client, hold_and_position: tuple[bytes, bytes], holder: str | None, idle_after_s: int
    ) -> None:
        self._beside, self._holder, self._idle_after_s = hold_and_position, holder, idle_after_s
        self.position: int | None = None
        with ExitStack() as undo:  # a store that is loading takes connections, and nothing else
            self._reads = undo.enter_context(Exchange(client))
            self._writes = undo.enter_context(Exchange(client))
            # Nobody waits for this answer: it comes before that to the first write.
            self._writes.send([("SCRIPT", "LOAD", _REPLACE), ("SCRIPT", "LOAD", _ADVANCE)])
            self._is_loading = True
            undo.pop_all()

    def __enter__(self) -> Update:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._reads.close()
        self._writes.close()

    def ask(self, keys: Sequence[bytes]) -> None:
        """Ask for the records at the keys."""
        starts = range(0, max(1, len(keys)), USERS_PER_CALL)
        calls = [(b"MGET", *self._beside, *keys[start : start + USERS_PER_CALL]) for start in starts]
        self._reads.send(calls)

    def records(self) -> list[bytes]:
        """What is stored at the keys asked for first, NOTHING where there is nothing.

        Raises StoreUnavailable also while the records are being rebuilt (`UserStates.hold`), and where the position
        moved between two calls.
        """
        answers = self._reads.receive()
        for held, *_ in answers:
            check_hold(held, self._holder)
        positions = {position for _, position, *_ in answers}
        if len(positions) > 1:
            raise StoreUnavailable(f"the store was at {positions} while its records were read")
        (position,) = positions
        self.position = None if position is None else int(position)
        return [data or NOTHING for _, _, *part in answers for data in part]

    def replace(self, keys: Sequence[bytes], old: Sequence[bytes], new: Sequence[bytes]) -> None:
        """Store new records where the old bytes (NOTHING: none) still are, and the position still is `position`."""
        calls: list[tuple[bytes | str | int, ...]] = []
        for start in range(0, len(keys), USERS_PER_CALL):
            part = slice(start, start + USERS_PER_CALL)
            fences = b"".join([was[:FENCE_BYTES].ljust(FENCE_BYTES, b"\0") for was in old[part]])
            lengths = struct.pack(f"<{len(new[part])}H", *map(len, new[part]))
            records = b"".join(new[part])
            stays = self._holder or "", "" if self.position is None else self.position
            call = *self._beside, *keys[part], *stays, self._idle_after_s, fences, lengths, records
            calls.append((b"EVALSHA", _REPLACE_SHA, 2 + len(keys[part]), *call))
        self._writes.send(calls)

    def refused(self) -> list[int]:
        """Places of the new records that were not stored, because others are there by now; look at `records` again."""
        answers = self._written()
        return [USERS_PER_CALL * call + place - 1 for call, places in enumerate(answers) for place in places]

    def advance(self, old: int | None, new: int) -> bool:
        """Move the position, once all that was written is answered; False, and nothing moved, where it is not `old`, or
        where another holds the records.

        Over the very connection the records went by: where a store that lost some has come back meanwhile, it fails.
        """
        was: str | int = "" if old is None else old
        self._writes.send([(b"EVALSHA", _ADVANCE_SHA, 2, *self._beside, self._holder or "", was, new)])
        return bool(self._written()[0])

    def _written(self) -> list[Any]:
        if self._is_loading:
            self._writes.receive()
            self._is_loading = False
        return self._writes.receive()


def check_hold(found: bytes | None, holder: str | None) -> None:
    """Raises StoreUnavailable where another than the holder (None: nobody) holds the records, or where it lapsed."""
    if found is not None and found.decode() != holder:
        raise StoreUnavailable(f"the user records are being rebuilt by {found.decode()}")
    if found is None and holder is not None:
        raise StoreUnavailable(f"the hold of {holder} on the user records lapsed, and others went on: begin again")


def is_damaged(data: bytes) -> bool:
    """Whether the bytes are no good record."""
    try:
        head_of(data)
    except DamagedRecord:
        return True
    return False


def encode_timelines(timelines: Sequence[Timeline], release: Release) -> Sums:
    """Sums of whole timelines under a release, by definition: what a user vector must be like."""
    users = np.repeat(np.arange(len(timelines)), [len(t) for t in timelines])
    flat = joined(timelines)
    rows = release.rows(flat["item"].astype(np.uint64))
    events = Events(users, rows, flat["kind"].astype(np.uint8), flat["time_ms"].astype(np.int64))
    return encode(release.encoder, release.input_embeddings, len(timelines), events)


def _decoded(data: bytes) -> UserRecord | DamagedRecord:
    try:
        return decode_record(data)
    except DamagedRecord as damage:
        return damage
