"""Regions of a picture that is asked with: found by the detector that the index's features were extracted with."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from threading import Lock

import torch
from jaxtyping import Float
from torch import Tensor

from patchword.data.detector import Detector
from patchword.data.extracted_regions import read_about
from patchword.data.features import RegionFeatures
from patchword.data.pictures import Picture
from patchword.errors import ConfigError
from patchword.index.features import FeatureFolder
from patchword.model import Model
from patchword.store.manifest import FeatureSource, Manifest
from patchword.types import Images


def regions_of_queries(manifest: Manifest, model: Model, detector: Path | str | None) -> QueryRegions | None:
    """What finds the regions of pictures that an index is asked with; None where no detector was named.

    Raises:
        ConfigError: the model reads no regions.
    """
    if detector is None:
        return None
    if manifest.features is None:
        raise ConfigError(f"this {model.method.name} reads pictures, which need no detector. Leave out --detector.")
    width = int(model.method.config.image.width)
    return QueryRegions(detector, manifest.features, width, str(model.device))


class QueryRegions:
    """A detector for the pictures of queries, loaded for the first of them.

    Args:
        source: detector folder, or its name on the hub.
        features: of the index, which the detector has to be that of.
        width: F that the model reads.
        device: where the detector runs.
    """

    def __init__(self, source: Path | str, features: FeatureSource, width: int, device: str) -> None:
        self._source, self._features, self._width, self._device = source, features, width, device
        self._loading = Lock()

    def images_of(self, picture: Picture) -> Images:
        """The regions of a decoded picture, as the model reads them.

        Raises:
            CheckpointError: there is no such detector.
            ConfigError: the features of the index are not of this detector.
        """
        with self._loading:
            detector = self._detector
        values: Float[Tensor, "1 R F"] = detector.regions_of([picture])[0]
        return Images(values, torch.tensor([values.shape[1]]))

    @cached_property
    def _detector(self) -> Detector:
        features, known = FeatureFolder(self._features), list[tuple[str, str]]()
        counts = set[int]()
        for split in features.splits:
            images = split.require_images()
            if isinstance(images, RegionFeatures):
                about = read_about(images.path.parent, split.name)
                if "mark" in about:
                    known.append((str(about["mark"]), str(about.get("detector"))))
                if images.offsets is None:
                    counts.add(int(images.array.shape[1]))
        regions = {"regions": max(counts)} if counts else {}
        detector = Detector(self._source, device=self._device, **regions)
        if detector.width != self._width:
            raise ConfigError(
                f"the regions of '{self._source}' have width {detector.width}, but the model reads width "
                f"{self._width}. Name the detector that the features were extracted with."
            )
        mark = detector.fingerprint() if known else ""
        for one, name in known:
            if one != mark:
                raise ConfigError(
                    f"the features of this index were extracted with '{name}', and '{self._source}' is another "
                    "detector. Name that one with --detector, or extract the features again and sync the index."
                )
        return detector
