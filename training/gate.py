"""The gate: a published release is judged before it is announced, by itself and against the champion, the current one.

Every check has a name, a figure and a bound, and a refusal says which of them it was. Quality is compared on events
that neither was trained on (`training/survey.py`), with both answering the same questions (`training/last_hour.py`), so
that what is judged is the difference. The candidate does know what other users did in that hour, as it will when it
serves. Where nothing was held out, it is the archive's last hour, which the candidate was trained on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from led.encoder import F32, F64, I64, Bool
from led.ranking import with_one
from store.gate_reports import Check, GateReport, check
from store.item_index import TIE
from store.releases import BadRelease, Release, Releases, UnknownRelease
from training.last_hour import Questions, ask, first_of_each_user, rank, vectors
from training.survey import HELD_OUT_AFTER_MS

ArchivedEvents = pa.Table
COLUMNS = ("partition", "offset", "appended_ms", "user_id", "item_id", "kind", "time_ms")  # what is read of an archive
logger = logging.getLogger(__name__)
K = 20
FEWEST_QUESTIONS, FEWEST_USERS = 100, 20  # of fewer nothing is concluded
SAMPLE_USERS, SAMPLE_ITEMS, ROWS_AT_ONCE = 256, 1000, 1 << 13
MOST_LOSS = 0.01
SURE = 2.33  # standard errors: one honest release in a hundred that is just MOST_LOSS worse is refused by chance
INDEX_RECALL = 0.90  # the build reaches .95 on users of its training data
BIAS_TO_SCORES = 1e4  # float32 has seven digits: above, nothing personal is left of a score
KNOWN_ITEMS, KNOWN_TO_CHAMPION = 0.5, 0.9
# On news, where a few articles are what everybody reads, honest lists differ in 2 to 6 % of the places only.
VARIETY, VARIETY_TO_CHAMPION = 0.01, 0.25
CLOCKS_MS = 3_600_000  # an erasure, or a clock that was put right, takes away the newest events


@dataclass(frozen=True)
class GateSettings:
    """dim: the largest dimension wanted; less comes of data with fewer directions. timeline_events: kept for a user.

    max_lag_s: how long before the newest event a release's data may end.
    """

    dim: int
    timeline_events: int = 50
    max_lag_s: float = 86400.0


class Archived(NamedTuple):
    """Events as `read_archive` gives them, at least those of the users to ask about; and which of them the release was
    not trained on, (n,), None where it was trained on all.
    """

    events: ArchivedEvents
    held_out: Bool | None = None


def examine(
    releases: Releases,
    version: str,
    champion: str | None,
    archived: Archived,
    settings: GateSettings,
    *,
    now_ms: int,
) -> GateReport:
    """The report on a published release, kept beside it. Raises UnknownRelease.

    champion: the current version; one that cannot be loaded is none.
    """
    started = time.monotonic()
    current = _load_champion(releases, champion)
    checks = list(_checks(releases, version, current, archived, settings))
    took_ms = round(1000 * (time.monotonic() - started))
    report = GateReport(version, current.version if current else None, checks, now_ms, took_ms)
    releases.reports.keep(report)
    return report


def _checks(
    releases: Releases, version: str, champion: Release | None, archived: Archived, settings: GateSettings
) -> Iterator[Check]:
    """In this order; nothing is measured on a release that does not hold together."""
    try:
        release = releases.load(version)
    except BadRelease as error:
        yield check(error.check, False, str(error).removeprefix(f"release {version}: "))
        return
    yield check("files", True, "format, checksums and shapes are as described")
    sound = releases.soundness(release)
    yield from sound
    if any(found.outcome == "refused" for found in sound):
        return
    yield _dimension(release, champion, settings)
    yield from _age(release, champion, archived.events, settings)
    questions = ask(archived.events, _counting_kinds(release), settings.timeline_events, archived.held_out)
    asking = first_of_each_user(questions, SAMPLE_USERS)
    users = _vectors_to_try(release, asking)
    yield _biases(release, users)
    yield _index_recall(release, users)
    yield _variety(release, champion, asking)
    yield _known_items(release, champion, questions)
    yield _replay(release, champion, questions)


def _dimension(release: Release, champion: Release | None, settings: GateSettings) -> Check:
    """The wanted one; or less, where the data has fewer directions, but not less than half of what it had."""
    least = min(settings.dim, champion.dim // 2) if champion else 1
    than = f", champion {champion.dim}" if champion else ""
    says = f"dimension {release.dim}{than}, {least} to {settings.dim} allowed (LEDSTREAM_DIM = {settings.dim})"
    bound = settings.dim if release.dim > settings.dim else least
    return check("dimension", least <= release.dim <= settings.dim, says, release.dim, bound)


def _age(release: Release, champion: Release | None, events: ArchivedEvents, settings: GateSettings) -> Iterator[Check]:
    if champion:
        later_s = (release.info.created_ms - champion.info.created_ms) / 1000
        than = "after" if later_s >= 0 else "before"
        says = f"made {_span(abs(later_s))} {than} the champion, which must be the older one"
        yield check("made", later_s >= 0, says, later_s, 0)
    ends_ms, newest_ms = _data_end(release), _newest(events, _counting_kinds(release))
    if ends_ms is None or newest_ms is None:
        what = "the release does not say what its data ends with" if ends_ms is None else "0 events"
        yield Check("data", "not judged", f"not judged: {what}")
        return
    behind_s = max(0.0, (newest_ms - ends_ms) / 1000)
    says = f"its data ends {_span(behind_s)} before the newest event, at most {_span(settings.max_lag_s)} allowed"
    yield check("data", behind_s <= settings.max_lag_s, says, behind_s, settings.max_lag_s)
    before_ms = _data_end(champion) if champion else None
    if before_ms is not None:
        behind_s = max(0.0, (before_ms - ends_ms) / 1000)
        says = f"its data ends {_span(behind_s)} before the champion's, at most {_span(CLOCKS_MS / 1000)} allowed"
        yield check("data of the champion", behind_s <= CLOCKS_MS / 1000, says, behind_s, CLOCKS_MS / 1000)


def _biases(release: Release, users: F32) -> Check:
    rows = np.linspace(0, release.items - 1, min(release.items, SAMPLE_ITEMS)).astype(np.int64)
    spread = float(release.biases.max()) - float(release.biases.min())
    scores = float((users @ release.output_embeddings[rows].T).std(axis=1).mean())
    ratio = spread / max(scores, 1e-30)
    says = f"biases spread {ratio:,.1f} times as wide as a user's scores, at most {BIAS_TO_SCORES:,.0f} allowed"
    return check("biases", ratio <= BIAS_TO_SCORES, says, ratio, BIAS_TO_SCORES)


def _index_recall(release: Release, users: F32) -> Check:
    """By score and not by row: items of equal score may stand for each other."""
    k = min(K, release.items)
    found = release.index.search(with_one(users), k)
    best = _best_scores(release, users, k)
    least = best.min(axis=1) - TIE * np.abs(best).max(axis=1)
    owners = np.repeat(np.arange(len(users)), k)
    scores = np.einsum("nd,nd->n", users[owners], release.output_embeddings[found.ravel()])
    scores = (scores + release.biases[found.ravel()]).reshape(found.shape)
    recall = float(np.mean((found >= 0) & (scores >= least[:, None])))
    says = f"recall@{k} of the index {recall:.3f} against exact search, at least {INDEX_RECALL} needed"
    return check("index recall", recall >= INDEX_RECALL, f"{says}, {len(users):,} users", recall, INDEX_RECALL)


def _variety(release: Release, champion: Release | None, asking: Questions) -> Check:
    """How different users' lists are, seen items among them: 0 where everybody gets the same, as by popularity.

    With a champion it alone is the measure: somebody wanted it as it is.
    """
    k = min(K, release.items // 10)
    if len(asking) < FEWEST_USERS or k < 2:
        return Check("variety", "not judged", f"not judged: {len(asking)} users, {release.items:,} items")
    found = _difference(release, asking, k)
    least, than = VARIETY, ""
    if champion:
        before = _difference(champion, asking, min(k, champion.items))
        least, than = VARIETY_TO_CHAMPION * before, f", champion {_share(before)}"
    says = f"two users' best {k} differ in {_share(found)} of the places{than}, at least {_share(least)} needed"
    return check("variety", found >= least, f"{says}, {len(asking):,} users", found, least)


def _known_items(release: Release, champion: Release | None, questions: Questions) -> Check:
    name, when = "known items", questions.drawn_from
    if len(questions) < FEWEST_QUESTIONS:
        return _too_few(name, questions)
    found = float(np.mean(release.rows(questions.targets) >= 0))
    before = float(np.mean(champion.rows(questions.targets) >= 0)) if champion else 0.0
    least = max(KNOWN_ITEMS, KNOWN_TO_CHAMPION * before)
    than = f", champion {_share(before)}" if champion else ""
    says = f"{_share(found)} of the events of {when} are on items it knows{than}, at least {_share(least)} needed"
    return check(name, found >= least, f"{says}, {len(questions):,} events", found, least)


def _replay(release: Release, champion: Release | None, questions: Questions) -> Check:
    """Refused where the loss is more than MOST_LOSS and chance is no explanation.

    Of each question the difference is taken, so that what is hard for both cancels; and the standard error is that of
    sums over users, whose questions are alike.
    """
    name, when = "replay", questions.drawn_from
    if len(questions) < FEWEST_QUESTIONS or len(np.unique(questions.users)) < FEWEST_USERS:
        return _too_few(name, questions)
    found = _hits(release, questions)
    says = f"recall@{K} on {when} {found.mean():.3f}"
    if champion is None:
        return Check(
            name, "not judged", f"not judged: {says}, but no champion, {len(found):,} events", float(found.mean())
        )
    before = _hits(champion, questions)
    wanted = (1 - MOST_LOSS) * before
    unsure = SURE * _standard_error(found - wanted, questions.users)
    change = found.mean() / before.mean() - 1 if before.any() else 0.0
    says = f"{says}, champion {before.mean():.3f} ({_percent(change)}, at most {_percent(-MOST_LOSS)} allowed)"
    least = float(wanted.mean() - unsure)
    return check(name, found.mean() >= least, f"{says}, {len(found):,} events", float(found.mean()), least)


def _hits(release: Release, questions: Questions) -> F64:
    """1 for a question whose item was among the best K, 0 otherwise."""
    targets = release.rows(questions.targets)
    shown = rank(release, questions, K)
    return np.asarray(((shown == targets[:, None]) & (targets >= 0)[:, None]).any(axis=1), dtype=np.float64)


def _standard_error(differences: F64, users: I64) -> float:
    """Of the mean of the differences, those of one user counting as one observation."""
    owner = np.unique(users, return_inverse=True)[1]
    sums = np.bincount(owner, differences - differences.mean())
    return float(np.sqrt(np.square(sums).sum()) / len(differences))


def _difference(release: Release, asking: Questions, k: int) -> float:
    """Share of places in which the best k of two users differ, on average over all pairs."""
    found = release.index.search(with_one(vectors(release, asking)), k)
    users = len(found)
    shared = np.bincount(found[found >= 0], minlength=1).astype(np.float64)
    return float(1 - (shared * (shared - 1)).sum() / (k * users * (users - 1)))


def _best_scores(release: Release, users: F32, k: int) -> F32:
    """The k best exact scores of each user, (users, k), in no order."""
    best = np.full((len(users), k), -np.inf, np.float32)
    for start in range(0, release.items, ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        scores = users @ release.output_embeddings[part].T + release.biases[part]
        together = np.hstack([best, scores])
        best = np.partition(together, together.shape[1] - k, axis=1)[:, -k:]
    return best


def _vectors_to_try(release: Release, asking: Questions) -> F32:
    """Users of the last hour who have a vector; users of one item each where there are none."""
    users = vectors(release, asking)
    users = users[users.any(axis=1)]
    if len(users):
        return users
    rows = np.linspace(0, release.items - 1, min(release.items, SAMPLE_USERS)).astype(np.int64)
    return np.asarray(release.input_embeddings[rows])


def _load_champion(releases: Releases, version: str | None) -> Release | None:
    if version is None:
        return None
    try:
        return releases.load(version)
    except (BadRelease, UnknownRelease) as error:
        logger.warning("nothing to compare with: %s", error)
        return None


def _counting_kinds(release: Release) -> list[str]:
    return [kind for kind, weight in release.info.kind_weights.items() if weight > 0]


def learnt_until_ms(release: Release) -> int:
    """Up to when a release may have learnt from the users who are asked: to where they were held out of it, or all."""
    held_out_after_ms = release.info.about.get(HELD_OUT_AFTER_MS)
    return held_out_after_ms if isinstance(held_out_after_ms, int) else _data_end(release) or 0


def _data_end(release: Release) -> int | None:
    end = release.info.about.get("to_ms")
    return end if isinstance(end, int) else None


def _newest(events: ArchivedEvents, kinds: list[str]) -> int | None:
    counting = events.filter(pc.field("kind").isin(kinds))
    newest: int | None = pc.max(counting["time_ms"]).as_py()
    return newest


def _too_few(name: str, questions: Questions) -> Check:
    counts = f"{questions.events:,} events, {len(questions):,} of them foreseeable"
    return Check(name, "not judged", f"not judged: {counts}, at least {FEWEST_QUESTIONS} needed")


def _share(part: float) -> str:
    return f"{100 * part:.1f} %"


def _percent(share: float) -> str:
    return f"{100 * share:+.0f} %" if abs(share) >= 0.1 or share == -MOST_LOSS else f"{100 * share:+.1f} %"


def _span(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.1f} s"
