"""Records looked up from inside an event loop: nobody there waits for the store, and one that is away costs little."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from store.connection import Client, Line, StoreUnavailable

logger = logging.getLogger(__name__)
TIMEOUT_S, PAUSE_S = 0.25, 1.0
Found = list[bytes] | StoreUnavailable


class _Asked(NamedTuple):
    answer: Callable[[Found], None]
    by: float  # of the loop's clock


class Lookups:
    """One connection, used by one event loop.

    A store that does not answer within timeout_s, or not well, is left alone for pause_s: until it is found again,
    whoever asks hears so at once. command: what the keys are asked by.
    """

    def __init__(
        self,
        client: Client,
        *,
        command: Sequence[bytes] = (b"MGET",),
        timeout_s: float = TIMEOUT_S,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._client, self._command, self._timeout_s, self._pause_s = client, command, timeout_s, pause_s
        self._line: Line | None = None
        self._asked: deque[_Asked] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._connecting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect, if the store is there. Called once, inside the loop that will ask."""
        self._loop = asyncio.get_running_loop()
        self._connecting = self._loop.create_task(self._connect(pause_s=0.0))
        await asyncio.wait([self._connecting], timeout=self._timeout_s * 4)

    def ask(self, keys: Sequence[bytes], answer: Callable[[Found], None]) -> None:
        """Have `answer` called, later, with what is stored at the keys, b"" where nothing is; or with the error."""
        if self._line is None:
            self._loop.call_soon(answer, StoreUnavailable("the store did not answer a moment ago"))
            return
        self._asked.append(_Asked(answer, self._loop.time() + self._timeout_s))
        try:
            self._line.send((*self._command, *keys))
        except StoreUnavailable as error:
            self._loop.call_soon(self._lose, error)
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._check)

    def stop(self) -> None:
        """Let go of the connection; who still waits hears that it is away."""
        if self._connecting is not None:
            self._connecting.cancel()
        self._let_go(StoreUnavailable("stopped"))

    async def _connect(self, pause_s: float) -> None:
        while self._line is None:
            await asyncio.sleep(pause_s)
            pause_s = self._pause_s
            try:
                line = await asyncio.to_thread(Line, self._client)
            except StoreUnavailable as error:
                logger.info("the store is away: %s", error)
            except Exception as error:  # whatever it is may pass, and nobody else would look for the store again
                logger.warning("no connection to the store: %r", error)
            else:
                self._line = line
                self._loop.add_reader(line.fileno(), self._read)

    def _read(self) -> None:
        if self._line is None:
            return
        try:
            answers = self._line.received()
        except StoreUnavailable as error:
            self._lose(error)
            return
        for found in answers:
            _tell(self._asked.popleft(), [data or b"" for data in found])

    def _check(self) -> None:
        self._timer = None
        if not self._asked:
            return
        left_s = self._asked[0].by - self._loop.time()
        if left_s <= 0:
            self._lose(StoreUnavailable(f"no answer within {self._timeout_s} s"))
        else:
            self._timer = self._loop.call_later(left_s, self._check)

    def _lose(self, error: StoreUnavailable) -> None:
        if self._line is not None:
            logger.warning("answering without the store: %s", error)
            self._let_go(error)
            self._connecting = self._loop.create_task(self._connect(self._pause_s))

    def _let_go(self, error: StoreUnavailable) -> None:
        line, self._line = self._line, None
        if line is not None:
            self._loop.remove_reader(line.fileno())
            line.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._asked = self._asked, deque()
        for asked in waiting:
            _tell(asked, error)


def _tell(asked: _Asked, found: Found) -> None:
    """One who fails with an answer must not make the next answer that of somebody else."""
    try:
        asked.answer(found)
    except Exception:
        logger.exception("what was looked up was not taken")
