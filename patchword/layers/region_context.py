"""Spatial context of image regions: one pooled vector, the mean of every region's neighbours, a GRU over both.

Source: MMM-design/CEFG ``model.py`` (``collect_emb`` and the image part of the similarity module), after CMCAN. All of
it depends on the image only, so it is computed once for an image and not once for a pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from patchword.errors import ShapeError
from patchword.layers.normalise import GlobalBatchNorm, sum_over_processes, unit
from patchword.precision import in_float32
from patchword.types import real_slots

SLOPE = 0.1  # of every leaky ReLU in this system


def unit_or_zero(vectors: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
    """Divide by the length; a zero vector stays zero and passes no gradient (the authors' formula gives NaN there).

    Example:
        >>> unit_or_zero(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    return unit(torch.where((vectors != 0).any(-1, keepdim=True), vectors, vectors.detach()))


def slot_counts(adjacency: Bool[Tensor, "B R R"], slots: int) -> Float[Tensor, "B R R"]:
    """How many of the ``slots`` neighbour slots of region i are filled by region j.

    The ones of row i fill a slot each, and i itself fills the slots that are left. A row with more ones than slots
    keeps i and the lowest other indices: the authors' top-k over a row of equal values leaves the choice to the kernel.

    Example:
        >>> slot_counts(torch.tensor([[[True, True], [False, True]]]), 5).tolist()
        [[[4.0, 1.0], [0.0, 5.0]]]
    """
    itself = torch.eye(adjacency.shape[1], dtype=torch.bool, device=adjacency.device)
    others = adjacency & ~itself
    ones = adjacency.sum(2, keepdim=True)  # (B, R, 1)
    nearest = others & (others.cumsum(2) < slots)
    chosen = torch.where(ones > slots, (nearest | itself).float(), adjacency.float())  # of truths ONNX has no `where`
    return chosen + itself * (slots - ones).clamp_min(0)


class RegionNorm(nn.BatchNorm1d):
    """Batch normalisation with one mean and variance per region index, over the images of all processes and all widths.

    Where all images have all regions and there is one process, it is ``nn.BatchNorm1d(R)`` on ``(B, R, D)``. Padded
    regions do not count; an index that no image of the batch has keeps its running statistics.
    """

    def forward(
        self, values: Float[Tensor, "B R D"], real: Bool[Tensor, "B R"] | None = None
    ) -> Float[Tensor, "B R D"]:
        """Normalise every region with the statistics of its index; ``real`` marks the regions that count (None: all).

        Raises:
            ShapeError: there are more regions than the layer has indices.
        """
        regions = values.shape[1]
        if regions > self.num_features:
            raise ShapeError(
                f"an image has {regions} regions, but this model normalises {self.num_features} region indices "
                f"(model.regions). Use at most {self.num_features} regions an image, or train with more."
            )
        if real is None:
            real = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        several = dist.is_initialized() and dist.get_world_size() > 1
        if regions == self.num_features and not (self.training and (several or not bool(real.all()))):
            normalised: Tensor = super().forward(values)
            return normalised
        assert self.running_mean is not None
        assert self.running_var is not None
        values = values.float()  # statistics are float32 under autocast too
        mean, variance = self.running_mean[:regions], self.running_var[:regions]
        if self.training:
            mean, variance = self._batch_statistics(values, real, several)
        scale = self.weight[:regions] / torch.sqrt(variance + self.eps)
        return (values - mean[:, None]) * scale[:, None] + self.bias[:regions, None]

    def _batch_statistics(
        self, values: Float[Tensor, "B R D"], real: Bool[Tensor, "B R"], several: bool
    ) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
        """Mean and biased variance of every region index; moves the running statistics."""

        def total(part: Float[Tensor, " R"]) -> Float[Tensor, " R"]:
            return sum_over_processes(part) if several else part

        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        weight, regions = real.to(values)[..., None], values.shape[1]  # (B, R, 1)
        count = total(weight.sum((0, 2)) * values.shape[2])
        mean = total((values * weight).sum((0, 2))) / count.clamp_min(1)
        variance = total(((values - mean[:, None]).pow(2) * weight).sum((0, 2))) / count.clamp_min(1)
        with torch.no_grad():
            momentum = (self.momentum if self.momentum is not None else 0.1) * (count > 0)
            self.running_mean[:regions].lerp_(mean.detach(), momentum)
            self.running_var[:regions].lerp_(variance.detach() * count / (count - 1).clamp_min(1), momentum)
            self.num_batches_tracked += 1
        return mean, variance


@dataclass(frozen=True)
class RegionVectors:
    """What ``RegionContext`` makes of a batch of images.

    Attributes:
        logits: e, before any softmax.
        overall: the unit pooled vector of each image.
        length: n, the length of the pooled vector before (plus 1e-8).
        neighbours: m, the mean of each region's neighbours.
        context: ``(B, 2R, D)`` unit vectors, those of the n regions of an image first, then those of its n
            neighbourhoods, then zeros.
        lengths: 2n of each image.
    """

    logits: Float[Tensor, "B R"]
    overall: Float[Tensor, "B D"]
    length: Float[Tensor, "B 1"]
    neighbours: Float[Tensor, "B R D"]
    context: Float[Tensor, "B S D"]
    lengths: Int[Tensor, " B"]


class RegionContext(nn.Module):
    """From unit region vectors V and their adjacency to 2R context vectors and one pooled vector.

    P = drop(tanh(BN_R(W V + b)));  q = drop(tanh(BN_D(W' mean(V) + b')));  e_r = w . (P_r * q) + c
    u = sum of softmax(e)_r V_r;  n = ||u|| + 1e-8;  overall = u / n
    m_r = sum over slots of softmax(e over the slots of r) V;  y_r = unit(leaky(V_r * m_r / n))
    H = GRU([V_1..V_R, y_1..y_R]);  context = unit(H + [V_1..V_R, V_1..V_R])

    The second half adds V again, not y. The GRU follows the order of the regions in the file.

    Args:
        width: D.
        regions: region indices that are normalised, R.
        slots: neighbours of a region, itself included.
        dropout: on P and q, in training.
    """

    def __init__(self, width: int, regions: int, slots: int, dropout: float) -> None:
        super().__init__()
        self.slots = slots
        self.local, self.overall = nn.Linear(width, width), nn.Linear(width, width)
        self.local_norm, self.overall_norm = RegionNorm(regions), GlobalBatchNorm(width)
        self.common = nn.Linear(width, 1)
        self.rnn = nn.GRU(width, width, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.local, self.overall, self.common):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, regions: Float[Tensor, "B R D"], lengths: Int[Tensor, " B"], adjacency: Bool[Tensor, "B R R"]
    ) -> RegionVectors:
        """Pool the regions, and give each of them and each neighbourhood its context.

        Args:
            regions: unit vectors.
            lengths: real regions of each image; what lies in the other rows does not matter.
            adjacency: row i marks the neighbours of region i; padded regions are ignored.
        """
        real = real_slots(lengths, regions.shape[1])  # (B, R)
        regions = regions * real[..., None]
        mean = regions.sum(1) / lengths[:, None]
        local = self.dropout(torch.tanh(self.local_norm(self.local(regions), real)))
        overall = self.dropout(torch.tanh(self.overall_norm(self.overall(mean))))
        logits = self.common(local * overall[:, None])[..., 0]  # (B, R)
        pooled = torch.einsum("br,brd->bd", torch.softmax(logits.masked_fill(~real, -torch.inf), 1), regions)
        length = torch.linalg.vector_norm(pooled, dim=1, keepdim=True) + 1e-8
        counts = slot_counts(adjacency & real[:, None] & real[..., None], self.slots)
        weights = torch.softmax(logits[:, None] + counts.log(), dim=2)  # log 0 = -inf: no slot, no weight
        neighbours = weights @ regions  # (B, R, D)
        mixed = unit_or_zero(nn.functional.leaky_relu(regions * neighbours / length[..., None], SLOPE))
        with in_float32(regions):
            context = unit_or_zero(self._recurrent(regions.float(), mixed.float(), lengths))
        return RegionVectors(logits, unit_or_zero(pooled), length, neighbours, context, 2 * lengths)

    def _recurrent(
        self, regions: Float[Tensor, "B R D"], mixed: Float[Tensor, "B R D"], lengths: Int[Tensor, " B"]
    ) -> Float[Tensor, "B S D"]:
        """GRU over the regions and then their neighbourhoods, plus the regions twice."""
        if bool((lengths == regions.shape[1]).all()):
            states: Tensor = self.rnn(torch.cat([regions, mixed], 1))[0]
            return states + torch.cat([regions, regions], 1)
        sizes = lengths.tolist()
        inputs = [torch.cat([v[:n], y[:n]]) for v, y, n in zip(regions, mixed, sizes, strict=True)]
        twice = [torch.cat([v[:n], v[:n]]) for v, n in zip(regions, sizes, strict=True)]
        packed = self.rnn(nn.utils.rnn.pack_sequence(inputs, enforce_sorted=False))[0]
        padded, _ = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
        summed: Tensor = padded + nn.utils.rnn.pad_sequence(twice, batch_first=True)
        return summed
