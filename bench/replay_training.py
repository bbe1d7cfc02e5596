"""The trainings of a replay: an archive of what happened before, and releases for readers of news.

Interest in news lasts hours. Everything here that says how long was chosen on the day before the one replayed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from ledstream import parts
from ledstream.settings import Settings
from store.archive import Archive, ArchiveRow, day_of, read_archive
from stream.announcements import announce
from stream.events import Event
from training.interactions import Selection
from training.spectral import SpectralSettings
from training.train import TrainSettings, train

HISTORY = 1  # stands for the log that the history would have come from
ROWS_PER_FILE = 100_000


class Training(NamedTuple):
    """A release published and announced: from how many archived events, and in what time from start to announcement."""

    version: str
    events: int
    items: int
    seconds: float


class News(NamedTuple):
    """How a release for news is trained: hours of archive, age at which an event counts half, and so on."""

    window_h: float = 48.0
    event_half_life_h: float = 6.0
    popularity_half_life_s: float = 1800.0
    bias: float = 0.8
    interest_half_life_s: float = 3600.0
    dim: int = 64

    def settings(self) -> TrainSettings:
        return TrainSettings(
            selection=Selection(
                {"click": 1.0},
                min_item_users=2,
                window_s=3600 * self.window_h,
                half_life_s=3600 * self.event_half_life_h,
            ),
            spectral=SpectralSettings(dim=self.dim, a=0.4, p=1.0),
            bias=self.bias,
            half_life_s=self.interest_half_life_s,
            popularity_half_life_s=self.popularity_half_life_s,
            grid=None,
        )


def write_history(settings: Settings, events: Iterator[Event]) -> int:
    """Archive files of events in time order, filed under the days they happened on; returns how many events."""
    archive = Archive(settings.archive_dir, HISTORY)
    written = 0
    while some := list(islice(events, ROWS_PER_FILE)):
        for day in sorted({day_of(event.time_ms) for event in some}):
            rows = [
                ArchiveRow(0, written + place, event.time_ms, *event[:6], None)
                for place, event in enumerate(event for event in some if day_of(event.time_ms) == day)
            ]
            archive.write(rows, written, written + len(rows))
            written += len(rows)
    return written


def train_for_news(settings: Settings, news: News, since_day: str) -> Training:
    """`ledstream train` with other settings: archive from since_day on, to a release announced."""
    started = time.monotonic()
    events = read_archive(settings.archive_dir, since_day=since_day)
    model = train(events, news.settings())
    now_ms = int(time.time() * 1000)
    version = parts.releases(settings).publish(model, now_ms=now_ms)
    log = parts.open_log(settings)
    announce(log, version, now_ms)
    log.close()
    return Training(version, len(events), len(model.item_ids), time.monotonic() - started)
