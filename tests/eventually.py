"""Waiting in a test for what real processes bring about by themselves."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx

from stream.log import LogUnavailable, UnknownTopic

NO_ANSWER = (httpx.TransportError, LogUnavailable, UnknownTopic)


def until(
    is_true: Callable[[], bool], within_s: float = 30.0, *, passing: tuple[type[Exception], ...] = NO_ANSWER
) -> None:
    """Returns once it is true, and fails the test if it does not become so in time.

    passing: errors that say no more than that it is not true yet.
    """
    deadline = time.monotonic() + within_s
    while True:
        try:
            if is_true():
                return
        except passing:
            pass
        assert time.monotonic() < deadline, f"it did not come true within {within_s:g} s"
        time.sleep(0.05)
