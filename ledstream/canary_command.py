"""`ledstream canary`: a new release tried on a share of the users, until it is promoted or withdrawn.

What only a judge needs, and what a start needs, is imported there: a promotion or a withdrawal should not wait for it.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from typing import Any

from ledstream import parts
from ledstream.process import stop_on_signals
from ledstream.settings import Settings, SettingsError
from ledstream.verdict import Evidence, Rules, errors_in_words, evidence_of, figures, verdict
from store.tallies import Tallies
from stream.announcements import announce, announce_canary, promote, read_announcement, withdraw
from stream.events import DecodeError
from stream.log import Log

logger = logging.getLogger(__name__)
ACTIONS = ("status", "start", "promote", "stop", "judge")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `ledstream canary`; share and length are the settings', unless --share or --for say otherwise."""
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="status")
    parser.add_argument("version", nargs="?", help="which release, for start")
    parser.add_argument("--share", dest="canary_share", help="share of the users, 0 to 1 (LEDSTREAM_CANARY_SHARE)")
    parser.add_argument("--for", dest="canary_s", metavar="S", help="seconds (LEDSTREAM_CANARY_S)")


def run(settings: Settings, action: str, version: str | None) -> int:
    """One of ACTIONS."""
    log = parts.open_log(settings)
    try:
        if action == "judge":
            from ledstream.judge import judge

            judge(settings, log).run(stop_on_signals(settings))
        elif action == "status":
            tallies = Tallies(parts.connect_store(settings), settings.namespace)
            print(json.dumps(status(log, tallies, _now_ms()), indent=2))
        elif action == "start":
            _start(settings, log, version)
        else:
            ended = promote(log, _now_ms()) if action == "promote" else withdraw(log, _now_ms())
            print(f"{ended} is {'current' if action == 'promote' else 'withdrawn'}")
    finally:
        log.close()
    return 0


def introduce(settings: Settings, log: Log, version: str, now_ms: int) -> None:
    """Announce a release that is good enough: on trial where canary_share asks for it, as the current one otherwise.

    The first release is current at once: there is nothing to compare it with. A trial under way is not disturbed, or
    a training shorter than a trial would end them all: the newcomer is left in its folder. One that nobody judged
    long after its time makes room. Raises LogUnavailable.
    """
    try:
        last = read_announcement(log)
    except DecodeError:
        last = None  # which the announcement puts right
    if not settings.canary_share or last is None or last.version == version:
        announce(log, version, now_ms)
        return
    if last.canary is not None and now_ms < Rules().last_ms(last.canary) + 1000 * settings.canary_s:
        logger.warning(
            "release %s is not announced: %s is on trial; `ledstream canary start %s` ends that and tries this one",
            version, last.canary.version, version,
        )  # fmt: skip
        return
    announce_canary(log, version, settings.canary_share, now_ms, settings.canary_s)
    logger.info("release %s is on trial with %g of the users", version, settings.canary_share)


def status(log: Log, tallies: Tallies, now_ms: int) -> dict[str, Any]:
    """What is current and on trial, what the trial has shown, and what follows from it by now. Must be JSON."""
    last = read_announcement(log)
    said: dict[str, Any] = {"current": None, "canary": None}
    if last is None:
        return said
    said |= {"current": last.version, "rollback_to": last.before[0] if last.before else None}
    if last.canary is None:
        return said
    trial, rules = last.canary, Rules()
    tally, evidence = tallies.read(trial.trial), evidence_of(tallies, trial) or Evidence({})
    action, reason = verdict(trial, evidence, tally, now_ms, rules)
    judged_s = (now_ms - evidence.looked_ms) / 1000 if evidence.looked_ms else None
    return said | {
        "rollback_to": last.version,
        "canary": {**trial._asdict(), "verdict": action, "reason": reason, "judged_s_ago": judged_s},
        "recall": {"all": figures(evidence.all_pairs, rules)}
        | {f"{group}_group": figures(pairs, rules) for group, pairs in evidence.pairs.items()},
        "errors": errors_in_words(tally),
        "refused": dict(tally.refused),
    }


def _start(settings: Settings, log: Log, version: str | None) -> None:
    if version is None:
        raise SettingsError("canary start needs a version")
    if not settings.canary_share:
        raise SettingsError("canary start needs a share of the users: --share 0.05, or LEDSTREAM_CANARY_SHARE")
    releases = parts.releases(settings)
    releases.load(version)
    if refusal := releases.reports.refusal(version):
        from store.releases import BadRelease

        raise BadRelease(refusal, "gate")
    trial = announce_canary(log, version, settings.canary_share, _now_ms(), settings.canary_s)
    print(f"{version} is on trial with {trial.share:g} of the users for {settings.canary_s:g} s")
    print(
        "judged where `ledstream train --every` or `ledstream canary judge` runs; `ledstream canary` shows how it goes"
    )


def _now_ms() -> int:
    return int(time.time() * 1000)
