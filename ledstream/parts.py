"""From settings to the parts of a process: the one place that decides which backend stands behind an address.

What takes long to import is imported by who asks for it: a rollback should wait for none of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ledstream.settings import Settings, SettingsError
from store.connection import Client, connect, ping
from store.embedded import address as embedded_address
from store.embedded import socket_path
from store.erasure_key import WrongErasureKey, erasure_key
from store.tombstones import Tombstones
from store.user_state import VIRTUAL_PARTITIONS, UserStates
from stream.backends import DELIVERY_TIMEOUT_S, MissingClient
from stream.backends import open_log as open_backend
from stream.decoding import Decoder
from stream.events import Border, item_key
from stream.log import Log, LogUnavailable, partition_of, partitions_of
from stream.spool import Spool, SpoolUnusable
from stream.topics import EVENTS, topics

if TYPE_CHECKING:
    from store.archive import Archive
    from store.erased_users import ErasedUsers
    from store.releases import Releases

logger = logging.getLogger(__name__)
SERVING_TIMEOUT_S = 0.25
# How long an event waits for a log that does not answer, before it goes to the disk: what was being sent may be there
# as well, and counts once by its id.
PATIENCE_S = 2.0
FEW = 50  # users, for whom the hash is quicker one by one


def is_embedded(settings: Settings) -> bool:
    """Whether anything of this system is held by the embedded store."""
    return not settings.store or not settings.log


def store_address(settings: Settings) -> str:
    return settings.store or embedded_address(settings.data_dir)


def log_address(settings: Settings) -> str:
    return settings.log or embedded_address(settings.data_dir)


def open_log(settings: Settings, *, meanwhile: Spool | None = None) -> Log:
    """The log, with every topic there. Raises LogUnavailable; SettingsError for an address nobody understands.

    meanwhile: where events can be kept; a log that is away is no reason not to start then, nor to wait for long.
    """
    _check_embedded_runs(settings)
    address = log_address(settings)
    if address.startswith("kafka://") and "?" not in address:
        address += f"?replication={settings.replication}"
    patience_s, client = DELIVERY_TIMEOUT_S if meanwhile is None else PATIENCE_S, settings.kafka_client
    try:
        log = open_backend(address, settings.namespace, kafka_client=client, delivery_timeout_s=patience_s)
    except MissingClient as error:
        raise SettingsError(f"LEDSTREAM_KAFKA_CLIENT = {settings.kafka_client!r}: {error}") from None
    except ValueError as error:
        raise SettingsError(f"LEDSTREAM_LOG: {error}") from None
    try:
        for topic, partitions in topics(settings.partitions).items():
            log.create_topic(topic, partitions)
    except LogUnavailable as error:
        if meanwhile is None:
            raise
        logger.warning("the log is away, events are kept in %s until it is back: %s", meanwhile.folder, error)
    return log


def connect_store(settings: Settings, *, timeout_s: float = 2.0) -> Client:
    """A client of the store, connected at first use. Raises SettingsError for a bad address."""
    _check_embedded_runs(settings)
    try:
        return connect(store_address(settings), timeout_s=timeout_s)
    except ValueError as error:
        raise SettingsError(f"LEDSTREAM_STORE = {settings.store!r}: {error}") from None


def open_store(settings: Settings) -> Client:
    """A client of the store that answered once. Raises StoreUnavailable; SettingsError for a bad address."""
    client = connect_store(settings)
    ping(client)
    return client


def user_states(settings: Settings, client: Client) -> UserStates:
    return UserStates(client, settings.namespace, virtual_partitions, idle_after_s=settings.idle_after_s)


def releases(settings: Settings) -> Releases:
    from store.releases import Releases

    return Releases(settings.releases_dir, item_key, settings.kind_codes)


def archive(settings: Settings, log: Log) -> Archive:
    from store.archive import Archive

    return Archive(settings.archive_dir, log.identity(EVENTS))


def spool(settings: Settings) -> Spool | None:
    """Where events go while the log is away; None where they are refused then. Raises SettingsError."""
    if not settings.spool_mb:
        return None
    try:
        return Spool(settings.spool_dir or settings.data_dir / "spool", settings.spool_mb << 20)
    except SpoolUnusable as error:
        raise SettingsError(f"no event could be kept while the log is away: {error}; LEDSTREAM_SPOOL_DIR") from None


def decoder(settings: Settings, log: Log) -> Decoder:
    now_ms, ahead_s = (lambda: int(time.time() * 1000)), settings.max_event_ahead_s
    return Decoder(now_ms, ahead_s, tombstones(settings), log.identity(EVENTS))


def erasures_dir(settings: Settings) -> Path:
    return settings.erasures_dir or settings.data_dir / "erasures"


def tombstones(settings: Settings) -> Tombstones:
    """Who was erased, as this machine knows it. Raises SettingsError where that was written under another key."""
    folder = erasures_dir(settings)
    try:
        return Tombstones([folder, settings.archive_dir], erasure_key(settings.erasure_key, folder))
    except WrongErasureKey as error:
        raise SettingsError(f"LEDSTREAM_ERASURE_KEY: {error}") from None
    except OSError as error:
        raise SettingsError(f"LEDSTREAM_ERASURES_DIR = {folder}: {error.strerror}") from None


def erased_users(settings: Settings, client: Client) -> ErasedUsers:
    from store.erased_users import ErasedUsers

    states = user_states(settings, client)
    return ErasedUsers(client, settings.namespace, states, idle_after_s=settings.idle_after_s)


def border(settings: Settings) -> Border:
    return Border(frozenset(settings.kinds), settings.max_event_ahead_s, settings.max_event_age_s)


def virtual_partitions(user_ids: Sequence[bytes]) -> Sequence[int]:
    """The users' hash tags: of one Kafka partition's users there are only so many, so a batch meets few slots."""
    if len(user_ids) < FEW:
        return [_virtual_partition(user) for user in user_ids]
    tags: list[int] = partitions_of(user_ids, VIRTUAL_PARTITIONS).tolist()
    return tags


@lru_cache(maxsize=1 << 12)  # for users who ask again and again; most in a consumer's small batches never come back
def _virtual_partition(user_id: bytes) -> int:
    return partition_of(user_id, VIRTUAL_PARTITIONS)


def _check_embedded_runs(settings: Settings) -> None:
    if is_embedded(settings) and not socket_path(settings.data_dir).exists():
        missing = " and ".join(name for name in ("log", "store") if not getattr(settings, name))
        raise SettingsError(
            f"no address for the {missing}, and no embedded store runs for {settings.data_dir}: "
            "start `ledstream up`, or set LEDSTREAM_LOG and LEDSTREAM_STORE"
        )
