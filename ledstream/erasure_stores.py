"""Every place that may hold something of an erased user: looked through, and cleared where that can be done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ledstream import parts
from ledstream.settings import Settings
from store.archive import files_since
from store.erased_archive import ArchiveCompaction, erased_in, left_behind
from store.erased_users import ErasedUsers, Kept
from store.tombstones import Tombstones
from store.user_record import Applied, source_of
from stream import erased_records
from stream.events import ERASE
from stream.log import Log, Record
from stream.redis_log import RedisLog
from stream.spool import Addressed, Spool
from stream.topics import EVENTS

AT_ONCE = 1000
RETENTION = "until the topic's retention (retention.ms, retention.bytes; for ever where these are -1)"
TRIMMED = "until every group that reads the topic has read it"


class Found(NamedTuple):
    """Something of an erased user. name: hexadecimal, empty where nobody can tell whose it is.

    until: how long it stays where nothing can remove it; empty for what must not be there.
    """

    store: str
    where: str
    name: str
    events: int
    until: str = ""


@dataclass(frozen=True)
class Stores:
    """The places, as this machine reaches them. spool: None where there is none here."""

    settings: Settings
    tombstones: Tombstones
    log: Log
    users: ErasedUsers
    spool: Spool | None

    def found(self) -> Iterator[Found]:
        """What is there of erased users; nothing is changed. Raises StoreUnavailable, LogUnavailable."""
        for look in (self._in_store, self._in_archive, self._in_spool, self._in_log, self._in_releases):
            yield from look()

    def clear(self, archive: ArchiveCompaction) -> dict[str, int]:
        """Remove what can be removed; returns how many of what. Twice is harmless. Raises as `found`, and OSError."""
        self.tombstones.spread()
        compacted = archive.run()
        done = {"archive files": compacted.rewritten, "archive events": compacted.events}
        if not len(self.tombstones):
            return done
        done |= self._clear_store()
        done["spool entries"] = 0 if self.spool is None else self.spool.take_out(self._is_erased)
        if isinstance(self.log, RedisLog):
            done |= {f"{topic} records": self._delete(self.log, topic) for topic in erased_records.TOPICS}
        return done

    def _erased(self) -> Iterator[dict[str, list[Kept]]]:
        """Keys of the store that name an erased user, some at a time, by kind."""
        chosen: dict[str, list[Kept]] = {}
        for kept in self.users.scan():
            if self.tombstones.until_ms(kept.user_id) is not None:
                chosen.setdefault(kept.kind, []).append(kept)
                if len(chosen[kept.kind]) == AT_ONCE:
                    yield {kept.kind: chosen.pop(kept.kind)}
        yield chosen

    def _in_store(self) -> Iterator[Found]:
        for chosen in self._erased():
            counts = self._old_events(chosen.get("u", []))
            counts += [(kept.user_id, "copy set aside", 1) for kept in chosen.get("damaged", [])]
            for kept in chosen.get("links", []):
                links = self.users.links_until(kept.user_id, self._until_ms(kept.user_id))
                counts.append((kept.user_id, "links to visitors", links))
            yield from (Found("store", what, self._name(user), count) for user, what, count in counts if count)

    def _old_events(self, records: Sequence[Kept]) -> list[tuple[str, str, int]]:
        users = [kept.user_id for kept in records]
        counts = self.users.events_until(users, list(map(self._until_ms, users)))
        return [(user, "record", count) for user, count in zip(users, counts, strict=True)]

    def _clear_store(self) -> dict[str, int]:
        done = Counter({"records": 0, "damaged copies": 0, "links": 0, "empty records": 0})
        reached = self._reached()
        for chosen in self._erased():
            records = chosen.get("u", [])
            done["records"] += sum(self._erase(user) for user, _, count in self._old_events(records) if count)
            done["empty records"] += self.users.forget_marks([kept.user_id for kept in records], reached)
            done["damaged copies"] += sum(self.users.drop_damaged(kept.user_id) for kept in chosen.get("damaged", []))
            for kept in chosen.get("links", []):
                done["links"] += self.users.unlink_until(kept.user_id, self._until_ms(kept.user_id))
        return dict(done)

    def _erase(self, user_id: str) -> bool:
        """What a store that was restored holds again; a record that has events of a new life as well is left alone."""
        places = self.tombstones.places(user_id, self.log.identity(EVENTS))
        if not places:
            return self.users.erase_if_old(user_id, self._until_ms(user_id))
        newest = max(places, key=lambda place: place.offset)
        return self.users.erase(user_id, Applied(source_of(*newest[:2]), newest.offset))

    def _until_ms(self, user_id: str) -> int:
        return self.tombstones.until_ms(user_id) or 0

    def _reached(self) -> dict[int, int]:
        """How far the records are, by source, in the log that is there."""
        identity = self.log.identity(EVENTS)
        sources = [source_of(identity, partition) for partition in range(self.log.partitions(EVENTS))]
        return dict(zip(sources, self.users.positions(sources), strict=True))

    def _in_archive(self) -> Iterator[Found]:
        folder = self.settings.archive_dir
        for path in files_since(folder):
            for name, events in sorted(erased_in(path, self.tombstones, erase=ERASE).items()):
                yield Found("archive", str(path.relative_to(folder)), name.hex(), events)
        for path in left_behind(folder):
            yield Found("archive", f"{path.relative_to(folder)}, left behind by a process that died", "", 1)

    def _in_spool(self) -> Iterator[Found]:
        if self.spool is None:
            return
        entries = (self._erased_name(one) for one in self.spool.entries())
        for name, count in sorted(Counter(name for name in entries if name is not None).items()):
            yield Found("spool", str(self.spool.folder), name.hex(), count)
        for path in self.spool.damaged():
            yield Found("spool", f"{path}: cannot be read: nobody knows whose it is; delete it", "", 1)

    def _in_log(self) -> Iterator[Found]:
        for topic in erased_records.TOPICS:
            counts = Counter((one.name, one.partition) for one in self._of_topic(topic))
            for (name, partition), count in sorted(counts.items()):
                yield Found("log", f"{topic}/{partition}", name.hex(), count, self._until(topic))

    def _until(self, topic: str) -> str:
        if not isinstance(self.log, RedisLog):
            return RETENTION
        return TRIMMED if topic == EVENTS else ""

    def _of_topic(self, topic: str) -> Iterator[erased_records.ErasedRecord]:
        return erased_records.erased_in(self.log, topic, self.tombstones)

    def _delete(self, log: RedisLog, topic: str) -> int:
        by_partition: dict[int, list[int]] = {}
        for one in self._of_topic(topic):
            by_partition.setdefault(one.partition, []).append(one.offset)
        return sum(log.delete(topic, partition, offsets) for partition, offsets in by_partition.items())

    def _in_releases(self) -> Iterator[Found]:
        """They hold items alone: looked at because somebody may take a user's id for an item's."""
        releases = parts.releases(self.settings)
        for version in releases.versions() if len(self.tombstones) else ():
            release = releases.load(version, with_index=False)
            for row in range(release.info.items):
                if self.tombstones.until_ms(release.item_id(row)) is not None:
                    yield Found("releases", f"{version}, as an item", self._name(release.item_id(row)), 1)

    def _is_erased(self, one: Addressed) -> bool:
        return self._erased_name(one) is not None

    def _erased_name(self, one: Addressed) -> bytes | None:
        record = Record(0, one.entry.time_ms, one.entry.key, one.entry.value)
        return erased_records.erased(one.topic, record, self.tombstones)

    def _name(self, user_id: str) -> str:
        return self.tombstones.key.name(user_id).hex()


def stores(settings: Settings, log: Log, users: ErasedUsers) -> Stores:
    """The places of these settings. Raises SettingsError."""
    folder = settings.spool_dir or settings.data_dir / "spool"
    spool = parts.spool(settings) if folder.exists() else None
    return Stores(settings, parts.tombstones(settings), log, users, spool)


def compaction(of: Stores) -> ArchiveCompaction:
    """Of the archive in these settings."""
    return ArchiveCompaction(of.settings.archive_dir, of.tombstones, erase=ERASE)
