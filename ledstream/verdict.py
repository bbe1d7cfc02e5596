"""When a canary's trial is over, and how it ends: from what it has shown and the time, and nothing else."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from math import exp, log
from typing import Any, Literal, NamedTuple

from led.evidence import Pairs, against_errors, against_recall, change_of_recall
from store.tallies import Tallies, Tally
from stream.announcements import Canary

logger = logging.getLogger(__name__)
Action = Literal["wait", "promote", "withdraw"]


@dataclass(frozen=True)
class Rules:
    """What a verdict follows.

    level: chance that a canary is withdrawn by one of the two bets though it is as good as it must be; whenever, and
    however often it is looked at. margin: the relative loss of recall that is borne. events: fewer than these are too
    few to promote on, and the trial goes on, up to `longest` times its length. refused_for_s: how long a server may
    be unable to load it: its folder may arrive after its announcement.
    """

    level: float = 0.01
    margin: float = 0.01
    events: int = 200
    longest: float = 3.0
    refused_for_s: float = 10.0

    def last_ms(self, trial: Canary) -> int:
        """When the trial is over however little it has shown."""
        return trial.since_ms + int(self.longest * (trial.until_ms - trial.since_ms))


@dataclass(frozen=True)
class Evidence:
    """What the judge saw so far, and how far it is in the events. pairs: by group of users."""

    next_offsets: dict[int, int]
    pairs: dict[str, Pairs] = field(default_factory=dict)
    looked_ms: int = 0

    @property
    def all_pairs(self) -> Pairs:
        return Pairs(*map(sum, zip(*self.pairs.values(), strict=True))) if self.pairs else Pairs()

    def to_bytes(self) -> bytes:
        """For `from_bytes`, by another process perhaps."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Evidence:
        """Raises ValueError, KeyError or TypeError for bytes that are none."""
        fields = json.loads(data)
        pairs = {group: Pairs(*counts) for group, counts in fields["pairs"].items()}
        return cls({int(p): int(at) for p, at in fields["next_offsets"].items()}, pairs, int(fields["looked_ms"]))


class Verdict(NamedTuple):
    """What to do, and why in words."""

    action: Action
    reason: str


def verdict(trial: Canary, evidence: Evidence, tally: Tally, now_ms: int, rules: Rules) -> Verdict:
    """Withdraw at once what is refused, fails more often or recalls less; promote what was none of it in its time."""
    against = _against(trial, evidence, tally, now_ms, rules)
    if against is not None:
        return Verdict("withdraw", against)
    if now_ms < trial.until_ms:
        return Verdict("wait", f"{(trial.until_ms - now_ms) / 1000:.0f} s to go")
    pairs = evidence.all_pairs
    if pairs.events >= rules.events:
        return Verdict("promote", f"nothing speaks against it: {recall_in_words(pairs)}")
    few = f"{pairs.events} events, {rules.events} wanted"
    last_ms = rules.last_ms(trial)
    if now_ms < last_ms:
        return Verdict("wait", f"{few}: up to {(last_ms - now_ms) / 1000:.0f} s longer")
    return _on_few(few, pairs, tally, rules)


def _on_few(few: str, pairs: Pairs, tally: Tally, rules: Rules) -> Verdict:
    """By the bare figures: for when there is too little to bet on."""
    if pairs.canary_hits < (1 - rules.margin) * pairs.champion_hits:
        return Verdict("withdraw", f"{few}, and those speak against it: {recall_in_words(pairs)}")
    if _fails_more(tally):
        return Verdict("withdraw", f"{few}, and it fails more often: {errors_in_words(tally)}")
    return Verdict("promote", f"{few}, and none speaks against it: {recall_in_words(pairs)}")


def _against(trial: Canary, evidence: Evidence, tally: Tally, now_ms: int, rules: Rules) -> str | None:
    """Why to withdraw the canary whatever its time; None where nothing says so."""
    pairs, enough = evidence.all_pairs, -log(rules.level)
    if tally.refused and now_ms >= trial.since_ms + 1000 * rules.refused_for_s:
        process, reason = next(iter(tally.refused.items()))
        return f"{len(tally.refused)} processes cannot load it, {process}: {reason}"
    if _against_errors(tally) >= enough:
        return f"it fails more often: {errors_in_words(tally)}"
    if against_recall(pairs, -rules.margin) >= enough:
        return f"it recalls less: {recall_in_words(pairs)}"
    return None


def figures(pairs: Pairs, rules: Rules) -> dict[str, Any]:
    """Recall of both, and the relative change with bounds that hold at any time together with probability .95."""
    low, high = change_of_recall(pairs, 0.025)
    events = max(pairs.events, 1)
    change = pairs.canary_hits / pairs.champion_hits - 1 if pairs.champion_hits else None
    return {
        "events": pairs.events,
        "champion_recall20": round(pairs.champion_hits / events, 4),
        "canary_recall20": round(pairs.canary_hits / events, 4),
        "change": None if change is None else round(change, 4),
        "change_at_least": round(low, 4),
        "change_at_most": round(high, 4) if high < float("inf") else None,
        "chance_of_so_much_against_it": round(min(1.0, exp(-against_recall(pairs, -rules.margin))), 6),
    }


def recall_in_words(pairs: Pairs) -> str:
    """Both recalls on the same events, and how far apart they may be."""
    events = max(pairs.events, 1)
    low, high = change_of_recall(pairs, 0.025)
    return (
        f"recall@20 {pairs.canary_hits / events:.4f}, the champion's {pairs.champion_hits / events:.4f} on the same "
        f"{pairs.events} events, a change of {low:+.1%} to {high:+.1%}"
    )


def errors_in_words(tally: Tally) -> str:
    """Failed calls of both."""
    counts = tally.counts
    return (
        f"{counts['canary:errors']} of {tally.calls('canary')} calls, "
        f"the champion's {counts['champion:errors']} of {tally.calls('champion')}"
    )


def _against_errors(tally: Tally) -> float:
    calls = tally.calls("canary") + tally.calls("champion")
    share = tally.calls("canary") / calls if calls else 0.0
    return against_errors(tally.counts["canary:errors"], tally.counts["champion:errors"], share)


def _fails_more(tally: Tally) -> bool:
    canary = tally.counts["canary:errors"] / max(tally.calls("canary"), 1)
    return canary > tally.counts["champion:errors"] / max(tally.calls("champion"), 1)


def evidence_of(tallies: Tallies, trial: Canary) -> Evidence | None:
    """What judges saw of the trial so far; None where that is nothing readable. Raises StoreUnavailable."""
    kept = tallies.read(trial.trial).evidence
    try:
        return None if kept is None else Evidence.from_bytes(kept)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        logger.warning("what was seen of canary %s cannot be read, and is seen anew: %r", trial.version, error)
        return None
