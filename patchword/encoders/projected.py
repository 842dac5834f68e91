"""Patch vectors in the joint space: a linear projection, and beside it the MLP that VSE-infinity introduced."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from patchword.encoders.patches import RegionsConfig, VitConfig, build_patches
from patchword.encoders.resnet import ResnetConfig
from patchword.layers.linear import xavier
from patchword.layers.normalise import GlobalBatchNorm
from patchword.types import Images, real_slots


class PatchMlp(nn.Module):
    """Linear, batch norm, ReLU, linear on every patch."""

    def __init__(self, width: int, joint_dim: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, joint_dim // 2)
        self.norm = GlobalBatchNorm(joint_dim // 2)
        self.second = nn.Linear(joint_dim // 2, joint_dim)

    def forward(self, patches: Float[Tensor, "B R F"], counted: Bool[Tensor, "B R"]) -> Float[Tensor, "B R D"]:
        """Transform every slot; only the ``counted`` ones enter the batch statistics, the others come out as zeros."""
        hidden = torch.relu(self.norm(self.first(patches[counted])))
        rows: Tensor = self.second(hidden)
        if bool(counted.all()):
            return rows.reshape(*counted.shape, -1)
        return rows.new_zeros(*counted.shape, rows.shape[1]).masked_scatter(counted[..., None], rows)


class ProjectedPatches(nn.Module):
    """u_r = W x_r + b, or u_r = W x_r + b + MLP(x_r).

    Args:
        image: what the patches are.
        joint_dim: D.
        residual_mlp: add the MLP.
        padding: ``reference`` lets padded slots into the MLP's batch statistics, as the authors' code does;
            ``masked`` leaves them out.
        xavier_mlp: start the MLP with Xavier weights and no bias, too (HREM and AAHR).
    """

    def __init__(
        self,
        image: RegionsConfig | ResnetConfig | VitConfig,
        joint_dim: int,
        *,
        residual_mlp: bool = True,
        padding: Literal["reference", "masked"] = "masked",
        xavier_mlp: bool = False,
    ) -> None:
        super().__init__()
        self.padding = padding
        self.patches = build_patches(image)
        self.fc = nn.Linear(self.patches.width, joint_dim)
        if not xavier_mlp:
            xavier(self.fc)
        self.mlp = PatchMlp(self.patches.width, joint_dim) if residual_mlp else None
        if xavier_mlp and self.mlp is not None:
            for layer in (self.fc, self.mlp.first, self.mlp.second):
                xavier(layer)

    def features(self, images: Images) -> tuple[Float[Tensor, "B R D"], Int[Tensor, " B"]]:
        """Patch vectors u before pooling, and their number."""
        patches, lengths = self.patches(images)
        counted = torch.ones(patches.shape[:2], dtype=torch.bool, device=patches.device)
        if self.padding == "masked":
            counted = real_slots(lengths, patches.shape[1])
        return self.project(patches, counted), lengths

    def project(self, patches: Float[Tensor, "B R F"], counted: Bool[Tensor, "B R"]) -> Float[Tensor, "B R D"]:
        """u of every slot; the ``counted`` ones enter the MLP's batch statistics."""
        projected: Tensor = self.fc(patches)
        return projected if self.mlp is None else self.mlp(patches, counted) + projected
