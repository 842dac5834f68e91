"""Routes for the pictures themselves and what is known about them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from patchword.web.originals import Original, media_type, stream, to_jpeg
from patchword.web.schemas import ErrorOut, ItemOut
from patchword.web.searching import REFUSALS, ImageId, Serving
from patchword.web.thumbs import QUALITY, side_for

router = APIRouter(
    responses={
        **{status: REFUSALS[status] for status in (401, 404, 413, 422, 503, 504)},
        410: {"model": ErrorOut, "description": "the picture file is gone or damaged"},
    }
)
# A picture that is opened by itself must not run anything.
_ALONE = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; sandbox"
_FRESH = "private, max-age=60"
_JPEG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}}, "description": "JPEG"}}


@router.get("/items/{id}", tags=["pictures"], summary="What is known about an image")
async def item(service: Serving, id: ImageId) -> ItemOut:
    """Path, size, date and columns of an indexed image."""
    return await service.about(id)


@router.get(
    "/thumb/{id}", tags=["pictures"], summary="A small JPEG of an image", responses=_JPEG, response_class=Response
)
async def thumb(
    request: Request,
    service: Serving,
    id: ImageId,
    size: Annotated[int, Query(ge=1, le=4096, description="wished side; the next of 64 ... 1024 is sent")] = 256,
) -> Response:
    """The picture, upright, inside a square of about the wished size."""
    original = await service.original(id)
    try:
        side = side_for(size)
        tag = f"{original.tag}-{side}"
        known = not_modified(request, tag)
        if known is not None:
            return known
        content = service.thumbs.get(f"{id}-{tag}")
        if content is None:
            make = service.timed(
                "thumb", lambda: to_jpeg(original, service.limits.max_pixels, side=side, quality=QUALITY)
            )
            content = await service.pictures.run(make)
            service.thumbs.put(f"{id}-{tag}", content)
        return Response(content, media_type="image/jpeg", headers=headers(tag))
    finally:
        original.file.close()


@router.get(
    "/images/{id}",
    tags=["pictures"],
    summary="The picture of an image",
    responses={
        200: {
            "content": {kind: {} for kind in ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp")},
            "description": "the file as it is; formats that browsers do not show are sent as JPEG",
        }
    },
    response_class=Response,
)
async def picture(request: Request, service: Serving, id: ImageId) -> Response:
    """The picture file of an indexed image."""
    original = await service.original(id)
    is_streamed = False
    try:
        known = not_modified(request, original.tag)
        if known is not None:
            return known
        kind = await service.pictures.run(lambda: media_type(original, service.limits.max_pixels))
        if kind is None:
            content = await service.pictures.run(lambda: to_jpeg(original, service.limits.max_pixels))
            return Response(content, media_type="image/jpeg", headers=headers(original.tag))
        is_streamed = True
        return _streamed(original, kind)
    finally:
        if not is_streamed:
            original.file.close()


def _streamed(original: Original, kind: str) -> Response:
    length = {"Content-Length": str(original.size)}
    return StreamingResponse(stream(original), media_type=kind, headers={**headers(original.tag), **length})


def headers(tag: str) -> dict[str, str]:
    """Headers of a picture."""
    return {"ETag": f'"{tag}"', "Cache-Control": _FRESH, "Content-Security-Policy": _ALONE}


def not_modified(request: Request, tag: str) -> Response | None:
    """The short answer to a client that has this picture already."""
    given = request.headers.get("if-none-match", "")
    if f'"{tag}"' not in [one.strip().removeprefix("W/") for one in given.split(",")]:
        return None
    return Response(status_code=304, headers=headers(tag))
