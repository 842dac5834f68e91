"""AAHR: HREM's relations, guided by CLIP, with prototypes and momentum queues in training.

"Ambiguity-Aware and High-Order Relation Learning for Multi-Grained Image-Text Matching". A dual encoder: fragments are
pooled by attention that CLIP's global vector directs, and the result is mixed with that vector through a gate. While
training, a batch forms a graph (three graph convolutions and one transformer layer), prototypes are contrasted across
the modalities (as in SwAV), and so are the keys of slowly moving encoders (as in MoCo).

Equations are written from the authors' code (Image-Text-Matching/AAHR ``lib/encoders.py``, ``graph_lib.py``,
``lib/loss.py``, ``lib/vse.py``), an extension of HREM's. Published results: docs/methods/aahr.md. Recipes:
recipes/aahr_*.yaml. Golden values: tests/golden/aahr.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from patchword.encoders.bert import Bert
from patchword.encoders.projected import ProjectedPatches
from patchword.encoders.text import build_text
from patchword.errors import ShapeError
from patchword.layers.batch_graph import (
    GraphConvolution,
    InstanceAttention,
    closeness,
    cross_similarities,
    joined,
    relation_regulariser,
)
from patchword.layers.fragment_graph import (
    FragmentGraph,
    Gate,
    GuidedPooling,
    mean_of_largest,
    shares_of_largest,
)
from patchword.layers.linear import xavier
from patchword.layers.momentum import KeyQueue, follow, key_copy
from patchword.layers.normalise import unit
from patchword.layers.training_rows import Rows, first_rows, pack, unpack
from patchword.losses.matching import Draws, Matching, RelationLoss, same_image
from patchword.losses.prototypes import prototype_contrast, queue_contrast
from patchword.methods.base import Method, Step, lengths_of
from patchword.methods.hrem import GraphOutput, RelationConfig, connections, projected_patches
from patchword.types import Alignment, Captions, Encoded, Images, real_slots


class AahrConfig(RelationConfig):
    """AAHR; what it shares with HREM is described there.

    Attributes:
        guide: what directs the pooling and enters the gate: ``clip``, CLIP's global vector (published, a side input of
            images and captions); ``pooled``, an extension of ours: the item's own max-k vector, without CLIP.
        clip_dim: width of CLIP's vectors.
        guide_heads: heads of the guided pooling, each of the full width.
        pool_padding: ``reference`` lets padded slots take part in the guided pooling, as the authors' code does in
            training and evaluation, so that a caption's vector depends on the longest caption of its batch;
            ``masked`` leaves them out.
        convolution_dropout: of the graph convolutions over the batch.
        prototypes: K; 0 is off. (COCO: 768.)
        queue: keys kept of each modality; 0 is off.
        momentum: of the key encoders.
    """

    guide: Literal["clip", "pooled"] = "clip"
    clip_dim: int = Field(512, gt=0)
    guide_heads: int = Field(8, gt=0)
    pool_padding: Literal["reference", "masked"] = "reference"
    convolution_dropout: float = Field(0.6, ge=0, lt=1)
    prototypes: int = Field(384, ge=0)
    queue: int = Field(2048, ge=0)
    momentum: float = Field(0.999, ge=0, le=1)


class AahrLoss(RelationLoss):
    """Losses of AAHR.

    The authors add 10 times a regulariser that has no gradient here; it is only logged.

    Attributes:
        swav_weight: of the prototypes' loss.
        swav_from_step: optimiser step of the run from which it takes part.
        swav_temperature: of its predictions.
        sinkhorn_epsilon, sinkhorn_rounds: of its assignments.
        moco_temperature: of the queues' loss, which takes part as soon as the queues are full of keys.
    """

    all_negatives: Literal["sum", "mean"] = "mean"
    swav_weight: float = Field(0.2, ge=0)
    swav_from_step: int = Field(2201, ge=0)
    swav_temperature: float = Field(0.1, gt=0)
    sinkhorn_epsilon: float = Field(0.1, gt=0)
    sinkhorn_rounds: int = Field(3, gt=0)
    moco_temperature: float = Field(0.07, gt=0)


class GuidedHead(nn.Module):
    """From the fragments u of an item to its vector e, guided by a global vector g.

    y = transformer layer(u);  c = (W_a + W_b) g + b_a + b_b;  v = 0.8 * max-k(u) + 0.2 * guided pooling(c, y);
    e = gate(v / |v|, c / |c|), not normalised again.
    """

    def __init__(self, config: AahrConfig, *, is_unit: bool) -> None:
        super().__init__()
        self.config, self.is_unit = config, is_unit
        width = config.joint_dim
        guide_width = config.clip_dim if config.guide == "clip" else width
        # Two parallel layers in the authors' code, which doubles the initial variance.
        self.guide_a, self.guide_b = nn.Linear(guide_width, width), nn.Linear(guide_width, width)
        for layer in (self.guide_a, self.guide_b):
            xavier(layer)
        self.graph = FragmentGraph(width, config.heads, config.dropout)
        self.pool = GuidedPooling(width, config.guide_heads)
        self.gate = Gate(width)

    def project(self, guide: Float[Tensor, "N G"], bias_share: float = 1.0) -> Float[Tensor, "N D"]:
        """c of a global vector; ``bias_share`` of the bias for a part of one."""
        bias = bias_share * (self.guide_a.bias + self.guide_b.bias)
        return functional.linear(guide, self.guide_a.weight + self.guide_b.weight, bias)

    def forward(
        self, fragments: Float[Tensor, "N S D"], lengths: Int[Tensor, " N"], clip: Float[Tensor, "N F"] | None
    ) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
        """The vector e, and the local one v, not normalised."""
        config = self.config
        largest = self.largest(fragments, lengths)
        guide = self.project(largest if clip is None else clip)
        counted = real_slots(lengths, fragments.shape[1]) if config.pool_padding == "masked" else None
        pooled = self.pool(guide, self.graph(fragments, lengths), counted)
        local = config.residual_weight * largest + (1 - config.residual_weight) * pooled
        fused: Tensor = self.gate(unit(local), unit(guide)) if self.is_unit else self.gate(local, guide)
        return fused, local

    def largest(self, fragments: Float[Tensor, "N S D"], lengths: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """The mean of the largest values of every set."""
        return mean_of_largest(fragments, lengths, short_sets=self.config.short_sets)

    def shares(self, fragments: Float[Tensor, "1 n D"], clip: Float[Tensor, "1 F"] | None) -> Float[Tensor, "n D"]:
        """What each fragment of one item without padding contributes to e; the shares add up to it.

        The gate's weights count as constants. CLIP's vector belongs to no fragment: its part is spread evenly.
        """
        n = fragments.shape[1]
        enhanced = self.graph(fragments, torch.tensor([n], device=fragments.device))
        largest = shares_of_largest(fragments[0])
        by_guide = self.project(largest, 1 / n) if clip is None else self.project(clip).expand(n, -1) / n  # (n, D)
        guide = by_guide.sum(0, keepdim=True)
        share = self.config.residual_weight
        by_local = share * largest + (1 - share) * self.pool.shares(guide, enhanced)
        if self.is_unit:
            by_local, by_guide = (x / (x.sum(0).norm() + 1e-8) for x in (by_local, by_guide))
        z = self.gate.weights(by_local.sum(0, keepdim=True), by_guide.sum(0, keepdim=True))
        return z * by_local + (1 - z) * by_guide


@dataclass(frozen=True)
class ConvolvedGraph(GraphOutput):
    """What the graph over a batch makes, with its steps.

    Attributes:
        by_image, by_caption: ``(B, D)`` after the convolution of each modality.
        by_all: ``(2B, D)`` after the joint convolution.
        inputs: ``(2B, D)`` of the transformer layer.
    """

    by_image: Float[Tensor, "B D"]
    by_caption: Float[Tensor, "B D"]
    by_all: Float[Tensor, "N D"]
    inputs: Float[Tensor, "N D"]


class ConvolvingGraph(nn.Module):
    """The graph of a batch: convolutions within the modalities and over both, then one transformer layer."""

    def __init__(self, config: AahrConfig) -> None:
        super().__init__()
        self.threshold, self.mask_weight, self.top_k = config.threshold, config.mask_weight, config.top_k
        width, dropout = config.joint_dim, config.convolution_dropout
        self.by_image, self.by_caption, self.by_all = (GraphConvolution(width, dropout) for _ in range(3))
        self.attention = InstanceAttention(width, config.heads, config.graph_layers, config.dropout)

    def forward(self, images: Float[Tensor, "B D"], captions: Float[Tensor, "B D"], a: Rows, b: Rows) -> ConvolvedGraph:
        """Relate and exchange.

        Args:
            images, captions: the local vectors, normalised.
            a, b: images and captions, for their fragments.
        """
        cross = cross_similarities(a.fragments, b.fragments, b.counts, self.top_k)
        i2i, t2t = closeness(images, images), closeness(captions, captions)
        relation = joined(i2i, cross.i2t, cross.t2i, t2t)
        connect = connections(images, captions, cross, self.threshold)
        mask = (self.mask_weight * relation).masked_fill(~connect, -torch.inf)
        by_image, by_caption = self.by_image(images, i2i), self.by_caption(captions, t2t)
        by_all = self.by_all(torch.cat([by_image, by_caption]), relation)
        inputs = functional.normalize(by_all, dim=-1) + torch.cat([images, captions])
        enhanced = self.attention(inputs, mask)
        with torch.no_grad():
            regulariser = relation_regulariser(images, captions, cross.i2t, cross.t2i)
        return ConvolvedGraph(connect, relation, mask, regulariser, enhanced, by_image, by_caption, by_all, inputs)


class Aahr(Method):
    """A dual encoder with a gate between local and global vectors; the score is a plain dot product."""

    name = "aahr"
    title = "AAHR"
    shortlist = "own"
    training_only: ClassVar[tuple[str, ...]] = ("graph.", "prototypes", "key_", "queue.")
    Config = AahrConfig
    Loss = AahrLoss
    config: AahrConfig
    loss: AahrLoss

    def __init__(self, config: AahrConfig, loss: AahrLoss | None = None) -> None:
        super().__init__(config, loss)
        self.image = projected_patches(config)
        self.image_head = GuidedHead(config, is_unit=config.unit_images)
        self.text = build_text(config.text, config.joint_dim)
        self.text_head = GuidedHead(config, is_unit=config.unit_captions)
        self.graph = ConvolvingGraph(config)
        self.prototypes = nn.Parameter(torch.randn(config.prototypes, config.joint_dim)) if config.prototypes else None
        self.queue: KeyQueue | None = None
        if config.queue:
            self.queue = KeyQueue(config.joint_dim, config.queue)
            self.key_image, self.key_image_head = key_copy(self.image), key_copy(self.image_head)
            self.key_text, self.key_text_head = key_copy(self.text), key_copy(self.text_head)
            self.key_started: Tensor
            self.register_buffer("key_started", torch.zeros((), dtype=torch.bool))

    @property
    def image_extras(self) -> tuple[str, ...]:
        """CLIP's global vectors, unless the item guides itself."""
        return ("clip",) if self.config.guide == "clip" else ()

    @property
    def caption_extras(self) -> tuple[str, ...]:
        """As for images."""
        return self.image_extras

    @property
    def reads_padding(self) -> bool:
        """Whether a vector depends on the padding of its batch, also in evaluation."""
        return self.config.pool_padding == "reference"

    @property
    def heads(self) -> int:
        """Vectors of a training item before its fragments: e, v, and the key."""
        return 2 + (self.queue is not None)

    def train(self, mode: bool = True) -> Aahr:
        """Set training mode.

        The key encoders always stay in training mode (batch statistics, dropout) and their BERT in evaluation mode, as
        the authors' code leaves them.
        """
        super().train(mode)
        if self.queue is not None:
            for module in (self.key_image, self.key_image_head, self.key_text, self.key_text_head):
                module.train()
            if isinstance(self.key_text, Bert):
                self.key_text.bert.eval()
        return self

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by role, without those of the key encoders, which follow and are not optimised."""
        keys = {id(p) for name, p in self.named_parameters() if name.startswith("key_")}
        groups = super().parameter_groups()
        return {name: [p for p in group if id(p) not in keys] for name, group in groups.items()}

    @torch.no_grad()
    def begin_step(self, step: Step) -> None:
        """Let the key encoders follow the trained ones; before the first step of a run they become equal."""
        if self.queue is None:
            return
        keys = (self.key_image, self.key_image_head, self.key_text, self.key_text_head)
        trained = (self.image, self.image_head, self.text, self.text_head)
        follow(keys, trained, self.config.momentum if bool(self.key_started) else 0.0)
        self.key_started.fill_(True)

    def encode_images(self, images: Images) -> Encoded:
        """One vector e per image; in training also v, the key and the patches."""
        clip = self._clip(images.extra, "images")
        patches, lengths = self.image.features(images)
        heads = self.image_head(patches, lengths, clip)
        if not self.training:
            return Encoded(heads[0], lengths_of(heads[0]))
        keys = []
        if self.queue is not None:
            with torch.no_grad():
                assert isinstance(self.key_image, ProjectedPatches)
                keys = [self.key_image_head(*self.key_image.features(images), clip)[0]]
        return pack([*heads, *keys], lengths, patches)

    def encode_captions(self, captions: Captions) -> Encoded:
        """One vector e per caption, from all its tokens, the special ones included; in training more, as for images."""
        clip = self._clip(captions.extra, "captions")
        words = self.text(captions.tokens, captions.lengths)
        heads = self.text_head(words, captions.lengths, clip)
        if not self.training:
            return Encoded(heads[0], lengths_of(heads[0]))
        keys = []
        if self.queue is not None:
            with torch.no_grad():
                key_words = self.key_text(captions.tokens, captions.lengths)
                keys = [self.key_text_head(key_words, captions.lengths, clip)[0]]
        return pack([*heads, *keys], captions.lengths, words)

    def _clip(self, extra: Mapping[str, Tensor], what: str) -> Float[Tensor, "N F"] | None:
        """CLIP's vectors of a batch; None when the items guide themselves.

        Raises:
            ShapeError: they are missing or have another width.
        """
        if self.config.guide != "clip":
            return None
        width = extra["clip"].shape[-1] if "clip" in extra else None
        if width != self.config.clip_dim:
            found = "were not given" if width is None else f"have width {width}"
            raise ShapeError(
                f"CLIP's vectors of the {what} {found}, the model reads {self.config.clip_dim} (model.clip_dim). "
                "Make them with `patchword extract clip`, or train with --model.guide pooled."
            )
        return extra["clip"]

    def score(self, images: Encoded, captions: Encoded) -> Float[Tensor, "B C"]:
        """Dot product of vectors of free length: score[b, c] = <image b, caption c>."""
        return first_rows(images) @ first_rows(captions).T

    def losses(
        self, scores: Float[Tensor, "B B"], images: Encoded, captions: Encoded, step: Step
    ) -> dict[str, Float[Tensor, ""]]:
        """base + graph + 0.2 * swav + moco, each from its step on; the batch's keys enter the queues afterwards."""
        return self.criterion(scores, images, captions, step)[0]

    def criterion(
        self, scores: Float[Tensor, "B B"], images: Encoded, captions: Encoded, step: Step, draws: Draws | None = None
    ) -> tuple[dict[str, Float[Tensor, ""]], ConvolvedGraph | None, Matching]:
        """The losses, what the graph made, and the draws' weights; ``draws`` replaces the random negatives."""
        loss = self.loss
        a, b = unpack(images, self.heads), unpack(captions, self.heads)
        (fused_a, local_a), (fused_b, local_b) = a.heads[:2], b.heads[:2]
        same = same_image(step.image_rows, len(scores), scores.device)
        matching = Matching(loss, step.epoch, same, draws)
        base = matching(loss.base, scores)
        parts, total, graph = {"base": base}, base, None
        if self.prototypes is not None:
            with torch.no_grad():  # in every step, also before their loss takes part
                self.prototypes.copy_(functional.normalize(self.prototypes, dim=1))
            if step.step >= loss.swav_from_step:
                parts["swav"] = prototype_contrast(
                    fused_a,
                    fused_b,
                    self.prototypes,
                    temperature=loss.swav_temperature,
                    epsilon=loss.sinkhorn_epsilon,
                    rounds=loss.sinkhorn_rounds,
                )
                total = total + loss.swav_weight * parts["swav"]
        if step.step >= loss.graph_from_step:
            plain_a, plain_b = unit(local_a), unit(local_b)
            graph = self.graph(plain_a, plain_b, a, b)
            parts |= {"graph": matching.across(plain_a, plain_b, graph.enhanced), "regulariser": graph.regulariser}
            total = total + parts["graph"]
        if self.queue is not None:
            keys = (a.heads[2], b.heads[2])
            if self.queue.is_full:
                parts["moco"] = queue_contrast(
                    local_a, local_b, *keys, self.queue.images, self.queue.captions, loss.moco_temperature
                )
                total = total + parts["moco"]
            if self.training:
                self.queue.push(*keys)
        return {"total": total, **{k: v.detach() for k, v in parts.items()}, **matching.events}, graph, matching

    @torch.no_grad()
    def explain(self, images: Images, captions: Captions) -> Alignment:
        """Split one pair's score over word x patch through the pooling: part[l, r] = <share of l, share of r>.

        What comes from CLIP's vectors belongs to no patch or word and is spread over them evenly.
        """
        clips = [self._clip(extra, what) for extra, what in ((images.extra, "images"), (captions.extra, "captions"))]
        patches, n_patches = self.image.features(images[0:1])
        words = self.text(captions.tokens[0:1], captions.lengths[0:1])
        clip_a, clip_b = (None if clip is None else clip[0:1] for clip in clips)
        by_patch = self.image_head.shares(patches[:, : int(n_patches[0])], clip_a)
        by_word = self.text_head.shares(words[:, : int(captions.lengths[0])], clip_b)
        parts = by_word @ by_patch.T  # (L, R)
        return Alignment(parts, float(parts.sum()))
