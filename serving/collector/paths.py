"""What pages ask of the server, with keys and origins looked at first; all else goes where it always went.

Described in the OpenAPI page by `serving/collector/described.py`. Whatever changes something and is not named here
needs the admin key, so that an endpoint that is added later is not open by oversight.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import orjson

from serving.bodies import Disconnected, Receive
from serving.collector.asked import Asked
from serving.collector.bots import is_bot
from serving.collector.identity import Identities, read_merge
from serving.collector.origins import Headers, Origins
from serving.collector.pixel import GIF, read_pixel
from serving.collector.post import LINES, Post, Sender, read_json, read_post
from serving.collector.rates import TooMany
from serving.collector.sites import Sites
from serving.hot import EVENTS, EXPLAIN, JSON, RECOMMENDATIONS, Application, Hot, HotPaths, Reply, Scope, Send, refusal
from serving.metrics import Metrics
from serving.posts import Posts, Verdicts
from serving.questions import read_query
from serving.refusals import Refused

logger = logging.getLogger(__name__)
IDENTIFY, PIXEL, SLOT, SCRIPT = "/v1/identify", "/v1/pixel.gif", "/v1/slot", "/ledstream.js"
BATCH = f"{RECOMMENDATIONS}/batch"
ABOUT_USERS, ABOUT_NOBODY = ("/v1/users/", "/v1/console/"), ("/v1/console/live", "/v1/console/trainings")
NO_STORE: Headers = [(b"cache-control", b"no-store")]
Found = tuple[Reply, Headers]


@dataclass(frozen=True)
class Door:
    """Who may come in. refuses_bots: events of programs that name themselves so are rejected."""

    sites: Sites = Sites()  # noqa: RUF009  frozen
    origins: Origins = Origins()  # noqa: RUF009
    refuses_bots: bool = True


class Intake(NamedTuple):
    """What is done with what comes in."""

    posts: Posts
    identities: Identities


class Collector(HotPaths):
    """The whole application. hot, metrics, others: of `HotPaths`."""

    def __init__(self, hot: Hot, metrics: Metrics, others: Application, intake: Intake, door: Door) -> None:
        super().__init__(hot, metrics, others)
        self._told, self._intake, self._door = metrics, intake, door
        script = Path(__file__).with_name("ledstream.js").read_bytes()
        self._script, self._script_tag = script, b'"%b"' % hashlib.sha256(script).hexdigest()[:16].encode()
        self._answers: dict[tuple[str, str], Callable[[Asked, Receive], Awaitable[Found]]] = {
            ("POST", EVENTS): self._events,
            ("POST", IDENTIFY): self._identify,
            ("GET", PIXEL): self._pixel,
            ("GET", SLOT): self._slot,
            ("GET", SCRIPT): self._tracker,
        }
        self._browsed = {path for _, path in self._answers}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (_is_hot(scope) and EXPLAIN not in scope["query_string"]):
            return await super().__call__(scope, receive, send)
        asked = Asked.of(scope)
        answer = self._answers.get((asked.method, asked.path))
        if asked.method == "OPTIONS" and asked.path in self._browsed:
            answer = self._preflight
        try:
            if answer is None:
                self._check_admin(asked)
                _check_segments(scope)
                return await super().__call__(scope, receive, send)
            reply, more = await answer(asked, receive)
        except Disconnected:
            return None
        except Exception as error:  # the border of the process: `refusal` tells what is a mistake of ours
            reply, more = refusal(asked.path, error), _when_to_come_back(error)
        self._told.request(asked.path if answer else "other", reply.status).inc()
        headers = [*reply.headers(), *self._door.origins.headers(asked), *more]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})
        return None

    def _check_admin(self, asked: Asked) -> None:
        """Reading what users did is for those who may change it."""
        if asked.method in ("GET", "HEAD", "OPTIONS"):
            tells = asked.path.startswith(ABOUT_USERS) and asked.path not in ABOUT_NOBODY
            if not tells and not (asked.path == RECOMMENDATIONS and EXPLAIN in asked.query):
                return
        elif asked.path in (RECOMMENDATIONS, BATCH):
            return
        self._door.sites.check_admin(asked.key, is_from_elsewhere=asked.is_from_elsewhere)

    async def _preflight(self, asked: Asked, _: Receive) -> Found:
        return Reply(200, b"{}"), self._door.origins.preflight(asked)

    async def _events(self, asked: Asked, receive: Receive) -> Found:
        sender = self._sender(asked, read_query(asked.query, ("key",))["key"])
        verdicts = await self._judged(read_post(await self.hot.bodies.read(receive), is_lines=sender.is_lines), sender)
        return Reply(verdicts.status, verdicts.to_json()), []

    def begin(self, asked: Asked, body: bytes, done: Callable[[Reply, Headers], None]) -> None:
        """As `POST /v1/events` of ASGI, of a body that is whole: call `done` with the answer, now or later."""

        def told(outcome: Verdicts | BaseException) -> None:
            if isinstance(outcome, Verdicts):
                self._count(outcome)
                reply, more = Reply(outcome.status, outcome.to_json()), list[tuple[bytes, bytes]]()
            else:
                reply, more = refusal(asked.path, outcome), _when_to_come_back(outcome)
            self._told.request(EVENTS, reply.status).inc()
            done(reply, [*self._door.origins.headers(asked), *more])

        try:
            sender = self._sender(asked, read_query(asked.query, ("key",))["key"] if asked.query else [])
            post = read_post(body, is_lines=sender.is_lines)
            self._intake.posts.begin(post, sender, told)
        except Exception as error:  # the border of the process: `refusal` tells what is a mistake of ours
            told(error)

    async def _identify(self, asked: Asked, receive: Receive) -> Found:
        self._sender(asked, read_query(asked.query, ("key",))["key"])
        wanted = read_merge(read_json(await self.hot.bodies.read(receive)))
        merged = await self._intake.identities.merge(wanted)
        return Reply(202, merged.to_json(wanted.user_id)), []

    async def _pixel(self, asked: Asked, _: Receive) -> Found:
        """An image whatever happens: a mail shows no broken one for a mistake. Status and a header tell."""
        try:
            raw, keys = read_pixel(asked.query)
            verdicts = await self._judged(Post([raw]), self._sender(asked, keys))
            reply, (verdict,) = Reply(200, GIF, b"image/gif"), verdicts.verdicts
            if not verdicts.accepted:
                reply = reply._replace(status=verdicts.status)
                return reply, [*NO_STORE, _told(f"{verdict.get('field', 'log')}: {verdict['reason']}")]
        except Refused as error:
            return Reply(error.status, GIF, b"image/gif"), [*NO_STORE, _told(f"{error.field}: {error.reason}")]
        return reply, NO_STORE

    async def _slot(self, asked: Asked, _: Receive) -> Found:
        """Recommendations with an id of this answer, which begins with the release that it came from."""
        parts = [part for part in asked.query.split(b"&") if part]
        given = read_query(b"&".join(part for part in parts if part.startswith(b"key=")), ("key",))
        self._sender(asked, given["key"])
        query = b"&".join([part for part in parts if not part.startswith((b"key=", b"details="))] + [b"details=true"])
        reply = await self.hot.recommend(query, JSON)
        if reply.status != 200:
            return reply, NO_STORE
        release = orjson.loads(reply.body)["release"]
        answer_id = f"{release or 'popular'}-{os.urandom(8).hex()}"
        return Reply(200, reply.body[:-1] + b',"answer_id":%b}' % orjson.dumps(answer_id)), NO_STORE

    async def _tracker(self, asked: Asked, _: Receive) -> Found:
        kept = [(b"etag", self._script_tag), (b"cache-control", b"public, max-age=3600")]
        if asked.etag == self._script_tag:
            return Reply(304, b""), kept
        return Reply(200, self._script, b"text/javascript; charset=utf-8"), kept

    async def _judged(self, post: Post, sender: Sender) -> Verdicts:
        verdicts = await self._intake.posts.judge(post, sender)
        self._count(verdicts)
        return verdicts

    def _count(self, verdicts: Verdicts) -> None:
        self._told.accepted.inc(verdicts.accepted)
        self._told.rejected.inc(verdicts.rejected)

    def _sender(self, asked: Asked, keys: list[str]) -> Sender:
        """Who asks. keys: those of the query. Raises Refused for who may not."""
        self._door.origins.check(asked)
        site = self._door.sites.site_of(asked.key or (keys[0].encode() if keys else b""))
        agent = asked.agent.decode("latin-1")
        return Sender(site, agent, self._door.refuses_bots and is_bot(agent), LINES in asked.form)


def _is_hot(scope: Scope) -> bool:
    return (scope["path"], scope["method"]) == (RECOMMENDATIONS, "GET")


def _check_segments(scope: Scope) -> None:
    """Whoever is on the way may resolve dot segments: `/v1/users/sam/timeline/..` must not be sam to one of them."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    path = path.partition(b"?")[0]
    if scope["method"] == "DELETE" and not {b".", b".."}.isdisjoint(map(unquote_to_bytes, path.split(b"/"))):
        raise Refused("path", path.decode("latin-1"), "has a segment . or .., which names nothing")


def _told(reason: str) -> tuple[bytes, bytes]:
    return b"x-ledstream-refused", ascii(reason)[1:-1].encode()[:200]  # without anything a header cannot hold


def _when_to_come_back(error: Any) -> Headers:
    return [(b"retry-after", b"%d" % error.after_s)] if isinstance(error, TooMany) else []
