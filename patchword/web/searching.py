"""Routes that find images and captions, and say why."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response

from patchword.retrieve.query import Mode
from patchword.web.batching import Asked
from patchword.web.many import Answers, Searches, answer_many
from patchword.web.refusals import Refusal
from patchword.web.schemas import FILTER, ID_LIMIT, CaptionsOut, ErrorOut, ExplainOut, PartIn, SearchIn, SearchOut
from patchword.web.service import Service
from patchword.web.settings import USUAL_K

Responses = dict[int | str, dict[str, Any]]
REFUSALS: Responses = {
    status: {"model": ErrorOut, "description": text}
    for status, text in {
        400: "the query or the filter can not be read",
        401: "the token is missing or wrong",
        404: "there is no such image",
        413: "the body is too large",
        415: "the body is no picture",
        422: "a value is out of range, or the picture can not be decoded",
        503: "busy; Retry-After says when to come again",
        504: "no answer in time",
    }.items()
}
_PICTURE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "a picture file",
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
        },
    }
}
router = APIRouter(responses=REFUSALS)

K = Annotated[int, Query(ge=1, description="most results; at most `limits.k` of /info")]
ImageId = Annotated[int, Path(ge=0, le=ID_LIMIT, description="id of an indexed image", examples=[12])]
How = Annotated[Mode, Query(description="see POST /search")]
Where = Annotated[str | None, Query(description="filter, applied before scoring", examples=[FILTER])]
Threshold = Annotated[float | None, Query(description="leave out images below this score", allow_inf_nan=False)]
Text = Annotated[str, Query(description="a sentence", examples=["a dog in snow"])]


def service_of(request: Request) -> Service:
    """The service that answers."""
    found: Service = request.app.state.service
    return found


Serving = Annotated[Service, Depends(service_of)]


async def sent_picture(request: Request) -> bytes:
    """The bytes of the picture that is the body.

    Raises:
        Refusal: 415, the content type says that it is something else.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    allowed = kind.startswith("image/") and "svg" not in kind
    if not allowed and kind != "application/octet-stream":
        raise Refusal(415, f"the body is {kind[:80] or 'of no type'!r}. Expected a picture: image/jpeg, image/png ...")
    return await request.body()


Sent = Annotated[bytes, Depends(sent_picture)]


@router.post("/search", tags=["search"], summary="Images for words and pictures")
async def search(wanted: SearchIn, service: Serving) -> SearchOut:
    """Find images for a weighted list of sentences, indexed images and pictures that are sent along."""
    return await service.search(wanted.parts, Asked(wanted.k, wanted.mode, wanted.where, wanted.threshold))


@router.post("/search/batch", tags=["search"], summary="Images for several queries", response_model=Answers)
async def search_many(
    wanted: Annotated[Searches, Body(description="as POST /search takes them; at most `limits.batch` of /info")],
    service: Serving,
) -> Response:
    """Answer several searches together, in their order. One that can not be answered has `error` in its place."""
    return Response(await answer_many(service, wanted), media_type="application/json")


@router.get("/search", tags=["search"], summary="Images for a sentence")
async def search_words(
    service: Serving,
    q: Text,
    k: K = USUAL_K,
    mode: How = "auto",
    where: Where = None,
    threshold: Threshold = None,
) -> SearchOut:
    """Find images for one sentence."""
    return await service.search([PartIn(text=q)], Asked(k, mode, where, threshold))


@router.get("/similar/{id}", tags=["search"], summary="Images like an indexed image")
async def similar(
    service: Serving,
    id: ImageId,
    k: K = USUAL_K,
    mode: How = "auto",
    where: Where = None,
    threshold: Threshold = None,
) -> SearchOut:
    """Find images like one that is in the index."""
    return await service.like_image(id, Asked(k, mode, where, threshold))


@router.post("/similar", tags=["search"], summary="Images like a picture", openapi_extra=_PICTURE)
async def similar_to_picture(
    service: Serving,
    picture: Sent,
    k: K = USUAL_K,
    mode: How = "auto",
    where: Where = None,
    threshold: Threshold = None,
) -> SearchOut:
    """Find images like a picture file, which is the body. It is not kept."""
    return await service.like_picture(picture, Asked(k, mode, where, threshold))


@router.get("/captions/{id}", tags=["search"], summary="Captions for an indexed image")
async def captions(service: Serving, id: ImageId, k: K = USUAL_K) -> CaptionsOut:
    """Find captions for an image that is in the index, when a caption set is indexed."""
    return await service.captions(id, k)


@router.post("/captions", tags=["search"], summary="Captions for a picture", openapi_extra=_PICTURE)
async def captions_for_picture(service: Serving, picture: Sent, k: K = USUAL_K) -> CaptionsOut:
    """Find captions for a picture file, which is the body. It is not kept."""
    return await service.captions(picture, k)


@router.get("/explain", tags=["search"], summary="Why an image and a sentence match")
async def explain(
    service: Serving,
    id: Annotated[int, Query(ge=0, le=ID_LIMIT, description="id of an indexed image", examples=[12])],
    q: Text,
) -> ExplainOut:
    """Say what every word and patch adds to the score."""
    return await service.explain(id, q)
