"""What an index was made with: the model and its hash, the form of the vectors, the shortlist's backend."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

import patchword
from patchword.config import Config
from patchword.errors import DataError
from patchword.store.layout import FORMAT, VERSION, IndexFolder, open_folder, write_whole

PoolKind = Literal["own", "anchors", "fde", "mean"]


class ModelStamp(Config):
    """The model of an index.

    Attributes:
        path: absolute folder it was loaded from.
        label, method: for people.
        hash: of its weights, configuration and vocabulary.
        files: size and time of change (ns) of its files when the hash was taken, to tell that they are the same.
        content: hash of what was loaded from them, which files that are added to the folder do not change; None in
            indexes of older versions.
        reads: ``pictures``, or ``regions`` of a feature file.
        interaction: of a CLIP-like model, which encodes in more than one way.
    """

    path: str
    label: str
    method: str
    hash: str
    files: dict[str, tuple[int, int]]
    reads: Literal["pictures", "regions"]
    interaction: Literal["global", "patches"] | None = None
    content: str | None = None


class FeatureSource(Config):
    """Where region features come from.

    Attributes:
        root: absolute data folder.
        name: data set, when the folder holds several.
        splits: those that are indexed.
        names: file that says which image of the data set a picture is; None goes by the picture's name.
        extras: side inputs of the images that the model reads too; when they change, the images are encoded again.
    """

    root: str
    name: str | None = None
    splits: tuple[str, ...] = ()
    names: str | None = None
    extras: tuple[str, ...] = ()

    def with_extras(self, names: Sequence[str]) -> FeatureSource:
        """The same, of a model that reads these side inputs."""
        return self.model_copy(update={"extras": tuple(names)})


class BackendChoice(Config):
    """What finds the shortlist.

    Attributes:
        kind: ``exact``, ``faiss``, ``milvus``.
        options: of the backend.
    """

    kind: str = "exact"
    options: dict[str, Any] = Field(default_factory=dict)


class Pooling(Config):
    """How the one vector per item is made that the shortlist is searched by.

    Attributes:
        kind: see ``patchword.shortlist.pooled``.
        width: G of the result.
        source: D of the vectors it is made from.
        seed: of everything drawn.
        settings: of ``fde``.
    """

    kind: PoolKind
    width: int
    source: int
    seed: int = 0
    settings: dict[str, int] = Field(default_factory=dict)


class Manifest(Config):
    """The content of ``manifest.json``.

    Attributes:
        format, version: of the folder.
        patchword: version of this package that made it.
        created: date and time.
        model: what encodes.
        width: D.
        set_size: vectors of one image, as measured before the start.
        dtype: of the stored vectors.
        pooled: the one vector per item of the shortlist.
        backend: of the shortlist.
        features: where region features come from, for models that read such.
        shard_mb: size at which a shard is closed.
    """

    format: Literal["patchword-index"] = "patchword-index"
    version: int = VERSION
    patchword: str = patchword.__version__
    created: str
    model: ModelStamp
    width: int
    set_size: int
    dtype: Literal["float16"] = "float16"
    pooled: Pooling
    backend: BackendChoice = BackendChoice()
    features: FeatureSource | None = None
    shard_mb: float = 256.0


def read_manifest(folder: Path | str | IndexFolder) -> Manifest:
    """The manifest of an index.

    Raises:
        DataError: there is none, it is damaged, or it is of a newer version.
    """
    place = open_folder(folder)
    try:
        values = json.loads(place.manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"'{place.manifest}' can not be read: {error}. Restore it from a copy.") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise DataError(f"'{place.manifest}' is not the manifest of an index.")
    if values.get("version") != VERSION:
        raise DataError(
            f"'{place.path}' has index version {values.get('version')}. This version of patchword reads {VERSION}."
        )
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise DataError(f"'{place.manifest}': `{key}`: {first['msg']}. Restore the file from a copy.") from None


def write_manifest(folder: IndexFolder, manifest: Manifest) -> None:
    """Write or replace the manifest."""
    write_whole(folder.manifest, json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n")
