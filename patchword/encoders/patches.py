"""From a batch of images to raw patch vectors ``(B, R, F)``: region files, ResNet grids, ViT and Swin tokens.

A method puts its own projection on top; here nothing is projected, normalised or pooled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from patchword.config import Config
from patchword.data.augment import keep_rows
from patchword.data.pictures import DetectorTransform, ImagenetTransform, VitTransform
from patchword.encoders.pretrained import hf_config, load_pretrained
from patchword.encoders.resnet import Resnet, ResnetConfig
from patchword.errors import ShapeError
from patchword.types import Images


class RegionsConfig(Config):
    """Precomputed region features.

    Attributes:
        width: F of the feature file (2048 for bottom-up attention).
    """

    kind: Literal["regions"] = "regions"
    width: int = Field(2048, gt=0)


class VitConfig(Config):
    """Tokens of a vision transformer over raw images.

    Attributes:
        kind: ``vit`` or ``swin``.
        pretrained: folder with ``config.json`` and weights, or a name on the hub, which is fetched once; None starts
            from random weights.
        arch: fields of transformers' ``ViTConfig`` / ``SwinConfig`` that differ from its defaults.
        class_token: keep ViT's class token as one more patch.
        pixel_mean, pixel_std: RGB normalisation after scaling to 0..1.
    """

    kind: Literal["vit", "swin"] = "vit"
    pretrained: Path | None = None
    arch: dict[str, Any] = Field(default_factory=dict)
    class_token: bool = False
    pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    pixel_std: tuple[float, float, float] = (0.229, 0.224, 0.225)


PatchConfig = Annotated[RegionsConfig | ResnetConfig | VitConfig, Field(discriminator="kind")]


class Regions(nn.Module):
    """Region features as they come from the file."""

    def __init__(self, config: RegionsConfig) -> None:
        super().__init__()
        self.width = config.width

    def forward(self, images: Images) -> tuple[Float[Tensor, "B R F"], Int[Tensor, " B"]]:
        """The features and the number of regions of each image.

        Raises:
            ShapeError: the features have another width, or the images are pixels.
        """
        if images.lengths is None or images.values.ndim != 3:
            raise ShapeError(
                "this model reads region features, but pictures were given. Use --data.images features, "
                "or a model over raw images."
            )
        if images.values.shape[-1] != self.width:
            raise ShapeError(
                f"features have width {images.values.shape[-1]}, "
                f"the model was built for {self.width} (model.image.width)."
            )
        return images.values, images.lengths

    def freeze_blocks(self, blocks: int) -> None:
        """Nothing to do: there are no weights."""


class TransformerPatches(nn.Module):
    """Tokens of the last layer of a ViT or Swin."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        import transformers

        arch = hf_config(config.kind, config.arch)
        model = transformers.ViTModel if config.kind == "vit" else transformers.SwinModel
        self.backbone = model(arch, add_pooling_layer=False)
        self.skip = 1 if config.kind == "vit" and not config.class_token else 0
        self.width = int(arch.hidden_size)

    def forward(self, images: Images) -> tuple[Float[Tensor, "B R F"], Int[Tensor, " B"]]:
        """Patch tokens in row-major order (after the class token, if that is kept)."""
        if images.lengths is not None:
            raise ShapeError("this model reads raw images, but region features were given. Use --data.images pictures.")
        tokens = self.backbone(pixel_values=images.values).last_hidden_state[:, self.skip :]
        return tokens, torch.full(tokens.shape[:1], tokens.shape[1], device=tokens.device)

    def freeze_blocks(self, blocks: int) -> None:
        """Freeze all of the backbone (blocks >= 4) or nothing."""
        self.backbone.requires_grad_(blocks < 4)

    def load_pretrained(self, folder: Path) -> None:
        """Copy the weights of a local ViT or Swin folder."""
        load_pretrained(self.backbone, folder, ignored=("pooler.", "classifier."))


class GridPatches(nn.Module):
    """Cells of a ResNet grid, with the size augmentation of VSE-infinity in training."""

    def __init__(self, config: ResnetConfig) -> None:
        super().__init__()
        self.backbone = Resnet(config)
        self.width = self.backbone.width

    def forward(self, images: Images) -> tuple[Float[Tensor, "B R F"], Int[Tensor, " B"]]:
        """Grid cells; where ``images.keep`` is given, only the kept ones, in order."""
        if images.lengths is not None:
            raise ShapeError("this model reads raw images, but region features were given. Use --data.images pictures.")
        cells, lengths = self.backbone(images)
        if images.keep is None:
            return cells, lengths
        if images.keep.shape != cells.shape[:2]:
            raise ShapeError(
                f"{tuple(images.keep.shape)} keep flags for {tuple(cells.shape[:2])} grid cells: "
                "the image sizes of data and model differ."
            )
        return keep_rows(cells, images.keep)

    def freeze_blocks(self, blocks: int) -> None:
        """Freeze the first stages of the backbone."""
        self.backbone.freeze_blocks(blocks)


def freezable_stages(config: RegionsConfig | ResnetConfig | VitConfig) -> tuple[int, ...]:
    """The numbers of stages that ``freeze_blocks`` can freeze exactly; 4 is the whole backbone.

    Example:
        >>> freezable_stages(ResnetConfig()), freezable_stages(VitConfig()), freezable_stages(RegionsConfig())
        ((0, 1, 2, 3, 4), (0, 4), (0,))
    """
    if isinstance(config, ResnetConfig):
        return (0, 1, 2, 3, 4)
    return (0, 4) if isinstance(config, VitConfig) else (0,)


def pixel_transform(
    config: RegionsConfig | ResnetConfig | VitConfig,
) -> DetectorTransform | ImagenetTransform | VitTransform | None:
    """How pictures become the pixels that an encoder expects; None for region features."""
    if isinstance(config, ResnetConfig):
        return (
            DetectorTransform(config.image_size)
            if config.pixels == "detector"
            else ImagenetTransform(config.image_size)
        )
    if isinstance(config, VitConfig):
        size = hf_config(config.kind, config.arch).image_size
        return VitTransform(size, config.pixel_mean, config.pixel_std)
    return None


def build_patches(config: RegionsConfig | ResnetConfig | VitConfig) -> Regions | GridPatches | TransformerPatches:
    """The patch encoder that a configuration describes, with fresh weights."""
    if isinstance(config, RegionsConfig):
        return Regions(config)
    return GridPatches(config) if isinstance(config, ResnetConfig) else TransformerPatches(config)
