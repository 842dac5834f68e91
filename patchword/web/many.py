"""Several searches in one request: each gets an answer or an error of its own, in its place."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from patchword.web.batching import Asked
from patchword.web.refusals import Refusal, answer_to, invalid
from patchword.web.schemas import RefusedOut, SearchIn, SearchOut
from patchword.web.service import Service
from patchword.web.settings import LARGEST_BATCH


def _or_refusal(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    """A search, or why it is none: a query that can not be read does not stop the others."""
    try:
        return read(value)
    except ValidationError as error:
        return invalid([{**one, "loc": ("query", *one["loc"])} for one in error.errors()])


Searches = Annotated[
    list[Annotated[SearchIn, WrapValidator(_or_refusal)]], Field(min_length=1, max_length=LARGEST_BATCH)
]
Answers = list[SearchOut | RefusedOut]
_ANSWERS = TypeAdapter(Answers)


async def answer_many(service: Service, wanted: Sequence[SearchIn | Refusal]) -> bytes:
    """The answers as JSON, in the order of the queries.

    Args:
        service: that searches; its queries of all such requests wait for a room of their own.
        wanted: searches, and what was refused when it was read.

    Raises:
        Refusal: 422, there are too many.
    """
    most = service.limits.max_batch
    if len(wanted) > most:
        raise Refusal(422, f"{len(wanted):,} queries were sent. At most {most:,} are answered together.")
    answers = await asyncio.gather(*(_answer(service, one) for one in wanted))
    # Many hits take a while to write: beside the event loop, so that other requests do not wait for it.
    return await service.lookups.run(lambda: _ANSWERS.dump_json(answers, exclude_unset=True))


async def _answer(service: Service, wanted: SearchIn | Refusal) -> SearchOut | RefusedOut:
    """The answer to one query, or why there is none."""
    try:
        if isinstance(wanted, Refusal):
            raise wanted
        asked = Asked(wanted.k, wanted.mode, wanted.where, wanted.threshold)
        async with service.room:
            found = await service.search(wanted.parts, asked)
    except Exception as error:  # noqa: BLE001  told in its place; what is unexpected goes to the log
        refusal = answer_to(error)
        service.metrics.batch_queries.labels(str(refusal.status)).inc()
        return RefusedOut.model_validate({**refusal.to_json(), "status": refusal.status})
    service.metrics.batch_queries.labels("200").inc()
    return found
