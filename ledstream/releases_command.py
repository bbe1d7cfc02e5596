"""`ledstream releases`: what there is, what is current, and how to go back."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from ledstream import parts
from ledstream.settings import Settings, SettingsError
from store.gate_reports import GateReports
from store.releases import BadRelease
from stream.announcements import Announcement, announce, read_announcement


def run(settings: Settings, action: str, version: str | None, *, force: bool = False) -> int:
    """list, show VERSION with its gate's report, or activate VERSION (checked whole before it is announced).

    force: activate what the gate refused. What a server could not load is never announced.
    """
    releases = parts.releases(settings)
    if action != "list" and version is None:
        raise SettingsError(f"releases {action} needs a version")
    if action == "show" and version is not None:
        shown = {**asdict(releases.info(version)), "gate": _report(releases.reports, version)}
        print(json.dumps(shown, indent=2))
        return 0
    log = parts.open_log(settings)
    try:
        if action == "activate" and version is not None:
            releases.load(version)
            refusal = releases.reports.refusal(version)
            if refusal and not force:
                raise BadRelease(f"{refusal} (--force activates it all the same)", "gate")
            announce(log, version, int(time.time() * 1000))
            print(f"{version} is current")
            return 0
        last = read_announcement(log)
    finally:
        log.close()
    table = Table("version", "items", "dim", "index", "recall@20", "gate", "")
    for name in releases.versions():
        mark = _mark(name, last)
        try:
            info = releases.info(name)
        except BadRelease as error:
            table.add_row(name, "", "", "", "", "", f"{mark} {error}".strip())
            continue
        index = info.index
        figures = (f"{info.items:,}", str(info.dim), str(index.get("kind")), str(index.get("recall20")))
        table.add_row(name, *figures, _outcome(releases.reports, name), mark)
    Console().print(table)
    return 0


def _mark(version: str, last: Announcement | None) -> str:
    """What a release is at present; a canary with its share of the users."""
    if last is not None and last.version == version:
        return "current"
    if last is not None and last.canary is not None and last.canary.version == version:
        return f"canary {last.canary.share:g}"
    return ""


def _outcome(reports: GateReports, version: str) -> str:
    """passed, the names of the checks that refused it, or nothing where no gate has seen it."""
    try:
        report = reports.read(version)
    except ValueError:
        return "unreadable"
    if report is None:
        return ""
    return "passed" if report.passed else "refused: " + ", ".join(report.refused())


def _report(reports: GateReports, version: str) -> dict[str, object] | str | None:
    """The whole report, or why it cannot be read."""
    try:
        report = reports.read(version)
    except ValueError as error:
        return str(error)
    return None if report is None else report.as_json()
