"""What goes in and out over HTTP, with the texts and examples of the API page."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from patchword.web.settings import MOST_PARTS, USUAL_K

ID_LIMIT = 2**63 - 1
MOST_KEYS = 64  # of one object; with more, not every unknown one is named
FILTER = "width > 1000 and taken >= '2024-01-01'"

Id = Annotated[int, Field(ge=0, le=ID_LIMIT, description="id of an indexed image", examples=[12])]
Score = Annotated[float, Field(description="the method's score; larger is better", examples=[0.4127])]
Probability = Annotated[
    float | None, Field(description="that it is a match, when the index has been calibrated", examples=[0.93])
]
Columns = Annotated[
    dict[str, str | int | float | None], Field(description="the user's own columns", examples=[{"tag": "sea"}])
]
Available = Annotated[
    bool | None,
    Field(description="whether the picture file is still there; null when its disk did not say in time"),
]
Rank = Annotated[int, Field(description="from 1", examples=[1])]


class Incoming(BaseModel):
    """Base of what a client sends: no unknown keys, no numbers that are none.

    A body may hold hundreds of thousands of mistakes. Reading stops early at those that come in crowds, so that one
    request does not hold up all others.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _few_keys(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > MOST_KEYS:
            raise ValueError(f"found {len(value):,} keys, expected some of {', '.join(cls.model_fields)}")
        return value


class PartIn(Incoming):
    """One part of a query: exactly one of `text`, `image_id` and `image`."""

    text: str | None = Field(None, description="words; at most `limits.query` characters of /info")
    image_id: int | None = Field(None, ge=0, le=ID_LIMIT, description="an indexed image: more like this")
    image: str | None = Field(None, description="a picture file (JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF) in base64")
    weight: float = Field(1.0, ge=-1000, le=1000, description="how much the part counts; negative: unlike this")

    @model_validator(mode="after")
    def _one_thing(self) -> PartIn:
        if sum(value is not None for value in (self.text, self.image_id, self.image)) != 1:
            raise ValueError("expected exactly one of `text`, `image_id` and `image`")
        return self


class SearchIn(Incoming):
    """A search for images."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "parts": [{"text": "a dog in snow"}, {"image_id": 12, "weight": -0.5}],
                    "k": 20,
                    "mode": "auto",
                    "where": FILTER,
                }
            ]
        }
    )
    parts: list[PartIn] = Field(
        min_length=1,
        max_length=MOST_PARTS,
        fail_fast=True,
        description="words and pictures; the score is the weighted mean over them, see docs",
    )
    k: int = Field(USUAL_K, ge=1, description="most results; at most `limits.k` of /info")
    mode: Literal["auto", "exact", "fast"] = Field(
        "auto",
        description="`exact` scores every image, `fast` those of a shortlist, `auto` decides by the time it takes",
    )
    where: str | None = Field(None, description="filter, applied before scoring", examples=[FILTER])
    threshold: float | None = Field(None, description="leave out images below this score")


class HitOut(BaseModel):
    """One image that was found."""

    rank: Rank
    id: Id
    score: Score
    probability: Probability
    path: str = Field(description="below the indexed folder", examples=["holiday/p1.jpg"])
    width: int | None = Field(description="pixels", examples=[640])
    height: int | None = Field(description="pixels", examples=[480])
    taken: str | None = Field(description="date of the photograph", examples=["2024-05-01T10:00:00"])
    columns: Columns
    available: Available


class SearchOut(BaseModel):
    """Images for a query, the best first."""

    hits: list[HitOut]
    mode: Literal["exact", "fast"] = Field(description="how it was answered")
    searched: int = Field(description="images after the filter", examples=[1901])
    rescored: int = Field(description="images that were scored exactly", examples=[1901])
    took_ms: float = Field(description="time inside the engine", examples=[8.1])
    unknown_words: list[str] = Field(
        description="words of the query that the model does not know and reads as an unknown word", examples=[["zzzz"]]
    )


class RefusedOut(BaseModel):
    """Why one query of several has no answer; the others have theirs."""

    error: str = Field(description="one line", examples=["the query has no words that the model knows."])
    status: int = Field(description="the status that the query alone would get", examples=[400])
    id: str | None = Field(None, description="of a bug (500): finds its trace in the log")


class CaptionOut(BaseModel):
    """One caption that was found."""

    rank: Rank
    id: int = Field(description="id of the caption", examples=[7])
    score: Score
    probability: Probability
    caption: str = Field(examples=["a dog runs through snow"])
    image_id: int | None = Field(description="the indexed image that the caption was given for", examples=[12])


class CaptionsOut(BaseModel):
    """Captions for an image, the best first."""

    hits: list[CaptionOut]


class WordOut(BaseModel):
    """One word of an explained sentence."""

    text: str = Field(examples=["dog"])
    part: float = Field(description="what the word adds to the score", examples=[0.21])
    is_mark: bool = Field(description="whether it is a mark of the tokeniser and no word")


class ExplainOut(BaseModel):
    """Why an image and a sentence got their score."""

    score: Score
    words: list[WordOut]
    parts: list[list[float]] = Field(description="one row per word, one column per patch; all add up to the score")
    boxes: list[list[float]] | None = Field(description="x0, y0, x1, y1 of each patch in 0..1, when known")


class ItemOut(BaseModel):
    """What the index knows about an image."""

    id: Id
    path: str = Field(description="below the indexed folder", examples=["holiday/p1.jpg"])
    bytes: int = Field(description="size of the file", examples=[81234])
    modified: str | None = Field(description="when the file was last changed, UTC", examples=["2024-05-01T10:00:00Z"])
    width: int | None = Field(description="pixels", examples=[640])
    height: int | None = Field(description="pixels", examples=[480])
    taken: str | None = Field(description="date of the photograph", examples=["2024-05-01T10:00:00"])
    camera: str | None = Field(description="maker and model", examples=["Canon EOS R5"])
    columns: Columns
    available: Available


class LimitsOut(BaseModel):
    """What one request may ask for."""

    body_mb: float = Field(description="largest body, in 1e6 bytes", examples=[20.0])
    pixels: int = Field(description="largest picture, width x height", examples=[89478485])
    query: int = Field(description="characters of a sentence, and of a filter", examples=[1000])
    k: int = Field(description="most results", examples=[1000])
    parts: int = Field(description="parts of a query", examples=[16])
    batch: int = Field(description="queries of one request to `/search/batch`", examples=[64])
    timeout_s: float = Field(description="time to answer", examples=[30.0])


class InfoOut(BaseModel):
    """What is served."""

    images: int = Field(examples=[1901])
    captions: int = Field(examples=[9505])
    model: str = Field(description="name of the model's folder", examples=["chan_photos"])
    method: str = Field(examples=["chan"])
    columns: dict[str, str] = Field(description="what a filter may name, with types", examples=[{"width": "integer"}])
    generation: int = Field(description="grows with every change of the index", examples=[3])
    accepts_pictures: bool = Field(description="whether a picture that is not in the index can be sent as a query")
    limits: LimitsOut


class HealthOut(BaseModel):
    """That the service answers."""

    status: Literal["ok"] = "ok"


class ErrorOut(BaseModel):
    """Why there is no other answer."""

    error: str = Field(description="one line", examples=["`k` is 5000. At most 1,000 results can be asked for."])
