"""Explaining an indexed image: from its picture file, or from the features that it was encoded from.

An explanation needs what an encoder reads, because a pooled vector no longer knows its patches; the index holds what an
encoder wrote.
"""

from __future__ import annotations

from typing import Any

import torch

from patchword.errors import DataError
from patchword.explain.lit_words import explain_pair, explain_picture
from patchword.index.features import FeatureFolder
from patchword.model import Model
from patchword.search import check_query
from patchword.store.catalog import Item
from patchword.store.manifest import Manifest
from patchword.types import Alignment


def explain_item(model: Model, manifest: Manifest, item: Item, text: str, boxes: Any = None) -> Alignment:
    """Words x patches of an indexed image and a text.

    Args:
        model: of the index.
        manifest: says where features are.
        item: the image.
        text: any.
        boxes: ``(R, 4)`` of the patches, when the index knows them.

    Raises:
        DataError: the picture or its features are gone, or the text is empty or unknown to the model.
    """
    check_query(model, text)
    if model.method.caption_extras:
        raise DataError(
            f"this {model.method.name} also reads `{model.method.caption_extras[0]}` of a caption, so a free text can "
            "not be explained. Explain a caption of the data: patchword explain --help"
        )
    known = None if boxes is None else torch.from_numpy(boxes)
    if item.feature is not None:
        if manifest.features is None:
            raise DataError(f"image {item.id} came from features, and the manifest does not say from where.")
        folder = FeatureFolder(manifest.features)
        spot = folder.labelled(item.feature)
        images = folder.read([spot], model.method.image_extras)
        if known is None:
            found = folder.boxes(spot, images.values.shape[1])
            known = None if found is None else torch.from_numpy(found).float()
        return explain_pair(model, images, text, boxes=known)
    file = item.file
    if file is None or not file.is_file():
        raise DataError(f"'{item.path}' is gone, so it can not be explained. Sync the index, or put the file back.")
    return explain_picture(model, file, text)
