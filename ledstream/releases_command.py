"""`ledstream releases`: what there is, what is current, and how to go back."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from ledstream import parts
from ledstream.settings import Settings, SettingsError
from store.releases import BadRelease
from stream.announcements import announce, current_version


def run(settings: Settings, action: str, version: str | None) -> int:
    """list, show VERSION, or activate VERSION (checked whole before it is announced)."""
    releases = parts.releases(settings)
    if action != "list" and version is None:
        raise SettingsError(f"releases {action} needs a version")
    if action == "show" and version is not None:
        print(json.dumps(asdict(releases.info(version)), indent=2))
        return 0
    log = parts.open_log(settings)
    try:
        if action == "activate" and version is not None:
            releases.load(version)
            announce(log, version, int(time.time() * 1000))
            print(f"{version} is current")
            return 0
        current = current_version(log)
    finally:
        log.close()
    table = Table("version", "items", "dim", "index", "recall@20", "")
    for name in releases.versions():
        mark = "current" if name == current else ""
        try:
            info = releases.info(name)
        except BadRelease as error:
            table.add_row(name, "", "", "", "", f"{mark} {error}".strip())
            continue
        index = info.index
        table.add_row(name, f"{info.items:,}", str(info.dim), str(index.get("kind")), str(index.get("recall20")), mark)
    Console().print(table)
    return 0
