"""Models that need no training here: CLIP, SigLIP and SigLIP 2 checkpoints of transformers, local or on the hub.

``patchword.load`` comes here when a folder's config.json is one of transformers', or when nothing local has the name.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch

from patchword.checkpoint import inference_state, require_utf8
from patchword.data.clip_files import FAMILIES, Parts, downloaded, model_type, read_parts
from patchword.data.hf_tokenizer import HfTokenizer
from patchword.encoders.clip_towers import tower_configs
from patchword.errors import CheckpointError, ConfigError
from patchword.methods.clip import Clip, ClipConfig, Interaction
from patchword.model import Model

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_zero_shot(path: Path | str) -> bool:
    """Whether a name means a transformers checkpoint: such a folder, or ``owner/name`` where no such path begins here.

    Example:
        >>> is_zero_shot("openai/clip-vit-base-patch32"), is_zero_shot("/no/such/run"), is_zero_shot("run")
        (True, False, False)
    """
    place = Path(path)
    if place.exists():
        return model_type(place) is not None and not is_checkpoint(place)
    return _HUB_NAME.fullmatch(str(path)) is not None and not Path(place.parts[0]).exists()


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder's config.json is one of ours."""
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return isinstance(fields, dict) and "format" in fields and "method" in fields


def load_zero_shot(source: Path | str, *, interaction: Interaction = "global", device: str = "cpu") -> Model:
    """Load a CLIP, SigLIP or SigLIP 2 checkpoint of transformers as a model of ours.

    Args:
        source: local folder in the form of ``save_pretrained``, or a name on the hub.
        interaction: ``global`` (published) or ``patches`` (ours, see ``methods/clip.py``).
        device: where the weights go.

    Raises:
        CheckpointError: it is no such checkpoint, a part is missing, or the hub can not be reached.
    """
    require_utf8(Path(source))
    parts = read_parts(source)
    tokenizer = HfTokenizer.of(parts.tokenizer, int(parts.model.config.text_config.max_position_embeddings))
    check_marks(source, parts, tokenizer)
    image, text, width = tower_configs(parts, tokenizer)
    config = ClipConfig(image=image, text=text, joint_dim=width, interaction=interaction)
    method = Clip(config, model=parts.model).to(device).eval()
    import transformers

    about: dict[str, Any] = {"zero_shot": FAMILIES[parts.family].label, "transformers": transformers.__version__}
    if Path(source).is_dir():
        return Model(method, tokenizer, about, Path(source))
    return Model(method, tokenizer, {**about, "hub": str(source)}, downloaded(str(source)))


def check_marks(source: Path | str, parts: Parts, tokenizer: HfTokenizer) -> None:
    """Refuse a tokeniser that does not fit the text model, which would pool the wrong word without a sign.

    Raises:
        CheckpointError: it has more ids than the model, no end mark, or another end mark than CLIP pools.
    """
    text = parts.model.config.text_config
    if tokenizer.size > text.vocab_size:
        raise CheckpointError(
            f"'{source}': the tokeniser has {tokenizer.size:,} tokens, the text model {text.vocab_size:,}. "
            "Use the tokeniser the model was trained with."
        )
    # The number 2 is what old files of OpenAI's models say; transformers then pools the largest id.
    end = tokenizer.after[0] if tokenizer.after else None
    if parts.family == "clip" and end != (tokenizer.size - 1 if text.eos_token_id == 2 else text.eos_token_id):
        raise CheckpointError(
            f"'{source}': the tokeniser ends a caption with id {end}, but the text model pools id {text.eos_token_id}. "
            "Use the tokeniser the model was trained with."
        )


def with_interaction(model: Model, interaction: Interaction | None) -> Model:
    """A loaded model with another interaction; the weights are the same.

    Raises:
        ConfigError: the method has none to choose.
    """
    if interaction is None:
        return model
    if not isinstance(model.method, Clip):
        raise ConfigError(
            f"`interaction` was given, but '{model.path}' is a {model.method.name}. "
            "Only CLIP, SigLIP and SigLIP 2 models have one to choose."
        )
    model.method.choose(interaction)
    return model


def fingerprint(model: Model) -> str:
    """What tells one model from another: a hash of its configuration and of the weights that encode and score."""
    found = hashlib.sha256(json.dumps(model.method.config.model_dump(mode="json"), sort_keys=True).encode())
    for name, value in sorted(inference_state(model.method).items()):
        found.update(name.encode())
        found.update(value.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
