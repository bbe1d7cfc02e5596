"""A whole system of one's own on the embedded defaults, as a child process with a data directory that goes with it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path

import aiohttp

from ledstream.settings import PREFIX, Settings

READY_WITHIN_S = 60.0
STOPPED_WITHIN_S = 30.0


class SystemFailed(RuntimeError):
    """`ledstream up` or `ledstream train` failed; the message ends with the last lines it wrote."""


class OwnSystem:
    """`ledstream up` with these settings and none from the environment. Started on entering, stopped on leaving."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.address = settings.url(settings.port)
        self.log = settings.data_dir / "up.log"
        self._process: Process | None = None
        self._trainings = 0

    async def __aenter__(self) -> OwnSystem:
        self._process = await self._spawn(self.log, "up")
        try:
            await self._wait_until_ready()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def pid(self) -> int:
        """Of `up`, above all the others."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    async def ended(self) -> SystemFailed:
        """Waits for `up` to end by itself, which it should not, and says how it did."""
        assert self._process is not None
        code = await self._process.wait()
        return SystemFailed(f"`ledstream up` ended with {code}; the end of its output:\n{_tail(self.log)}")

    async def train(self) -> None:
        """Train and publish one release. Raises SystemFailed. Cancelling stops the training."""
        self._trainings += 1
        log = self.settings.data_dir / f"train-{self._trainings}.log"
        process = await self._spawn(log, "train")
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            await _terminate(process)
            raise
        if code != 0:
            raise SystemFailed(f"`ledstream train` ended with {code}; the end of its output:\n{_tail(log)}")

    async def stop(self) -> None:
        """SIGTERM, then wait; SIGKILL to the whole tree when it takes too long. Harmless when not running."""
        process, self._process = self._process, None
        if process is not None:
            await _terminate(process)

    async def _spawn(self, log: Path, command: str) -> Process:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # it trains beside the traffic, on the same cores
        with log.open("ab") as out:
            # A session of its own: Ctrl-C is ours, and the tree is stopped when the traffic has ended.
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "ledstream", command),
                env=environ | self.settings.as_environ(),
                stdin=DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    async def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + READY_WITHIN_S
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0)) as session:
            while not await self._is_ready(session):
                if self._process.returncode is not None:
                    raise await self.ended()
                if time.monotonic() > deadline:
                    tail = _tail(self.log)
                    raise SystemFailed(f"`ledstream up` is not ready after {READY_WITHIN_S:g} s; its output:\n{tail}")
                await asyncio.sleep(0.05)

    async def _is_ready(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(f"{self.address}/readyz") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False  # not listening yet


def free_port(host: str, preferred: int) -> int:
    """The preferred port if nobody listens there, otherwise one that is free now."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SystemFailed(f"no free port on {host}")


async def _terminate(process: Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), STOPPED_WITHIN_S)
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
