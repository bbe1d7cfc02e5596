"""The two clients: one blocks, one awaits; what they can do is in `methods`, how often they try in `patience`."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Coroutine
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from ledstream_client.methods import Methods
from ledstream_client.patience import Attempt, NoReply, Outcome, Patience, Pause, Reply, Steps, conversation
from ledstream_client.version import VERSION

T = TypeVar("T")
Self = TypeVar("Self", bound="Talking")


class Talking(Methods):
    """What both have. Raises ValueError for an endpoint that is no address of HTTP."""

    def __init__(self, endpoint: str, write_key: str, admin_key: str, patience: Patience | None) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
            raise ValueError(f"endpoint = {endpoint!r}: must be like https://rec.example.org")
        self._endpoint, self._keys = endpoint.rstrip("/"), {"write": write_key, "admin": admin_key, "none": ""}
        self.patience = patience or Patience()

    def within(self: Self, within_s: float) -> Self:
        """The same client, over the same connections, with another bound on how long a request may take in all."""
        one = copy.copy(self)
        one.patience = replace(self.patience, within_s=within_s)
        return one

    def _request(self, http: httpx.Client | httpx.AsyncClient, attempt: Attempt) -> httpx.Request:
        asked, key = attempt.request, self._keys[attempt.request.key]
        headers = {"accept": "application/json", "user-agent": f"ledstream-client/{VERSION}"}
        content = asked.content()
        headers |= {"x-ledstream-key": key} if key else {}
        headers |= {"content-type": "application/json"} if content is not None else {}
        return http.build_request(
            asked.method, self._endpoint + asked.path, content=content, headers=headers, timeout=attempt.within_s
        )


class Client(Talking):
    """Blocks. Used by any number of threads, which share its connections; close it, or use it in a `with`.

    http: an httpx.Client of your own (certificates, proxies), which stays yours to close.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        write_key: str = "",
        admin_key: str = "",
        patience: Patience | None = None,
        http: httpx.Client | None = None,
    ) -> None:
        super().__init__(endpoint, write_key, admin_key, patience)
        self._is_mine, self._http = http is None, http or httpx.Client()

    def ask(self, steps: Steps[T]) -> T:
        """Carry out a method's steps."""
        talk = conversation(steps, self.patience)
        outcome: Outcome = None
        try:
            while True:
                step = talk.send(outcome)
                outcome = None
                if isinstance(step, Pause):
                    time.sleep(step.s)
                else:
                    outcome = self._attempt(step)
        except StopIteration as end:
            result: T = end.value
            return result

    def close(self) -> None:
        """End its connections."""
        if self._is_mine:
            self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _attempt(self, attempt: Attempt) -> Outcome:
        until_s, body = time.monotonic() + attempt.within_s, bytearray()
        try:
            response = self._http.send(self._request(self._http, attempt), stream=True)
            try:
                for part in response.iter_bytes():
                    body += part
                    if time.monotonic() > until_s:  # httpx bounds the wait for each part, not for all
                        return NoReply(f"no whole answer within {attempt.within_s:g} s")
            finally:
                response.close()
        except httpx.RequestError as error:
            return no_reply(error, attempt)
        return Reply(response.status_code, response.headers, bytes(body))


class AsyncClient(Talking):
    """Awaits, on asyncio. Used by any number of tasks of one loop; close it, or use it in an `async with`.

    http: an httpx.AsyncClient of your own, which stays yours to close.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        write_key: str = "",
        admin_key: str = "",
        patience: Patience | None = None,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        super().__init__(endpoint, write_key, admin_key, patience)
        self._is_mine, self._http = http is None, http or httpx.AsyncClient()

    def ask(self, steps: Steps[T]) -> Coroutine[Any, Any, T]:
        """Carry out a method's steps."""
        return self._ask(steps)

    async def close(self) -> None:
        """End its connections."""
        if self._is_mine:
            await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, steps: Steps[T]) -> T:
        talk = conversation(steps, self.patience)
        outcome: Outcome = None
        try:
            while True:
                step = talk.send(outcome)
                outcome = await (self._attempt(step) if isinstance(step, Attempt) else asyncio.sleep(step.s))
        except StopIteration as end:
            result: T = end.value
            return result

    async def _attempt(self, attempt: Attempt) -> Outcome:
        try:
            response = await asyncio.wait_for(self._http.send(self._request(self._http, attempt)), attempt.within_s)
        except (TimeoutError, asyncio.TimeoutError):
            return NoReply(f"no whole answer within {attempt.within_s:g} s")
        except httpx.RequestError as error:
            return no_reply(error, attempt)
        return Reply(response.status_code, response.headers, response.content)


def no_reply(error: httpx.RequestError, attempt: Attempt) -> NoReply:
    """In words: httpx says nothing of a time that is over."""
    if isinstance(error, httpx.TimeoutException):
        return NoReply(f"{type(error).__name__}: over {attempt.within_s:g} s")
    return NoReply(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
