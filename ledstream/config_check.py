"""Whether a file of `ledstream train --config` can be trained by, asked by those who start trainings later."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from ledstream.settings import Settings


def check_config(settings: Settings) -> None:
    """Raises SettingsError where the file settings.config is missing or says what it should not; nothing without one.

    In a process of its own: what reads the file loads SciPy and maybe torch, and who asks runs for weeks.
    """
    if settings.config:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            process.submit(_read, settings).result()


def _read(settings: Settings) -> None:
    from ledstream.train_command import train_settings
    from ledstream.train_config import configured

    configured(settings, train_settings(settings))
