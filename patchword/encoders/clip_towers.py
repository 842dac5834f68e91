"""The two towers of CLIP, SigLIP and SigLIP 2 as transformers builds them: their pooled vectors and their tokens.

Pooled vectors are those of ``get_image_features`` and ``get_text_features``. Sources: Radford et al. 2021 (CLIP), Zhai
et al. 2023 (SigLIP), Tschannen et al. 2025 (SigLIP 2); the modules are transformers'.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from patchword.config import Config
from patchword.data.clip_files import FAMILIES, Parts
from patchword.data.clip_pixels import ClipTransform, grid, split_shapes
from patchword.data.hf_tokenizer import HfTokenizer
from patchword.errors import ConfigError, ShapeError
from patchword.types import Images, real_slots

FamilyName = Literal["clip", "siglip", "siglip2"]

# Fields of a stored configuration that say how it was made or used, not what the model is.
_NOT_ARCHITECTURE = {
    "architectures", "transformers_version", "_name_or_path", "dtype", "torch_dtype", "id2label", "label2id",
    "output_hidden_states", "output_attentions", "return_dict", "chunk_size_feed_forward", "is_encoder_decoder",
    "problem_type", "model_type",
}  # fmt: skip


class ClipImageConfig(Config):
    """The vision tower.

    Attributes:
        kind: the family; ``siglip2`` is NaFlex (SigLIP 2 of a fixed size is stored as ``siglip``).
        arch: fields of transformers' vision configuration.
        transform: settings of transformers' picture transform.
    """

    kind: FamilyName
    arch: dict[str, Any] = Field(default_factory=dict)
    transform: dict[str, Any] = Field(default_factory=dict)

    def pixel_transform(self) -> ClipTransform:
        """How pictures become what the tower reads."""
        return ClipTransform(self.kind, self.transform)


class ClipTextConfig(Config):
    """The text tower.

    Attributes:
        arch: fields of transformers' text configuration.
        start_marks: marks before the first word, which are the same for every caption.
        pad: id that fills a caption up to the context; SigLIP was trained on filled captions.
        pad_side: where the filling stands.
        masks_padding: whether the filling is hidden from attention.
    """

    arch: dict[str, Any] = Field(default_factory=dict)
    start_marks: int = Field(0, ge=0)
    pad: int = Field(0, ge=0)
    pad_side: Literal["right", "left"] = "right"
    masks_padding: bool = False


def architecture(config: Any) -> dict[str, Any]:
    """The fields of a transformers configuration that say what the model is."""
    return {k: v for k, v in config.to_dict().items() if k not in _NOT_ARCHITECTURE}


def tower_configs(parts: Parts, tokenizer: HfTokenizer) -> tuple[ClipImageConfig, ClipTextConfig, int]:
    """What a checkpoint's parts say: vision tower, text tower, joint width."""
    config, theirs = parts.model.config, parts.tokenizer
    image = ClipImageConfig(kind=parts.family, arch=architecture(config.vision_config), transform=parts.settings)
    text = ClipTextConfig(arch=architecture(config.text_config), start_marks=len(tokenizer.before))
    if parts.family != "clip":
        text = text.model_copy(
            update={
                "pad": int(theirs.pad_token_id or 0),
                "pad_side": theirs.padding_side,
                "masks_padding": "attention_mask" in theirs.model_input_names,
            }
        )
    width = config.projection_dim if parts.family == "clip" else config.text_config.projection_size
    return image, text, int(width)


def build_clip(image: ClipImageConfig, text: ClipTextConfig, joint_dim: int) -> Any:
    """The transformers model of these towers, with random weights.

    Raises:
        ConfigError: the fields describe none.
    """
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    kind: Any = getattr(transformers, FAMILIES[image.kind].model)
    whole = {"projection_dim": joint_dim} if image.kind == "clip" else {}
    try:
        return kind(kind.config_class(text_config=dict(text.arch), vision_config=dict(image.arch), **whole))
    except (TypeError, ValueError, AttributeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"`arch` of the {image.kind} towers does not describe them: {reason}.") from None


class ImageTower(nn.Module):
    """A vision transformer with its projection (CLIP) or its attention pooling (SigLIP)."""

    def __init__(self, config: ClipImageConfig, model: Any) -> None:
        super().__init__()
        self.kind = config.kind
        self.backbone = model.vision_model
        self.projection = model.visual_projection if config.kind == "clip" else nn.Identity()
        if config.kind != "clip" and not self.backbone.use_head:
            raise ConfigError("this SigLIP has no pooling head (vision_use_head is false), so it gives no vector.")
        side = 0 if config.kind == "siglip2" else self.backbone.config.image_size // self.backbone.config.patch_size
        self.side = side

    def run(self, images: Images) -> tuple[Any, Int[Tensor, "B 2"]]:
        """Output of the vision model, and the height and width of each picture's grid of patches."""
        if images.lengths is not None or images.values.ndim != (3 if self.kind == "siglip2" else 4):
            raise ShapeError("this model reads raw images, but region features were given. Use --data.images pictures.")
        if self.kind != "siglip2":
            shapes = torch.full((images.values.shape[0], 2), self.side, device=images.values.device)
            return self.backbone(pixel_values=images.values), shapes
        patches, shapes = split_shapes(images.values)
        mask = real_slots(shapes.prod(1), patches.shape[1])
        found = self.backbone(pixel_values=patches, pixel_attention_mask=mask.long(), spatial_shapes=shapes)
        return found, shapes

    def pooled(self, images: Images) -> Float[Tensor, "B D"]:
        """The vector of each image, not normalised."""
        vectors: Tensor = self.projection(self.run(images)[0].pooler_output)
        return vectors

    def patches(self, images: Images) -> tuple[Float[Tensor, "B R D"], Int[Tensor, " B"]]:
        """The vector of each patch in the joint space, not normalised, and their number.

        CLIP: layer norm and projection, which it applies to its class token, applied to every patch token. SigLIP: its
        pooling head applied to every patch alone. Neither was trained; both give vectors in the joint space.
        """
        found, shapes = self.run(images)
        tokens = found.last_hidden_state
        if self.kind == "clip":
            vectors: Tensor = self.projection(self.backbone.post_layernorm(tokens[:, 1:]))
        else:
            alone = tokens.reshape(-1, 1, tokens.shape[-1])  # (B * R, 1, hidden)
            vectors = self.backbone.head(alone).view(*tokens.shape[:2], -1)
        return vectors, shapes.prod(1)

    def boxes(self, images: Images) -> Float[Tensor, "R 4"]:
        """Boxes of the patches of the first image, in 0..1 of what its pixels show."""
        if self.kind == "siglip2":
            height, width = split_shapes(images.values)[1][0].tolist()
            return grid(height, width)
        return grid(self.side, self.side)


class TextTower(nn.Module):
    """A text transformer with its projection."""

    def __init__(self, config: ClipTextConfig, model: Any, kind: FamilyName) -> None:
        super().__init__()
        self.config, self.kind = config, kind
        self.backbone = model.text_model
        self.projection = model.text_projection if kind == "clip" else nn.Identity()

    @property
    def context(self) -> int:
        """Most tokens of a caption."""
        return int(self.backbone.config.max_position_embeddings)

    def place(
        self, tokens: Int[Tensor, "C L"], lengths: Int[Tensor, " C"]
    ) -> tuple[Int[Tensor, "C T"], Int[Tensor, "C T"] | None, Int[Tensor, " C"]]:
        """What the transformer reads: ids, its mask if it has one, and where each caption begins.

        CLIP reads captions as they are: its attention looks backwards only, so padding behind the end mark is never
        seen. SigLIP was trained on captions filled up to the whole context.
        """
        if tokens.shape[1] > self.context:
            raise ShapeError(f"a caption has {tokens.shape[1]} tokens. This model reads at most {self.context}.")
        steps = torch.arange(self.context if self.kind != "clip" else tokens.shape[1], device=tokens.device)
        starts = torch.zeros_like(lengths) if self.config.pad_side == "right" else len(steps) - lengths
        source = steps - starts[:, None]  # (C, T)
        real = (source >= 0) & (source < lengths[:, None])
        ids = tokens.gather(1, source.clamp(0, tokens.shape[1] - 1)).masked_fill(~real, self.config.pad)
        return ids, real.long() if self.config.masks_padding else None, starts

    def run(self, tokens: Int[Tensor, "C L"], lengths: Int[Tensor, " C"]) -> tuple[Any, Int[Tensor, " C"]]:
        """Output of the text model, and where each caption begins in it."""
        ids, mask, starts = self.place(tokens, lengths)
        return self.backbone(input_ids=ids, attention_mask=mask), starts

    def pooled(self, tokens: Int[Tensor, "C L"], lengths: Int[Tensor, " C"]) -> Float[Tensor, "C D"]:
        """The vector of each caption, not normalised."""
        vectors: Tensor = self.projection(self.run(tokens, lengths)[0].pooler_output)
        return vectors

    def words(self, tokens: Int[Tensor, "C L"], lengths: Int[Tensor, " C"]) -> Float[Tensor, "C L D"]:
        """The vector of each token in the joint space, not normalised: what projects the pooled token, on all."""
        found, starts = self.run(tokens, lengths)
        hidden = found.last_hidden_state
        steps = torch.arange(tokens.shape[1], device=tokens.device)
        places = (starts[:, None] + steps).clamp(max=hidden.shape[1] - 1)  # (C, L)
        own = hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[2]))
        vectors: Tensor = self.projection(own) if self.kind == "clip" else self.backbone.head(own)
        return vectors
