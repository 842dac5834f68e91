"""Routes about the service itself, its page and its API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, Response

from patchword.web.api_page import PAGE_POLICY, api_page
from patchword.web.metrics import TEXT
from patchword.web.refusals import Refusal
from patchword.web.schemas import HealthOut, InfoOut
from patchword.web.searching import REFUSALS, Responses, Serving

STATIC = Path(__file__).parent / "static"
_TOKEN: Responses = {401: REFUSALS[401], 503: REFUSALS[503]}
router = APIRouter()


@router.get("/info", tags=["service"], summary="What is served", responses=_TOKEN)
async def info(service: Serving) -> InfoOut:
    """Counts, columns for filters, and limits."""
    return await service.info()


@router.get("/health", tags=["service"], summary="Whether the service answers")
async def health() -> HealthOut:
    """Answered without a token, however busy the service is."""
    return HealthOut()


@router.get(
    "/metrics",
    tags=["service"],
    summary="Counters for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus text"}, **_TOKEN},
)
async def metrics(service: Serving) -> Response:
    """Answers by route and status, times, batch sizes, images, generation."""
    return Response(service.metrics.text(), headers={"Content-Type": TEXT})


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> Response:
    """The description of this API for programs."""
    document: dict[str, Any] = request.app.openapi()
    return Response(json.dumps(document), media_type="application/json")


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """The description of this API for people."""
    return HTMLResponse(api_page(request.app.openapi()), headers={"Content-Security-Policy": PAGE_POLICY})


@router.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """The search page."""
    place = STATIC / "index.html"
    if not place.is_file():
        raise Refusal(404, "this installation has no page. See /docs for the API.")
    return FileResponse(place, headers={"Cache-Control": "no-cache"})
