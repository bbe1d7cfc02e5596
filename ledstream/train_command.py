"""`ledstream train`: archive to release, judged and announced."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from consumers.archive import archive_row
from ledstream import parts
from ledstream.canary_command import introduce
from ledstream.limits import available_mb
from ledstream.locks import Held, held_file
from ledstream.process import stop_with_supervisor
from ledstream.settings import Settings, SettingsError
from ledstream.train_config import ConfigFile, configured
from store.archive import Archive, ArchiveRow, archive_batches
from store.erased_archive import without_erased
from store.releases import BadRelease, Model, Release, Releases, UnknownRelease
from stream.announcements import Announcement, read_announcement
from stream.events import ERASE, DecodeError, decode_event
from stream.log import Log
from stream.topics import EVENTS
from training.alignment import aligned
from training.batch_memory import of_recipe, of_sessions
from training.denoised import DenoisedSettings
from training.gate import COLUMNS, Archived, GateSettings, examine, learnt_until_ms
from training.interactions import Selection
from training.joined import JoinedSettings
from training.learning import counting_kinds, learn_from_disk, learn_in_memory
from training.memory import MIB, TooLittleMemory, needed, needed_by_file
from training.narrow import NarrowSettings
from training.progress import Progress, progress_bars
from training.spectral import SpectralSettings
from training.streamed import Batches
from training.struck import struck_places, without_struck
from training.survey import HELD_OUT_AFTER_MS, NONE, Survey, survey
from training.train import Grid, TrainSettings

logger = logging.getLogger(__name__)
READ_AT_ONCE = 5000


def train_settings(settings: Settings) -> TrainSettings:
    """How a release is trained under these settings."""
    return TrainSettings(
        selection=Selection(dict(settings.kinds), half_life_s=settings.train_half_life_s or None),
        spectral=SpectralSettings(dim=settings.dim),
        bias=settings.popularity_bias,
        half_life_s=settings.half_life_s or None,
        head_weights=settings.head_weights,
        popularity_half_life_s=settings.popularity_half_life_s or None,
        grid=replace(Grid(), bias=tuple(sorted({*Grid.bias, settings.popularity_bias}))) if settings.tune else None,
    )


def gate_settings(settings: Settings) -> GateSettings:
    """What a release must be like to go live under these settings."""
    return GateSettings(settings.dim, settings.timeline_events, settings.max_release_lag_s)


def train_once(settings: Settings, log: Log, now_ms: int) -> str:
    """Train on the archive and what the log holds beyond it, publish, examine, announce; returns the version.

    What is there twice, because it was filed meanwhile, counts once: a user's events on one item are one cell.

    Raises SettingsError, TooFewEvents, TooLittleMemory, BadRelease (also where the gate refuses it) or LowRecall, and
    then the current release stays.
    """
    started = time.monotonic()
    settings, trainer = configured(settings, train_settings(settings))
    with progress_bars() as progress:
        progress("surveying the archive", 0, 1)
        batches = _batches(settings, log, now_ms)
        releases = parts.releases(settings)
        before = _before(releases, log)
        known_ms = learnt_until_ms(before) if before else 0
        found = survey(batches(), counting_kinds(train_settings(settings)), learnt_until_ms=known_ms)
        progress("surveying the archive", 1, 1)
        if settings.config:
            fits_by_file(settings, found)
            model, archived = learn_in_memory(batches, train_settings(settings), found, progress, trainer=trainer)
        else:
            model, archived = _learn(settings, batches, found, progress, before)
        after_ms = None if found.held_out_after_ms == NONE else found.held_out_after_ms
        model = replace(model, about={**model.about, HELD_OUT_AFTER_MS: after_ms})
        if before is not None:
            model = aligned(model, before)
            logger.info("alignment: %s", model.about["alignment"])
        progress("building the index", 0, 1)
        version = releases.publish(model, now_ms=now_ms)
        progress("building the index", 1, 1)
    go_live(settings, log, version, archived, now_ms)
    took_s = time.monotonic() - started
    logger.info("release %s: %d items from %d events in %.1f s", version, len(model.item_ids), found.events, took_s)
    return version


def fits_in_memory(settings: Settings, found: Survey) -> bool:
    """Whether the training may hold everything in memory, or must work from disk. Raises TooLittleMemory."""
    needs = needed(found, train_settings(settings).spectral)
    takes = f"about {needs.in_memory / MIB:,.0f} MiB in memory, {needs.from_disk / MIB:,.0f} MiB from disk"
    limit_mb = _limit_mb(settings, found, takes)
    if min(needs) > limit_mb * MIB:
        what = "raise it, or lower LEDSTREAM_DIM or LEDSTREAM_TRAIN_DAYS"
        raise TooLittleMemory(_too_little(settings, found, limit_mb, f"{takes}: {what}"))
    return needs.in_memory <= limit_mb * MIB


def fits_by_file(settings: Settings, found: Survey) -> None:
    """Raises TooLittleMemory where training by the file settings.config takes more than may be taken."""
    needs = foretold(settings, found)
    takes = f"about {needs / MIB:,.0f} MiB in memory"
    limit_mb = _limit_mb(settings, found, takes)
    if needs > limit_mb * MIB:
        what = f"training by {settings.config} does not work from disk: raise it, or lower"
        what += " dim, the batch, max_bytes of pmi or LEDSTREAM_TRAIN_DAYS"
        raise TooLittleMemory(_too_little(settings, found, limit_mb, f"{takes}, and {what}"))


def foretold(settings: Settings, found: Survey) -> float:
    """Bytes at most of training by the file settings.config."""
    general, file = train_settings(settings), ConfigFile.read(Path(settings.config))
    if "sessions" in file.tables:
        at_once = of_sessions(found, file.sessions(general))
    else:
        at_once = of_recipe(found, file.recipe(general))
    spectral, learnt_tables = gradients(settings, general)
    return needed_by_file(found, spectral, learnt_tables=learnt_tables, at_once=at_once)


def gradients(settings: Settings, general: TrainSettings) -> tuple[SpectralSettings, int]:
    """Of the file settings.config: the widest decomposition, and how many tables gradients change."""
    file = ConfigFile.read(Path(settings.config))
    if "sessions" in file.tables:
        return replace(general.spectral, oversample=0), 1
    recipe = file.recipe(general)
    begin, stage = recipe.begin, recipe.finetuning
    spectral = recipe.general.spectral if begin is None else replace(general.spectral, dim=recipe.dim)
    if isinstance(begin, NarrowSettings):
        spectral = replace(spectral, dim=begin.wide, oversample=begin.oversample)
    elif isinstance(begin, DenoisedSettings | JoinedSettings):
        spectral = replace(spectral, oversample=begin.oversample)
    if stage is None:
        return spectral, int(isinstance(begin, JoinedSettings))
    return spectral, 1 if stage.settings.tied else 2


def _limit_mb(settings: Settings, found: Survey, takes: str) -> float:
    """What a training may take, MiB; told beside what it takes."""
    limit_mb = settings.train_memory_mb or available_mb()
    logger.info("training on %s: %s; %s", _size(settings, found), takes, _limit(settings, limit_mb))
    return limit_mb


def _too_little(settings: Settings, found: Survey, limit_mb: float, takes: str) -> str:
    given = f"LEDSTREAM_TRAIN_MEMORY_MB = {settings.train_memory_mb}"
    return f"{given} ({_limit(settings, limit_mb)}): {_size(settings, found)} take {takes}"


def _size(settings: Settings, found: Survey) -> str:
    return f"{found.events:,} events of {found.users:,} users on {found.items:,} items at dimension {settings.dim}"


def _limit(settings: Settings, limit_mb: float) -> str:
    return f"{limit_mb:,.0f} MiB {'allowed' if settings.train_memory_mb else 'free'}"


def _batches(settings: Settings, log: Log, now_ms: int) -> Batches:
    """The archive of the days to train on, and what the log holds beyond it now, without erased users and struck
    events.
    """
    since = datetime.fromtimestamp(now_ms / 1000, UTC) - timedelta(days=settings.train_days)
    newest = list(not_archived(parts.archive(settings, log), log))
    read = partial(archive_batches, settings.archive_dir, since_day=f"{since:%Y-%m-%d}", beyond=newest)
    tombstones = parts.tombstones(settings)  # as of now, for every reading
    struck = struck_places(read)
    return lambda: (without_erased(without_struck(events, struck), tombstones, erase=ERASE) for events in read(COLUMNS))


def _learn(
    settings: Settings, batches: Batches, found: Survey, progress: Progress, before: Release | None
) -> tuple[Model, Archived]:
    """The model, and the events that the gate is to ask about."""
    wanted = train_settings(settings)
    if fits_in_memory(settings, found):
        return learn_in_memory(batches, wanted, found, progress)
    with TemporaryDirectory(prefix="training-", dir=settings.data_dir) as folder:
        return learn_from_disk(batches, wanted, found, progress, folder=Path(folder), before=before)


def _before(releases: Releases, log: Log) -> Release | None:
    """The current release, if there is one that loads."""
    in_use = _in_use(log)
    if in_use is None:
        return None
    try:
        return releases.load(in_use.version, with_index=False)
    except (BadRelease, UnknownRelease) as error:
        logger.warning("trained without the release before: %s", error)
        return None


def go_live(settings: Settings, log: Log, version: str, archived: Archived, now_ms: int) -> None:
    """Announce a published release if it passes the gate; then delete old ones. archived: what to ask about.

    Raises BadRelease with the gate's refusal, and then the current release stays.
    """
    releases, in_use = parts.releases(settings), _in_use(log)
    current = in_use.version if in_use else None
    report = examine(releases, version, current, archived, gate_settings(settings), now_ms=now_ms)
    for line in report.lines():
        logger.info("%s", line)
    if report.passed:
        introduce(settings, log, version, now_ms)
    in_use = _in_use(log)
    for old in releases.prune(settings.keep_releases, now_ms, spared=in_use.in_use if in_use else ()):
        logger.info("release %s deleted: %d newer ones are kept", old, settings.keep_releases)
    if not report.passed:
        raise BadRelease(report.refusal(), "gate")


def _in_use(log: Log) -> Announcement | None:
    """What is announced; nothing where that cannot be read, which the next announcement heals."""
    try:
        return read_announcement(log)
    except DecodeError as error:
        logger.warning("no current release: %s", error)
        return None


def not_archived(archive: Archive, log: Log) -> Iterator[ArchiveRow]:
    """What the log holds beyond the files: the newest events, and the newest erasures."""
    for partition, start in log.start_offsets(EVENTS).items():
        offset = max(archive.next_offset(partition) or 0, start)
        while records := log.read(EVENTS, partition, offset, READ_AT_ONCE):
            for record in records:
                with suppress(DecodeError):  # a dead letter already, or soon
                    yield archive_row(partition, record.offset, record.time_ms, decode_event(record.value))
            offset = records[-1].offset + 1


def run_once(settings: Settings) -> str:
    """`ledstream train`. Raises SettingsError where another training runs on the data directory, and as train_once."""
    stop_with_supervisor(settings, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with only_training(settings), closing(parts.open_log(settings)) as log:
        return train_once(settings, log, int(time.time() * 1000))


@contextmanager
def only_training(settings: Settings) -> Iterator[None]:
    """Hold the data directory's training. Two at once would each take the memory that it foretold for itself alone.

    Raises SettingsError where another training runs on it.
    """
    where = f"LEDSTREAM_DATA_DIR = {settings.data_dir}"
    with ExitStack() as stack:
        try:
            settings.data_dir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held_file(settings.data_dir / "training.lock"))
        except Held as other:
            raise SettingsError(f"{where}: another training runs here ({other})") from None
        except OSError as error:
            raise SettingsError(f"{where}: {error.strerror}") from None
        yield
