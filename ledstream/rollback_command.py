"""`ledstream releases rollback`: one announcement, and little imported before it, since somebody is waiting."""

from __future__ import annotations

import time

from ledstream import parts
from ledstream.settings import Settings
from stream.announcements import read_announcement, roll_back


def run(settings: Settings) -> int:
    """Where the release to go back to is gone, nothing is announced."""
    log = parts.open_log(settings)
    try:
        last = read_announcement(log)
        if last is not None and last.canary is None:
            for version in last.before[:1]:
                if not (settings.releases_dir / version).is_dir():
                    parts.releases(settings).info(version)  # says so; to ask it takes half as long again
        print(f"{roll_back(log, int(time.time() * 1000))} is current, and the only one")
    finally:
        log.close()
    return 0
