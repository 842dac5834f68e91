"""Towers that give all their tokens, projected and nothing else: a ViT with its class token, a Swin, a BERT.

Where the hidden size is the joint width there is no projection. Other image towers serve too, always projected.
Source: CrossmodalGroup/LAPS and ICME2025ITR/SCTA ``lib/encoders.py``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from patchword.encoders.bert import Bert, BertConfig
from patchword.encoders.bigru import Bigru, BigruConfig
from patchword.encoders.patches import RegionsConfig, TransformerPatches, VitConfig, build_patches
from patchword.encoders.pretrained import hf_config
from patchword.encoders.resnet import ResnetConfig, grid_cells
from patchword.encoders.text import build_text
from patchword.types import Images


class ClassVitConfig(VitConfig):
    """A ViT whose class token is one more token of the image, as published.

    Attributes:
        class_token: False leaves it out.
    """

    kind: Literal["vit"] = "vit"
    class_token: bool = True


class SwinPatchConfig(VitConfig):
    """A Swin, which has no class token."""

    kind: Literal["swin"] = "swin"

    @model_validator(mode="after")
    def _no_class_token(self) -> SwinPatchConfig:
        if self.class_token:
            raise ValueError("a swin has no class token; leave out class_token, or set it to false")
        return self


TokenConfig = Annotated[RegionsConfig | ResnetConfig | ClassVitConfig | SwinPatchConfig, Field(discriminator="kind")]


class UnprojectedBert(Bert):
    """A BERT whose hidden size is the joint width: no projection stands on it."""

    def __init__(self, config: BertConfig, joint_dim: int) -> None:
        super().__init__(config, joint_dim)
        del self.linear

    def forward(self, tokens: Int[Tensor, "C L"], lengths: Int[Tensor, " C"]) -> Float[Tensor, "C L D"]:
        """Encode a padded batch; padded positions come out as arbitrary values."""
        mask = (tokens != 0).to(self.bert.dtype)
        hidden: Tensor = self.bert(input_ids=tokens, attention_mask=mask).last_hidden_state
        return hidden


def build_words(config: BertConfig | BigruConfig, joint_dim: int) -> Bert | Bigru:
    """The text tower; a BERT of the joint width has no projection, as in the authors' code."""
    if isinstance(config, BertConfig) and hf_config("bert", config.arch).hidden_size == joint_dim:
        return UnprojectedBert(config, joint_dim)
    return build_text(config, joint_dim)


class ImageTower(nn.Module):
    """All tokens of the backbone, projected; nothing is normalised.

    A ViT or Swin of the joint width has no projection, as in the authors' code. Region features always have one.
    """

    def __init__(self, config: TokenConfig, joint_dim: int) -> None:
        super().__init__()
        self.patches = build_patches(config)
        plain = isinstance(self.patches, TransformerPatches) and self.patches.width == joint_dim
        self.fc = nn.Identity() if plain else nn.Linear(self.patches.width, joint_dim)

    def forward(self, images: Images) -> tuple[Float[Tensor, "B R D"], Int[Tensor, " B"]]:
        """Token vectors, the class token first where there is one, and their number."""
        tokens, lengths = self.patches(images)
        return self.fc(tokens), lengths


def patch_count(image: TokenConfig) -> int:
    """Patches of the image tower, the class token not counted; 36 for region features.

    Example:
        >>> patch_count(ClassVitConfig()), patch_count(SwinPatchConfig())
        (196, 49)
    """
    if isinstance(image, VitConfig):
        arch = hf_config(image.kind, image.arch)
        side = arch.image_size // arch.patch_size
        if image.kind == "swin":
            for _ in arch.depths[1:]:
                side = (side + 1) // 2
        return int(side * side)
    return grid_cells(image) if isinstance(image, ResnetConfig) else 36
