"""What every request passes on its way in, and every answer on its way out."""

from __future__ import annotations

import asyncio
import time

from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from patchword.web.bodies import Bodies, ClientGone, Message, Receive, Scope, Send
from patchword.web.guard import Guard
from patchword.web.metrics import Metrics
from patchword.web.refusals import Refusal, answer_to, busy
from patchword.web.settings import Settings

POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
# Beside every answer; a route may set its own value of the last two.
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"x-frame-options": b"DENY",
    b"content-security-policy": POLICY.encode("ascii"),
    b"cache-control": b"no-store",
}
_UNCOUNTED = ("/health", "/metrics")  # answered however busy the service is
_GONE = 499  # status in the metrics of a request whose client left


class _Reply:
    """The sending side of one request: adds headers, remembers how far it came, gives up on a client that reads none.

    Args:
        send: of the server.
        stall_s: how long one piece may take.
    """

    def __init__(self, send: Send, stall_s: float) -> None:
        self._send, self._stall_s = send, stall_s
        self.status: int | None = None
        self.is_complete = self.is_stalled = False
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            given = list(message.get("headers", []))
            there = {bytes(key).lower() for key, _ in given}
            message = {**message, "headers": [*given, *((k, v) for k, v in _HEADERS.items() if k not in there)]}
            self.status = message["status"]
        try:
            async with asyncio.timeout(self._stall_s):
                await self._send(message)
        except TimeoutError:
            self.is_stalled = True
            raise
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.is_complete = True
        if not self.begun.done():
            self.begun.set_result(None)


class Gate:
    """Middleware: host, token, body, concurrency, time, headers, errors and counts.

    Args:
        app: what lies behind.
        settings: of the service.
        metrics: where answers are counted.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app, self.limits, self.metrics = app, settings.limits, metrics
        self.guard, self.bodies = Guard(settings), Bodies(settings.limits)
        self.in_flight = 0
        metrics.watch("in_flight", "requests in work", lambda: self.in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        reply = _Reply(send, self.limits.timeout_s)
        try:
            await self._answer(scope, receive, reply)
        except ClientGone:
            pass  # the server closes the connection
        finally:
            route, status = route_of(scope), reply.status if reply.is_complete else _GONE
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        """Answer a request, with an error when it comes to that."""
        try:
            await self._pass(scope, receive, reply)
        except ClientGone:
            raise
        except Exception as error:
            if reply.is_stalled:
                raise ClientGone from error
            if reply.status is not None:
                raise
            await self._refuse(answer_to(error), receive, reply)

    async def _refuse(self, refusal: Refusal, receive: Receive, reply: _Reply) -> None:
        answer = JSONResponse(refusal.to_json(), refusal.status, refusal.headers)
        await reply({"type": "http.response.start", "status": refusal.status, "headers": answer.raw_headers})
        await reply({"type": "http.response.body", "body": answer.body, "more_body": True})
        if refusal.status == 413:
            await self.bodies.drain(receive)
        await reply({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pass(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        answer = self.guard.check(scope)
        if answer is not None:
            await answer(scope, receive, reply)
            return
        body = await self.bodies.read(scope, receive)
        try:
            is_counted = scope["path"] not in _UNCOUNTED
            if is_counted and self.in_flight >= self.limits.concurrency:
                raise busy(f"{self.in_flight} requests are in work already. Try again in a second.")
            self.in_flight += is_counted
            exchange = _Exchange(self.app, scope, bytes(body), receive, reply)
            try:
                await exchange.begin(self.limits.timeout_s)
            finally:
                self.in_flight -= is_counted
        finally:
            self.bodies.release(body)
        await exchange.finish()


class _Exchange:
    """The application at work on one request, while the client is watched.

    Args:
        app: the application.
        scope, receive, reply: of the request.
        body: its body.
    """

    def __init__(self, app: ASGIApp, scope: Scope, body: bytes, receive: Receive, reply: _Reply) -> None:
        self.reply, self._unread, self._gone = reply, [body], asyncio.Event()
        self._work = asyncio.ensure_future(_awaited(app, scope, self._replay, reply))
        self._watch = asyncio.ensure_future(self._until_gone(receive))

    async def begin(self, limit_s: float) -> None:
        """Wait until the answer begins.

        Raises:
            Refusal: 504, it takes too long.
            ClientGone: nobody waits any more.
        """
        try:
            waited = {self._work, self._watch, self.reply.begun}
            done, _ = await asyncio.wait(waited, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise Refusal(504, f"no answer within {limit_s:g} s. Ask for less, or try again.")
            if done == {self._watch}:
                raise ClientGone
        except BaseException:
            await self._stop()
            raise

    async def finish(self) -> None:
        """Wait until the answer is complete: a long one may take its time as long as the client reads.

        Raises:
            ClientGone: it left before the end.
        """
        try:
            await asyncio.wait({self._work, self._watch}, return_when=asyncio.FIRST_COMPLETED)
            if not self._work.done() and not self.reply.is_complete:
                raise ClientGone
            await self._work
        finally:
            await self._stop()

    async def _replay(self) -> Message:
        """What the application receives: the body, and when the client leaves, that."""
        if self._unread:
            return {"type": "http.request", "body": self._unread.pop(), "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone.set()

    async def _stop(self) -> None:
        self._watch.cancel()
        self._work.cancel()
        await asyncio.wait({self._work, self._watch})
        if not self._work.cancelled():
            self._work.exception()  # seen: it was raised by `finish`, or the client is told something else


async def _awaited(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """A coroutine of an application's answer, of which a task can be made."""
    await app(scope, receive, send)


def route_of(scope: Scope) -> str:
    """The pattern of the route that answered: never what a client wrote, so that there are few of them."""
    path = getattr(scope.get("route"), "path", None)
    if isinstance(path, str):
        return path
    return "/static" if scope["path"].startswith("/static/") else "other"
