"""ResNet grid features: the bottom-up-attention backbone (Caffe style) and the ordinary ResNet / ResNeXt layout.

Two details set the Caffe style apart: a stage's stride sits on the first 1x1 convolution of its first bottleneck, and
the stem's max pool is 3x3, stride 2, without padding but with ceil mode.
Source: He et al., "Deep Residual Learning" (CVPR 2016); woodfrog/vse_infty ``lib/modules/resnet.py``.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from patchword.config import Config
from patchword.errors import CheckpointError
from patchword.types import Images


class ResnetConfig(Config):
    """A grid backbone over raw images.

    Attributes:
        layers: bottlenecks per stage; (3, 4, 23, 3) is ResNet-101.
        base_width: channels of the stem (64).
        groups, group_width: (1, 64) is a ResNet, (32, 8) the ResNeXt-101 32x8d.
        caffe: Caffe style as described in the file's docstring; False is the ordinary layout.
        image_size: side of the square input in pixels.
        pixels: ``detector`` (BGR minus means) or ``imagenet`` (RGB, mean and standard deviation).
        weights: local file: a state dict, or a dict of ``base`` and ``top`` state dicts; None starts at random.
    """

    kind: Literal["resnet"] = "resnet"
    layers: tuple[int, int, int, int] = (3, 4, 23, 3)
    base_width: int = Field(64, gt=0)
    groups: int = Field(1, gt=0)
    group_width: int = Field(64, gt=0)
    caffe: bool = True
    image_size: int = Field(512, gt=0)
    pixels: Literal["detector", "imagenet"] = "detector"
    weights: Path | None = None


def grid_cells(config: ResnetConfig) -> int:
    """Number of cells of the last stage for the configured image size.

    Example:
        >>> grid_cells(ResnetConfig()), grid_cells(ResnetConfig(caffe=False, image_size=224))
        (256, 49)
    """
    side = (config.image_size - 1) // 2 + 1  # 7x7, stride 2, padding 3
    side = (side - 2) // 2 + 1 if config.caffe else (side - 1) // 2 + 1  # max pool: ceil((side - 3) / 2) + 1, or padded
    for _ in range(3):
        side = (side - 1) // 2 + 1
    return side * side


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with a shortcut."""

    def __init__(self, channels: int, planes: int, stride: int, config: ResnetConfig) -> None:
        super().__init__()
        width = planes * config.group_width // 64 * config.groups if config.groups > 1 else planes
        first, second = (stride, 1) if config.caffe else (1, stride)
        self.conv1 = nn.Conv2d(channels, width, 1, stride=first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=second, padding=1, groups=config.groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, planes * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * 4)
        self.downsample = None
        if stride != 1 or channels != planes * 4:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, planes * 4, 1, stride=stride, bias=False), nn.BatchNorm2d(planes * 4)
            )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Residual block."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


class Resnet(nn.Module):
    """Everything up to the last stage, no pooling; cells come out row by row.

    Batch normalisation always uses its running statistics, in training too; its affine parameters train when not
    frozen.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, config: ResnetConfig) -> None:
        super().__init__()
        w = config.base_width
        self.width = w * 32
        self.conv1 = nn.Conv2d(3, w, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(w)
        self.maxpool = nn.MaxPool2d(3, 2, 0, ceil_mode=True) if config.caffe else nn.MaxPool2d(3, 2, 1)
        channels = w
        for stage, blocks in enumerate(config.layers, start=1):
            planes, stride = w * 2 ** (stage - 1), 1 if stage == 1 else 2
            units = [Bottleneck(channels, planes, stride, config)]
            units += [Bottleneck(planes * 4, planes, 1, config) for _ in range(blocks - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(*units))
            channels = planes * 4
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.train()

    def train(self, mode: bool = True) -> Resnet:
        """Set training mode, except for batch normalisation."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: Images) -> tuple[Float[Tensor, "B R F"], Int[Tensor, " B"]]:
        """Grid cells ``(B, h*w, F)`` and their number."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(images.values))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        cells = x.flatten(2).transpose(1, 2)  # (B, h*w, F), row-major
        return cells, torch.full(cells.shape[:1], cells.shape[1], device=cells.device)

    def freeze_blocks(self, blocks: int) -> None:
        """Freeze the stem and stages 1..blocks; 0 frees everything, 4 freezes everything."""
        self.requires_grad_(True)
        parts = [nn.ModuleList([self.conv1, self.bn1, self.layer1]), self.layer2, self.layer3, self.layer4]
        for part in parts[:blocks]:
            part.requires_grad_(False)

    def load_weights(self, path: Path) -> None:
        """Read backbone weights from a local file, every one of them demanded.

        Raises:
            CheckpointError: the file is missing, unreadable, lacks a weight, or one has another shape.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise CheckpointError(f"backbone weights '{path}' do not exist.") from None
        except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"backbone weights '{path}' can not be read safely: {type(error).__name__}."
            ) from error
        if not isinstance(state, dict):
            raise CheckpointError(f"backbone weights '{path}' holds a {type(state).__name__}. Expected a state dict.")
        if {"base", "top"} <= set(state):
            parts = {f"{part}.{k}": v for part in ("base", "top") for k, v in state[part].items()}
            state = rename_backbone(parts)
        own = self.state_dict()
        missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
        if missing:
            raise CheckpointError(
                f"backbone weights '{path}' lack {len(missing)} tensors, the first is `{missing[0]}`."
            )
        chosen = {k: state.get(k, own[k]) for k in own}
        for key, value in own.items():
            if chosen[key].shape != value.shape:
                raise CheckpointError(
                    f"backbone weights '{path}': `{key}` has shape {tuple(chosen[key].shape)}, "
                    f"the model expects {tuple(value.shape)}."
                )
        self.load_state_dict(chosen)


_AUTHORS_MODULES = {
    "base.0": "conv1",
    "base.1": "bn1",
    "base.4": "layer1",
    "base.5": "layer2",
    "base.6": "layer3",
    "top.0": "layer4",
}


def rename_backbone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The authors' ``base.N.*`` / ``top.0.*`` names as ``conv1``, ``bn1``, ``layer1`` ... ``layer4``."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        module = ".".join(key.split(".")[:2])
        renamed[key.replace(module, _AUTHORS_MODULES.get(module, module), 1)] = value
    return renamed
