"""Reading the body of a request: so many bytes, so fast, and not all clients' at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from patchword.web.refusals import Refusal, busy
from patchword.web.settings import Limits

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_BUFFERS = 16  # full-size bodies that may be held in memory
_DRAIN_S, _DRAIN = 2.0, 4  # a body that is refused is still taken for this time, up to so many limits


class ClientGone(Exception):  # noqa: N818  nothing went wrong
    """The client has closed the connection; nobody waits for an answer."""


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of a name (lower case); None when there is none."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return None


class Bodies:
    """Reads bodies, and knows how many bytes of them are held.

    Attributes:
        held: bytes in memory, of all requests.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits, self.held = limits, 0

    async def read(self, scope: Scope, receive: Receive) -> bytearray:
        """The whole body. Whoever calls it gives its bytes back with `release`.

        Raises:
            Refusal: 413 as soon as it is known to be too large, 408 when it comes too slowly, 503 when the bodies of
                other requests fill the memory.
            ClientGone: the connection was closed.
        """
        limit = self.limits.max_body
        told = header(scope, b"content-length")
        if told is not None and told.isdecimal() and int(told) > limit:
            raise self._too_large()
        body = bytearray()
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            while True:
                slack = self.limits.body_grace_s + len(body) / self.limits.body_rate
                try:
                    async with asyncio.timeout_at(started + slack):
                        message = await receive()
                except TimeoutError:
                    raise Refusal(
                        408,
                        f"the body came too slowly: {len(body):,} bytes in {loop.time() - started:.0f} s.",
                        {"Connection": "close"},
                    ) from None
                if message["type"] == "http.disconnect":
                    raise ClientGone
                part = message.get("body", b"")
                if len(body) + len(part) > limit:
                    raise self._too_large()
                if self.held + len(part) > _BUFFERS * limit:
                    raise busy("too many pictures are being sent. Try again in a second.")
                body += part
                self.held += len(part)
                if not message.get("more_body", False):
                    return body
        except BaseException:
            self.release(body)
            raise

    def release(self, body: bytearray) -> None:
        """Say that a body is no longer held."""
        self.held -= len(body)

    def _too_large(self) -> Refusal:
        return Refusal(
            413, f"the body is larger than {self.limits.max_body_mb:g} MB. Shrink the picture.", {"Connection": "close"}
        )

    async def drain(self, receive: Receive) -> None:
        """Take in what is left of a refused body, within limits.

        A client that is still sending reads no answer, and would only see the connection break.
        """
        left = _DRAIN * self.limits.max_body
        try:
            async with asyncio.timeout(_DRAIN_S):
                while left > 0:
                    message = await receive()
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        return
                    left -= len(message.get("body", b""))
        except TimeoutError:
            return
