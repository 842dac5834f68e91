"""One HTTP connection, whose client has to send its request line and headers in time."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_S = 10.0


class PatientConnection(H11Protocol):
    """uvicorn's connection, closed when a request does not begin within `header_s` of its first byte.

    uvicorn limits how long an idle connection is kept, but not how slowly headers may come; the body has a limit of
    its own (`patchword.web.bodies`).
    """

    header_s = HEADER_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._has_begun():
            self._forget()
        elif self._deadline is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _has_begun(self) -> bool:
        """Whether a request is being answered, or none has been begun since the last answer."""
        cycle = self.cycle
        if cycle is None:
            return False
        return not cycle.response_complete or self.conn.trailing_data[0] == b""

    def _wait(self) -> None:
        self._deadline = self.loop.call_later(self.header_s, self._too_slow)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if not self._has_begun() and not self.transport.is_closing():
            self.transport.close()
