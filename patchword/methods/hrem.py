"""HREM: hierarchical relation modelling; relations between fragments in the encoders, between instances in training.

Fu, Mao, Song, Zhang: "Learning Semantic Relationship among Instances for Image-Text Matching" (CVPR 2023). A dual
encoder: an image or caption is 0.8 * (mean of the two largest values of its fragments) + 0.2 * (mean of its fragments
after one transformer layer), normalised. While training, images and captions of a batch also form one graph, and the
vectors that come out of it are matched with each other and with the plain ones; at test time the graph is gone.

Equations are written from the authors' code (CrossmodalGroup/HREM ``lib/encoders.py``, ``lib/mca.py``,
``lib/loss.py``, ``graph_lib.py``), which produced the published numbers. Published results: docs/methods/hrem.md.
Recipes: recipes/hrem_*.yaml. Golden values: tests/golden/hrem.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from patchword.config import Config
from patchword.encoders.bert import BertConfig
from patchword.encoders.patches import PatchConfig, RegionsConfig
from patchword.encoders.projected import ProjectedPatches
from patchword.encoders.text import TextConfig, build_text
from patchword.layers.batch_graph import (
    CrossSimilarities,
    InstanceAttention,
    TopRelation,
    closeness,
    connected,
    cross_similarities,
    joined,
    relation_regulariser,
)
from patchword.layers.fragment_graph import (
    FragmentGraph,
    ShortSets,
    mean_of_largest,
    mean_of_real,
    shares_of_largest,
)
from patchword.layers.normalise import unit
from patchword.layers.training_rows import Rows, first_rows, pack, unpack
from patchword.losses.matching import Draws, Matching, RelationLoss, same_image
from patchword.methods.base import Method, Step, lengths_of
from patchword.types import Alignment, Captions, Encoded, Images


class RelationConfig(Config):
    """What HREM and AAHR share; the defaults are the published Flickr30K setting.

    Attributes:
        joint_dim: D, width of the joint space.
        image: what the image tower reads.
        text: the text tower; BERT is the published one, a BiGRU is an extension of ours.
        heads: attention heads of the fragment layers and of the graph over the batch.
        dropout: of all transformer layers outside of BERT.
        residual_weight: share of the max-k vector; the rest is that of the fragments after their layer.
        unit_images, unit_captions: divide the pooled vectors by their length.
        mlp_padding: ``reference`` lets zero-padded region slots into the statistics of the projection's batch norm, as
            the authors' code does in training; ``masked`` leaves them out.
        short_sets: ``reference``: after an item with a single fragment, all later items of its batch pool only their
            one largest value, as in the authors' code; ``own``: only that item does.
        graph_layers: transformer layers over the batch.
        threshold: share of a batch that every item is connected with.
        mask_weight: factor of the relations that are added to the graph's attention (COCO: 1.5); with 0 only the
            connections count.
        top_k: similarities of a pair that its relation is made from.
    """

    joint_dim: int = Field(1024, gt=0)
    image: PatchConfig = RegionsConfig()
    text: TextConfig = BertConfig()
    heads: int = Field(16, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    residual_weight: float = Field(0.8, ge=0, le=1)
    unit_images: bool = True
    unit_captions: bool = True
    mlp_padding: Literal["reference", "masked"] = "reference"
    short_sets: ShortSets = "reference"
    graph_layers: int = Field(1, gt=0)
    threshold: float = Field(0.5, gt=0, le=1)
    mask_weight: float = 1.0
    top_k: int = Field(10, gt=0)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> RelationConfig:
        if self.joint_dim % self.heads:
            raise ValueError(f"joint_dim {self.joint_dim} is not a multiple of heads {self.heads}")
        return self


class HremConfig(RelationConfig):
    """HREM.

    Attributes:
        graph_input: what enters the graph over the batch: ``unit`` vectors (published) or ``raw`` ones.
    """

    graph_input: Literal["unit", "raw"] = "unit"


class HremLoss(RelationLoss):
    """Losses of HREM.

    Attributes:
        regulariser: weight of the relations' distance from the closeness of the vectors, which trains the relations.
    """

    regulariser: float = Field(10.0, ge=0)


def projected_patches(config: RelationConfig) -> ProjectedPatches:
    """Section 3.2, image side: u_r = W x_r + b + MLP(x_r)."""
    return ProjectedPatches(config.image, config.joint_dim, padding=config.mlp_padding, xavier_mlp=True)


class FragmentPool(nn.Module):
    """Section 3.2: v = 0.8 * max-k(u) + 0.2 * mean of the real y, with y = transformer layer(u)."""

    def __init__(self, config: RelationConfig) -> None:
        super().__init__()
        self.share, self.short_sets = config.residual_weight, config.short_sets
        self.graph = FragmentGraph(config.joint_dim, config.heads, config.dropout)

    def forward(self, fragments: Float[Tensor, "N S D"], lengths: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """Pool every set to one vector, not normalised."""
        largest = mean_of_largest(fragments, lengths, short_sets=self.short_sets)
        enhanced: Tensor = self.graph(fragments, lengths)
        return self.share * largest + (1 - self.share) * mean_of_real(enhanced, lengths)

    def shares(self, fragments: Float[Tensor, "1 n D"]) -> Float[Tensor, "n D"]:
        """What each fragment of one set without padding contributes; the shares add up to the pooled vector."""
        n = fragments.shape[1]
        enhanced: Tensor = self.graph(fragments, torch.tensor([n], device=fragments.device))[0]
        return self.share * shares_of_largest(fragments[0]) + (1 - self.share) * enhanced / n


@dataclass(frozen=True)
class GraphOutput:
    """What the graph over a batch makes.

    Attributes:
        connect, relation: ``(2B, 2B)`` over images, then captions.
        mask: what is added to the attention.
        regulariser: see ``relation_regulariser``.
        enhanced: ``(2B, D)`` vectors that come out, not normalised.
    """

    connect: Bool[Tensor, "N N"]
    relation: Float[Tensor, "N N"]
    mask: Float[Tensor, "N N"]
    regulariser: Float[Tensor, ""]
    enhanced: Float[Tensor, "N D"]


def connections(
    images: Float[Tensor, "B D"], captions: Float[Tensor, "B D"], cross: CrossSimilarities, threshold: float
) -> Bool[Tensor, "N N"]:
    """Which items of a batch are connected: by dot product within a modality, by mean similarity across."""
    with torch.no_grad():
        within = [connected(x @ x.T, threshold) for x in (images, captions)]
        return joined(within[0], connected(cross.i2t, threshold), connected(cross.t2i, threshold), within[1])


class InstanceGraph(nn.Module):
    """Section 3.3: the cross-embedding graph of a batch and one transformer layer over it."""

    def __init__(self, config: HremConfig) -> None:
        super().__init__()
        self.threshold, self.mask_weight, self.top_k = config.threshold, config.mask_weight, config.top_k
        self.relation = TopRelation(config.top_k)
        self.attention = InstanceAttention(config.joint_dim, config.heads, config.graph_layers, config.dropout)

    def forward(
        self,
        images: Float[Tensor, "B D"],
        captions: Float[Tensor, "B D"],
        inputs: Float[Tensor, "N D"],
        a: Rows,
        b: Rows,
    ) -> GraphOutput:
        """Relate and exchange.

        Args:
            images, captions: the plain vectors, which closeness and connections are measured on.
            inputs: ``(2B, D)`` what the layer reads.
            a, b: images and captions, for their fragments.
        """
        cross = cross_similarities(a.fragments, b.fragments, b.counts, self.top_k)
        i2t, t2i = self.relation(cross)
        relation = joined(closeness(images, images), i2t, t2i, closeness(captions, captions))
        connect = connections(images, captions, cross, self.threshold)
        mask = (self.mask_weight * relation).masked_fill(~connect, -torch.inf)
        enhanced = self.attention(inputs, mask)
        return GraphOutput(connect, relation, mask, relation_regulariser(images, captions, i2t, t2i), enhanced)


class Hrem(Method):
    """A dual encoder whose vectors meet in a graph over the batch while it is trained."""

    name = "hrem"
    title = "HREM"
    shortlist = "own"
    training_only: ClassVar[tuple[str, ...]] = ("graph.",)
    Config = HremConfig
    Loss = HremLoss
    config: HremConfig
    loss: HremLoss

    def __init__(self, config: HremConfig, loss: HremLoss | None = None) -> None:
        super().__init__(config, loss)
        self.image = projected_patches(config)
        self.image_pool = FragmentPool(config)
        self.text = build_text(config.text, config.joint_dim)
        self.text_pool = FragmentPool(config)
        self.graph = InstanceGraph(config)

    def encode_images(self, images: Images) -> Encoded:
        """One vector per image; in training also the one before normalisation, and the patches."""
        patches, lengths = self.image.features(images)
        pooled = self.image_pool(patches, lengths)
        return self._encoded(pooled, self.config.unit_images, lengths, patches)

    def encode_captions(self, captions: Captions) -> Encoded:
        """One vector per caption, from all its tokens, the special ones included; in training more, as for images."""
        words = self.text(captions.tokens, captions.lengths)
        pooled = self.text_pool(words, captions.lengths)
        return self._encoded(pooled, self.config.unit_captions, captions.lengths, words)

    def _encoded(
        self, pooled: Float[Tensor, "N D"], is_unit: bool, lengths: Int[Tensor, " N"], fragments: Float[Tensor, "N S D"]
    ) -> Encoded:
        vectors = unit(pooled) if is_unit else pooled
        return pack([vectors, pooled], lengths, fragments) if self.training else Encoded(vectors, lengths_of(vectors))

    def score(self, images: Encoded, captions: Encoded) -> Float[Tensor, "B C"]:
        """Cosine: score[b, c] = <image b, caption c>."""
        return first_rows(images) @ first_rows(captions).T

    def losses(
        self, scores: Float[Tensor, "B B"], images: Encoded, captions: Encoded, step: Step
    ) -> dict[str, Float[Tensor, ""]]:
        """Base loss, and from ``loss.graph_from_step`` on those of the graph: base + graph + 10 * regulariser."""
        return self.criterion(scores, images, captions, step)[0]

    def criterion(
        self,
        scores: Float[Tensor, "B B"],
        images: Encoded,
        captions: Encoded,
        step: Step,
        draws: Draws | None = None,
    ) -> tuple[dict[str, Float[Tensor, ""]], GraphOutput | None, Matching]:
        """The losses, what the graph made, and the draws' weights; ``draws`` replaces the random negatives."""
        same = same_image(step.image_rows, len(scores), scores.device)
        matching = Matching(self.loss, step.epoch, same, draws)
        base = matching(self.loss.base, scores)
        parts = {"total": base, "base": base.detach()}
        graph = None
        if step.step >= self.loss.graph_from_step:
            a, b = unpack(images, 2), unpack(captions, 2)
            (plain_a, raw_a), (plain_b, raw_b) = a.heads, b.heads
            inputs = [plain_a, plain_b] if self.config.graph_input == "unit" else [raw_a, raw_b]
            graph = self.graph(plain_a, plain_b, torch.cat(inputs), a, b)
            matched = matching.across(plain_a, plain_b, graph.enhanced)
            parts["total"] = base + matched + self.loss.regulariser * graph.regulariser
            parts |= {"graph": matched.detach(), "regulariser": graph.regulariser.detach()}
        return {**parts, **matching.events}, graph, matching

    @torch.no_grad()
    def explain(self, images: Images, captions: Captions) -> Alignment:
        """Split one pair's score over word x patch through the pooling.

        The max-k vector is a sum over the fragments that hold the largest values, the rest a mean over the fragments
        after their layer: part[l, r] = <share of word l, share of patch r> / (both lengths).
        """
        patches, n_patches = self.image.features(images[0:1])
        words = self.text(captions.tokens[0:1], captions.lengths[0:1])
        by_patch = self.image_pool.shares(patches[:, : int(n_patches[0])])
        by_word = self.text_pool.shares(words[:, : int(captions.lengths[0])])
        if self.config.unit_images:
            by_patch = by_patch / (by_patch.sum(0).norm() + 1e-8)
        if self.config.unit_captions:
            by_word = by_word / (by_word.sum(0).norm() + 1e-8)
        parts = by_word @ by_patch.T  # (L, R)
        return Alignment(parts, float(parts.sum()))
