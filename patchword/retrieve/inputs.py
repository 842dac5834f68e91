"""What a query brings, encoded: texts, picture files, decoded pictures, and images that are in the index."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchword.data.clip_features import ClipEncoder
from patchword.data.pictures import Picture, PictureFiles, decode
from patchword.errors import DataError
from patchword.model import Model
from patchword.retrieve.collection import Collection
from patchword.retrieve.encoded_queries import ImageQueries
from patchword.retrieve.query import Query
from patchword.retrieve.query_regions import QueryRegions
from patchword.search import check_query, query_extras
from patchword.types import Encoded


@dataclass(frozen=True)
class DecodedPictures(PictureFiles):
    """Pictures that are decoded already; ``files`` are only names.

    Attributes:
        pictures: one for each name, ``(H, W, 3)`` RGB.
    """

    pictures: tuple[Picture, ...] = ()

    def picture(self, image: int) -> Picture:
        """The picture at a position."""
        return self.pictures[image]


def reads_regions(model: Model) -> bool:
    """Whether a model reads region features instead of pictures."""
    return model.method.reads == "regions"


def encode_queries(
    model: Model,
    queries: Sequence[Query],
    collection: Collection,
    clip: ClipEncoder | None = None,
    regions: QueryRegions | None = None,
) -> ImageQueries:
    """Encode all texts and images of some queries, each text once.

    Raises:
        DataError: a text is empty or unknown to the model, or an image can not be encoded.
        ConfigError: the model also reads CLIP's vector of a sentence, and no CLIP was named.
    """
    texts: dict[str, int] = {}
    pictures = []
    for query in queries:
        for part in query.parts:
            if part.text is not None:
                check_query(model, part.text)
                texts.setdefault(part.text, len(texts))
            elif part.image is not None:
                pictures.append(part.image)
    encoded = encode_texts(model, list(texts), clip) if texts else None
    images = Encoded.concat([encode_image(model, one, collection, regions) for one in pictures]) if pictures else None
    return ImageQueries.of(model.method, queries, texts, encoded, images)


def encode_texts(model: Model, texts: Sequence[str], clip: ClipEncoder | None) -> Encoded:
    """Encode texts, each as if it stood alone.

    Raises:
        DataError, ConfigError: see `patchword.search.query_extras`.
    """
    extras = query_extras(model, texts, clip)
    if model.method.reads_padding:
        alone = [{name: extra.select([k]) for name, extra in extras.items()} for k in range(len(texts))]
        return Encoded.concat(
            [model.encode_captions([text], extras=one) for text, one in zip(texts, alone, strict=True)]
        )
    return model.encode_captions(list(texts), extras=extras)


def encode_image(
    model: Model,
    image: Path | str | int | NDArray[np.uint8],
    collection: Collection,
    regions: QueryRegions | None = None,
) -> Encoded:
    """Encode one image.

    Args:
        model: of the index.
        image: id of an indexed image, a picture file, or a decoded picture.
        collection: the indexed images.
        regions: finds the regions of a picture, for models that read such.

    Raises:
        DataError: there is no such image, it is no picture, or the model reads regions and no detector was named.
    """
    if isinstance(image, int | np.integer):
        snapshot = collection.snapshot
        return snapshot.sets(snapshot.positions([int(image)]))
    method = model.method
    if reads_regions(model) and regions is None:
        raise DataError(
            "this model reads region features, which a new picture does not have. Ask with the id of an indexed image, "
            "or name the detector that the features were extracted with: --detector DIR"
        )
    if method.image_extras:
        raise DataError(
            f"this {method.name} also reads `{method.image_extras[0]}` of an image, which a new picture does not have. "
            "Ask with the id of an indexed image."
        )
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise DataError(
                f"a picture of shape {image.shape} and type {image.dtype} was given. Expected (H, W, 3) and uint8."
            )
        if regions is not None:
            return _encode_regions(model, regions, image)
        return model.encode_images(DecodedPictures([Path("picture")], None, (image,)))
    path = Path(image)
    if not os.path.isfile(path):  # false for names that no file can have, which pathlib may raise for
        raise DataError(f"'{path}' is missing. Expected a picture file, or the id of an indexed image.")
    if regions is not None:
        return _encode_regions(model, regions, decode(path))
    return model.encode_images(PictureFiles([path]))


def _encode_regions(model: Model, regions: QueryRegions, picture: Picture) -> Encoded:
    """Encode a decoded picture by the regions that the detector finds in it."""
    return model.method.encode_images(regions.images_of(picture).to(model.device)).float().to("cpu")
