"""Matching words with context vectors: regulated attention, and the two heads over its similarity vectors.

Source: MMM-design/CEFG ``model.py``; the regulator comes from Paranioar/RCAR, both heads (SGR, SAF) from
Paranioar/SGRAF. Everything here is for one caption at a time, as the equations are; ``patchword.scoring.regulated``
computes the same for many captions at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from patchword.layers.linear import xavier
from patchword.layers.normalise import unit
from patchword.layers.region_context import SLOPE, unit_or_zero


class WordPool(nn.Module):
    """One vector of a caption: b_j = w . (drop(tanh(W1 t_j)) * drop(tanh(W2 mean t))), t = sum of softmax(b)_j t_j.

    Biases are left out of the formula, and the result is a unit vector.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.local, self.overall = xavier(nn.Linear(width, width)), xavier(nn.Linear(width, width))
        self.common = xavier(nn.Linear(width, 1))
        self.dropout = nn.Dropout(dropout)

    def forward(self, words: Float[Tensor, "C L D"], real: Bool[Tensor, "C L"]) -> Float[Tensor, "C D"]:
        """Pool the real words of every caption; what lies in padded rows does not matter."""
        words = words.masked_fill(~real[..., None], 0.0)
        mean = words.sum(1) / real.sum(1, keepdim=True)
        local = self.dropout(torch.tanh(self.local(words)))
        overall = self.dropout(torch.tanh(self.overall(mean)))
        logits = self.common(local * overall[:, None])[..., 0].masked_fill(~real, -torch.inf)
        return unit_or_zero(torch.einsum("cl,cld->cd", torch.softmax(logits, 1), words))


class Regulator(nn.Module):
    """One refinement: from the similarity vector x of a word to its next modulation M and sharpness.

    M' = clamp(tanh(B2 tanh(B1 x)) + M, -1, 1);  sharpness' = relu(A2 tanh(A1 x) + sharpness); biases left out.

    Args:
        width, sim_dim: D and S.
        modulates: whether M' is read by anything; the last refinement's is not.
    """

    def __init__(self, width: int, sim_dim: int, *, modulates: bool) -> None:
        super().__init__()
        half = max(1, sim_dim // 2)
        self.sharpness = nn.Sequential(nn.Linear(sim_dim, half), nn.Tanh(), nn.Linear(half, 1))
        self.modulation = (
            nn.Sequential(nn.Linear(sim_dim, 2 * sim_dim), nn.Tanh(), nn.Linear(2 * sim_dim, width), nn.Tanh())
            if modulates
            else None
        )

    def forward(
        self, x: Float[Tensor, "*N S"], modulation: Float[Tensor, "*N D"] | None, sharpness: Float[Tensor, "*N"]
    ) -> tuple[Float[Tensor, "*N D"] | None, Float[Tensor, "*N"]]:
        """Next modulation (None where nothing reads it) and next sharpness; a modulation of None is all ones."""
        sharper = torch.relu(self.sharpness(x)[..., 0] + sharpness)
        if self.modulation is None:
            return None, sharper
        return (self.modulation(x) + (1.0 if modulation is None else modulation)).clamp(-1.0, 1.0), sharper


class GraphReasoning(nn.Module):
    """SGR: X <- relu(W (softmax(Q X (K X)^T) X)) over the nodes of a pair, a few times; the result is node 0.

    The softmax runs over the nodes of a row, is not scaled, and there is no residual.
    """

    def __init__(self, sim_dim: int, steps: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            nn.ModuleDict({name: xavier(nn.Linear(sim_dim, sim_dim)) for name in ("query", "key", "out")})
            for _ in range(steps)
        )

    def forward(self, nodes: Float[Tensor, "*N M S"], *, fixed: bool = False) -> Float[Tensor, "*N S"]:
        """Node 0 after all steps.

        Args:
            nodes: node 0 is the pair of pooled vectors, the others are words.
            fixed: treat the softmax as constant, for an attribution.
        """
        for k, step in enumerate(self.steps):
            assert isinstance(step, nn.ModuleDict)
            asking = nodes[..., :1, :] if k + 1 == len(self.steps) else nodes  # only node 0 of the last step is read
            edges = torch.softmax(step["query"](asking) @ step["key"](nodes).mT, dim=-1)
            nodes = torch.relu(step["out"]((edges.detach() if fixed else edges) @ nodes))
        return nodes[..., 0, :]


class GatedPooling(nn.Module):
    """SAF: g = sigmoid(BN(w . x_j)), g <- g / (sum |g| + 1e-8), z = unit(sum of g_j x_j).

    In training, the batch norm sees the values of one caption at a time (all images times its nodes), and its running
    statistics are moved once per caption, in caption order.
    """

    def __init__(self, sim_dim: int) -> None:
        super().__init__()
        self.gate = xavier(nn.Linear(sim_dim, 1))
        self.norm = nn.BatchNorm1d(1)

    def forward(
        self, nodes: Float[Tensor, "B C M S"], *, fixed: bool = False
    ) -> tuple[Float[Tensor, "B C S"], Float[Tensor, "C 2"]]:
        """Pooled nodes of every pair, and mean and unbiased variance of every caption for ``move``.

        Args:
            nodes: of all images with some captions of equal length.
            fixed: treat gates and length as constant, for an attribution.
        """
        assert self.norm.running_mean is not None
        assert self.norm.running_var is not None
        values = self.gate(nodes)[..., 0]  # (B, C, M)
        if self.training:
            mean, variance = values.mean((0, 2)), values.var((0, 2), correction=0)  # (C,)
            count = values.shape[0] * values.shape[2]
            moments = torch.stack([mean, variance * count / max(1, count - 1)], 1).detach()
        else:
            mean, variance = self.norm.running_mean, self.norm.running_var
            moments = values.new_zeros(nodes.shape[1], 2)
        normalised = (values - mean[:, None]) / torch.sqrt(variance[:, None] + self.norm.eps)
        gates = torch.sigmoid(normalised * self.norm.weight + self.norm.bias)
        gates = gates / (gates.abs().sum(-1, keepdim=True) + 1e-8)
        pooled = torch.einsum("bcm,bcms->bcs", gates.detach() if fixed else gates, nodes)
        if fixed:
            return pooled / (torch.linalg.vector_norm(pooled.detach(), dim=-1, keepdim=True) + 1e-8), moments
        return unit(pooled), moments

    @torch.no_grad()
    def move(self, moments: Float[Tensor, "C 2"]) -> None:
        """Move the running statistics by the moments of some captions, one after the other; training only."""
        assert self.norm.running_mean is not None
        assert self.norm.running_var is not None
        assert self.norm.num_batches_tracked is not None
        if not self.training:
            return
        momentum = self.norm.momentum if self.norm.momentum is not None else 0.1
        for mean, variance in moments:
            self.norm.running_mean.lerp_(mean, momentum)
            self.norm.running_var.lerp_(variance, momentum)
            self.norm.num_batches_tracked += 1


@dataclass(frozen=True)
class Regulated:
    """The passes of one caption against all images.

    Attributes:
        modulations, sharpnesses: after every refinement; a modulation that nothing reads is None.
        similarities: similarity vectors of the words after every pass, the final one last.
        attention: of the final pass.
        attended: unit context of every word in the final pass.
    """

    modulations: list[Float[Tensor, "B L D"] | None]
    sharpnesses: list[Float[Tensor, "B L"]]
    similarities: list[Float[Tensor, "B L S"]]
    attention: Float[Tensor, "B L K"]
    attended: Float[Tensor, "B L D"]


class Similarity(nn.Module):
    """Everything between an encoded pair and its score.

    Args:
        width, sim_dim: D and S.
        head: ``sgr`` or ``saf``.
        graph_steps: blocks of SGR.
        refinements: of the attention.
        sharpness: the first factor in the softmax of the attention.
    """

    def __init__(
        self, width: int, sim_dim: int, *, head: str, graph_steps: int, refinements: int, sharpness: float
    ) -> None:
        super().__init__()
        self.sharpness = sharpness
        self.local, self.overall = xavier(nn.Linear(width, sim_dim)), xavier(nn.Linear(width, sim_dim))
        self.regulators = nn.ModuleList(
            Regulator(width, sim_dim, modulates=k + 1 < refinements) for k in range(refinements)
        )
        self.head = GraphReasoning(sim_dim, graph_steps) if head == "sgr" else GatedPooling(sim_dim)
        self.logit = xavier(nn.Linear(sim_dim, 1))

    def attend(
        self,
        context: Float[Tensor, "B K D"],
        real: Bool[Tensor, "B K"],
        queries: Float[Tensor, "B L D"],
        sharpness: Float[Tensor, "B L"],
    ) -> tuple[Float[Tensor, "B L K"], Float[Tensor, "B L D"]]:
        """s = leaky(context . query), normalised over the words; a = softmax over the context of sharpness * s.

        Returns:
            a, and unit(sum of a_r context_r).
        """
        s = nn.functional.leaky_relu(torch.einsum("bld,bkd->bkl", queries, context), SLOPE)
        logits = sharpness[..., None] * unit(s).mT  # (B, L, K)
        attention = torch.softmax(logits.masked_fill(~real[:, None], -torch.inf), dim=2)
        return attention, unit(attention @ context)

    def passes(
        self, context: Float[Tensor, "B K D"], real: Bool[Tensor, "B K"], words: Float[Tensor, "L D"]
    ) -> Regulated:
        """Refine the attention of one caption's words to every image, and attend once more with the plain words."""
        batch, length = len(context), len(words)
        modulation: Tensor | None = None
        sharpness = words.new_full((batch, length), self.sharpness)
        modulations: list[Tensor | None] = []
        sharpnesses, similarities = [], []
        for regulator in self.regulators:
            query = words.expand(batch, -1, -1) if modulation is None else words * modulation
            _, attended = self.attend(context, real, query, sharpness)
            similarities.append(self.compare(attended, words))
            modulation, sharpness = regulator(similarities[-1], modulation, sharpness)
            modulations.append(modulation)
            sharpnesses.append(sharpness)
        attention, attended = self.attend(context, real, words.expand(batch, -1, -1), sharpness)
        similarities.append(self.compare(attended, words))
        return Regulated(modulations, sharpnesses, similarities, attention, attended)

    def compare(self, attended: Float[Tensor, "*N D"], words: Float[Tensor, "*M D"]) -> Float[Tensor, "*N S"]:
        """x = unit(W (c - t)^2 + b), with the word as it is."""
        return unit(self.local((attended - words).pow(2)))

    def compare_overall(self, image: Float[Tensor, "*N D"], caption: Float[Tensor, "*M D"]) -> Float[Tensor, "*K S"]:
        """The same of the two pooled vectors, with weights of its own."""
        return unit(self.overall((image - caption).pow(2)))

    def join(
        self, overall: Float[Tensor, "B D"], caption: Float[Tensor, " D"], words: Float[Tensor, "B L S"]
    ) -> Float[Tensor, "B M S"]:
        """The nodes of one caption with every image: node 0 compares the pooled vectors."""
        return torch.cat([self.compare_overall(overall, caption)[:, None], words], 1)

    def logits(
        self, nodes: Float[Tensor, "B C M S"], *, fixed: bool = False
    ) -> tuple[Float[Tensor, "B C"], Float[Tensor, "C 2"] | None]:
        """The number before the sigmoid, and what a training SAF must be moved by."""
        if isinstance(self.head, GatedPooling):
            pooled, moments = self.head(nodes, fixed=fixed)
            return self.logit(pooled)[..., 0], moments
        return self.logit(self.head(nodes, fixed=fixed))[..., 0], None
