"""The web application over an open index."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.responses import Response

import patchword
from patchword.retrieve.engine import Index
from patchword.web import about, pictures, searching
from patchword.web.gate import Gate
from patchword.web.refusals import Refusal, invalid, without_paths
from patchword.web.service import Service
from patchword.web.settings import Settings


def create_app(index: Index, settings: Settings | None = None) -> FastAPI:
    """An application that answers from an index; run it with uvicorn, or call it in tests.

    Args:
        index: open; whoever opened it closes it after the application has stopped.
        settings: see `Settings`.

    Example:
        ``uvicorn.run(create_app(Index.open("my.index")))``; ``patchword serve`` does more, see `serve`.
    """
    service = Service(index, settings or Settings())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="patchword",
        version=patchword.__version__,
        description="Find images by words and pictures, see why they match. Errors are JSON with one line, `error`.",
        lifespan=lifespan,
        docs_url=None,  # these pages load scripts from elsewhere; /docs is our own
        redoc_url=None,
        openapi_url=None,
    )
    app.state.service = service
    for part in (searching, pictures, about):
        app.include_router(part.router)
    app.mount("/static", _Static(directory=about.STATIC, check_dir=False), name="static")
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(Gate, settings=service.settings, metrics=service.metrics)
    return app


class _Static(StaticFiles):
    """Files of the page. A browser may keep them if it asks each time whether they are still the same."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        """The file, or 304 for the one that the browser has."""
        answer = super().file_response(*args, **options)
        answer.headers["Cache-Control"] = "no-cache"
        return answer


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _answer(invalid(error.errors()))


async def _http_error(request: Request, error: Exception) -> Response:
    """The framework's own errors: no such route, wrong method."""
    assert isinstance(error, HTTPException)
    return _answer(Refusal(error.status_code, without_paths(str(error.detail)), error.headers))


def _answer(refusal: Refusal) -> Response:
    return JSONResponse(refusal.to_json(), refusal.status, refusal.headers)
