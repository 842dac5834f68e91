"""CLIP, SigLIP and SigLIP 2 as transformers stores them: what a folder or hub name holds, and how its parts are read.

Weights come with every key accounted for, the tokeniser as the checkpoint's own files define it, and the picture
transform without torchvision.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError

from patchword.errors import CheckpointError

READ_ERRORS = (
    OSError, ValueError, RuntimeError, LookupError, EOFError, ImportError, TypeError, AttributeError, SafetensorError,
    UnpicklingError,
)  # fmt: skip


@dataclass(frozen=True)
class Family:
    """One kind of dual encoder, and the classes of transformers that read it.

    Attributes:
        label: what the field calls it.
        model: class of the whole model; ``<model>Config`` describes it.
        transform: class of the picture transform, in its form without torchvision.
        settings: fields of the transform that a checkpoint may set.
    """

    label: str
    model: str
    transform: str
    settings: tuple[str, ...]


_RESIZED = (
    "size", "crop_size", "image_mean", "image_std", "resample", "do_resize", "do_center_crop", "do_rescale",
    "rescale_factor", "do_normalize",
)  # fmt: skip
_CUT = ("patch_size", "max_num_patches", *_RESIZED[2:6], *_RESIZED[7:])

# ``model_type`` of config.json -> family. SigLIP 2 with pictures of a fixed size is stored as ``siglip``; ``siglip2``
# is its NaFlex form, which keeps the picture's proportions.
FAMILIES = {
    "clip": Family("CLIP", "CLIPModel", "CLIPImageProcessorPil", _RESIZED),
    "siglip": Family("SigLIP", "SiglipModel", "SiglipImageProcessorPil", _RESIZED),
    "siglip2": Family("SigLIP 2", "Siglip2Model", "Siglip2ImageProcessorPil", _CUT),
}


@dataclass(frozen=True)
class Parts:
    """What a checkpoint consists of.

    Attributes:
        family: one of ``FAMILIES``.
        model: the transformers model, float32, on the CPU, in evaluation mode.
        tokenizer: the transformers tokeniser.
        settings: of the picture transform.
    """

    family: str
    model: Any
    tokenizer: Any
    settings: dict[str, Any]


def model_type(folder: Path) -> str | None:
    """``model_type`` of a local folder's config.json; None where there is no such config."""
    try:
        fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    found = fields.get("model_type") if isinstance(fields, dict) else None
    return found if isinstance(found, str) else None


def read_parts(source: str | Path, families: Sequence[str] = tuple(FAMILIES)) -> Parts:
    """Read a checkpoint of one of some families.

    Args:
        source: local folder in the form of ``save_pretrained``, or a name that transformers downloads from the hub.
        families: which are wanted.

    Raises:
        CheckpointError: it is none of these, a part is missing, or the hub can not be reached.
    """
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    folder = Path(source)
    wanted = " or ".join(FAMILIES[family].label for family in families)
    if folder.is_dir():
        _check_folder(folder, families)
    name = reachable(source)
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(name)
            family = str(config.model_type)
            if family not in families:
                raise CheckpointError(f"'{source}' describes a {family!r} model. Expected {wanted}.")
            kind: Any = getattr(transformers, FAMILIES[family].model)
            model, found = kind.from_pretrained(name, output_loading_info=True, dtype="float32")
            tokenizer = read_tokenizer(name, family)
            settings = picture_settings(name, family, config.vision_config)
    except (*READ_ERRORS, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"'{source}' can not be loaded as a {wanted} model: {reason} "
            "Expected a local folder of one, or its name on the hub."
        ) from None
    missing = sorted(k for k in found["missing_keys"] if not k.endswith("position_ids"))
    if missing:
        raise CheckpointError(
            f"'{source}' lacks {len(missing)} weights of a {FAMILIES[family].label} model, the first is `{missing[0]}`."
        )
    return Parts(family, model.float().eval(), tokenizer, settings)


def reachable(source: str | Path) -> str:
    """Where transformers is to read a checkpoint: a folder, or a name on the hub.

    A name is asked for once, because transformers tries again for half a minute where there is no network. If the hub
    does not answer, the folder of an earlier download serves.

    Raises:
        CheckpointError: the hub has no such model, or can not be reached and the model was never downloaded.
    """
    name = str(source)
    if Path(source).is_dir():
        return name
    from huggingface_hub import model_info
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        HFValidationError,
        HTTPError,
        RepositoryNotFoundError,
    )

    try:
        model_info(name, timeout=10)
    except (RepositoryNotFoundError, HFValidationError):
        raise CheckpointError(
            f"'{name}' is neither a folder here nor a public model on the hub. Expected one of them."
        ) from None
    except (OSError, HTTPError) as error:
        folder = downloaded(name)
        if folder is None:
            reason = " ".join(str(error).split())[:120]
            raise CheckpointError(
                f"'{name}' is no folder here, and the hub can not be reached: {reason}. "
                "Check the name and the network, or give the folder of a checkpoint."
            ) from None
        return str(folder)
    return name


def downloaded(name: str) -> Path | None:
    """The folder in which the files of a model from the hub lie since an earlier download; None without one."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _check_folder(folder: Path, families: Sequence[str]) -> None:
    """Refuse a local folder that lacks a part, before transformers looks for it elsewhere."""
    wanted = " or ".join(FAMILIES[family].label for family in families)
    config = folder / "config.json"
    if not config.is_file():
        raise CheckpointError(f"'{folder}' holds no config.json. Expected a local folder of a {wanted} model.")
    kind = model_type(folder)
    if kind is None:
        raise CheckpointError(f"'{config}' is not the config of a model: it names no `model_type`. Expected {wanted}.")
    if kind not in families:
        raise CheckpointError(f"'{config}' describes a {kind!r} model. Expected {wanted}.")
    files = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")
    if not any((folder / name).is_file() for name in files):
        raise CheckpointError(
            f"'{folder}' holds no {FAMILIES[kind].label} vocabulary. Expected tokenizer.json, "
            "or vocab.json and merges.txt."
        )


def read_tokenizer(source: str, family: str) -> Any:
    """The tokeniser of a checkpoint, as transformers reads it.

    Where transformers' own class needs sentencepiece and that is not installed, ``tokenizer.json`` serves alone.
    """
    import transformers

    if family == "clip":
        return transformers.CLIPTokenizer.from_pretrained(source)
    try:
        return transformers.AutoTokenizer.from_pretrained(source)
    except (ImportError, ValueError, TypeError, AttributeError):
        fast: Any = transformers.PreTrainedTokenizerFast
        return fast.from_pretrained(source)


def picture_settings(source: str, family: str, vision: Any) -> dict[str, Any]:
    """The stored settings of the picture transform, over those that follow from the vision model."""
    import transformers

    known = FAMILIES[family]
    kind: Any = getattr(transformers, known.transform)
    if family == "siglip2":
        default: dict[str, Any] = {"patch_size": vision.patch_size, "max_num_patches": vision.num_patches}
    else:
        side = {"height": int(vision.image_size), "width": int(vision.image_size)}
        default = {"size": side}
        if family == "clip":
            default = {"size": {"shortest_edge": int(vision.image_size)}, "crop_size": side}
    folder = Path(source)
    if folder.is_dir() and not (folder / "preprocessor_config.json").is_file():
        return default
    stored, _ = kind.get_image_processor_dict(source)
    return {**default, **{name: stored[name] for name in known.settings if stored.get(name) is not None}}


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' bars and load reports: what they would say is checked and raised."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
