"""CEFG: words attend over regions and their spatial contexts; the attention of every pair is refined three times.

"Enhancing Image-Text Matching through Contextual Fine-Grained Alignment". Every region gets a context vector from its
neighbouring boxes; the words of a caption attend over regions and contexts with a query mask and a sharpness that are
refined for every pair; similarity vectors of the words and one of the pooled vectors go through graph reasoning (SGR)
or gated pooling (SAF) to a sigmoid. The published rows are probably means of the scores of an SGR and an SAF model.

Equations are written from the authors' code (MMM-design/CEFG, which needs repairs to run). No BERT code was published:
the BERT tower is composed here from the usual parts. AMR graphs have no effect in the published code; ``amr`` offers
what the code and the figure suggest. Published results: docs/methods/cefg.md. Recipes: recipes/cefg_*.yaml.
Golden values: tests/golden/cefg.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from patchword.config import Config
from patchword.encoders.bert import Bert, BertConfig
from patchword.encoders.bigru import Bigru, BigruConfig
from patchword.encoders.patches import RegionsConfig, build_patches
from patchword.encoders.text import TextConfig
from patchword.errors import ShapeError
from patchword.layers.linear import xavier
from patchword.layers.reasoning import GatedPooling, Regulated, Similarity, WordPool
from patchword.layers.region_context import RegionContext, RegionVectors, unit_or_zero
from patchword.methods.base import LossConfig, Method
from patchword.methods.formula import Formula
from patchword.types import Alignment, Captions, Encoded, Images, real_slots


class CefgConfig(Config):
    """CEFG; the defaults are the published GRU configuration of an SGR model.

    Attributes:
        joint_dim, sim_dim: D and S, widths of the joint space and of a similarity vector.
        image: precomputed regions; their boxes make the adjacency.
        regions: region indices that are normalised; no image may have more regions.
        text: the text tower. With BERT the model is composed by us: the authors published its numbers, not its code.
        head: ``sgr`` (graph reasoning) or ``saf`` (gated pooling).
        graph_steps: blocks of SGR.
        refinements: of the attention of a pair.
        sharpness: first factor in the attention's softmax.
        adjacency: which regions are neighbours: ``released`` (up to two boxes to the left, as the published script
            does), ``all_sectors`` (up to two in each of eight directions), both from the boxes, or ``precomputed``
            (``{split}_ims_adjacency.npy``).
        neighbours: slots of a region, itself included; with more neighbours the lowest indices count.
        amr: what becomes of a caption's graph: ``none`` (the published code, in effect), ``concat`` (its tokens follow
            the words of the caption), ``gate`` (mixed into the words by a gate; weights that no authors' model has).
        dropout: in the two pooling modules, in training.
        word_dropout: on word embeddings of a GRU, in training. A BERT has its own dropout (``text.arch``).
        directions: of the GRU over words; with two, their mean is the word. A BERT has none.
        unit_regions, unit_words: divide every vector by its length.
    """

    joint_dim: int = Field(1024, gt=0)
    sim_dim: int = Field(256, gt=1)
    image: RegionsConfig = RegionsConfig()
    regions: int = Field(36, gt=0)
    text: TextConfig = BigruConfig()
    head: Literal["sgr", "saf"] = "sgr"
    graph_steps: int = Field(3, gt=0)
    refinements: int = Field(3, gt=0)
    sharpness: float = Field(10.0, gt=0)
    adjacency: Literal["released", "all_sectors", "precomputed"] = "released"
    neighbours: int = Field(5, gt=0)
    amr: Literal["none", "concat", "gate"] = "none"
    dropout: float = Field(0.4, ge=0, lt=1)
    word_dropout: float = Field(0.4, ge=0, lt=1)
    directions: Literal[1, 2] = 2
    unit_regions: bool = True
    unit_words: bool = True

    @model_validator(mode="after")
    def _no_gru_in_bert(self) -> CefgConfig:
        if isinstance(self.text, BertConfig):
            for key in ("directions", "word_dropout"):
                value = getattr(self, key)
                if value not in (type(self).model_fields[key].default, 0):  # 0 is what a BERT does
                    raise ValueError(f"{key} {value} is of a GRU, but text is a BERT; leave {key} out")
        return self


class ImageTower(nn.Module):
    """Unit regions, then their context and one pooled vector."""

    def __init__(self, config: CefgConfig) -> None:
        super().__init__()
        self.unit_regions = config.unit_regions
        self.patches = build_patches(config.image)
        self.fc = xavier(nn.Linear(self.patches.width, config.joint_dim))
        self.context = RegionContext(config.joint_dim, config.regions, config.neighbours, config.dropout)

    def regions(self, images: Images) -> tuple[Float[Tensor, "B R D"], Int[Tensor, " B"]]:
        """Region vectors and their number."""
        patches, lengths = self.patches(images)
        projected = self.fc(patches)
        return (unit_or_zero(projected) if self.unit_regions else projected), lengths

    def forward(self, images: Images, adjacency: Bool[Tensor, "B R R"]) -> RegionVectors:
        """Everything about the images that a score needs."""
        regions, lengths = self.regions(images)
        found: RegionVectors = self.context(regions, lengths, adjacency)
        return found


class GraphGate(nn.Module):
    """t' = unit(g * t + (1 - g) * c) with c the graph tokens that word t attends to, and g = sigmoid(W t + b).

    c = sum of softmax over k of (t . a_k) a_k. From the authors' figure, whose operators can not be read; ours.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = xavier(nn.Linear(width, width))

    def forward(self, words: Float[Tensor, "L D"], tokens: Float[Tensor, "A D"]) -> Float[Tensor, "L D"]:
        """Mix the graph of one caption into its words; without tokens the words stay as they are."""
        if len(tokens) == 0:
            unread: Tensor = self.gate(words)
            return words + 0 * unread  # every process must have a gradient of the gate, if only of zeros
        mixed = torch.softmax(words @ tokens.T, dim=1) @ tokens
        gate = torch.sigmoid(self.gate(words))
        return unit_or_zero(gate * words + (1 - gate) * mixed)


class Cefg(Method):
    """Score = sigmoid of a reasoning over the similarity vectors of a pair.

    An encoded image holds its pooled vector and then 2R context vectors, an encoded caption its pooled vector and then
    its words (and its graph tokens with ``amr: concat``).
    """

    name = "cefg"
    shortlist_sample = 256
    title = "CEFG"
    Config = CefgConfig
    config: CefgConfig

    def __init__(self, config: CefgConfig, loss: LossConfig | None = None) -> None:
        super().__init__(config, loss)
        self.image = ImageTower(config)
        self.text: Bert | Bigru = (
            Bert(config.text, config.joint_dim)
            if isinstance(config.text, BertConfig)
            else Bigru(config.text, config.joint_dim, dropout=config.word_dropout, directions=config.directions)
        )
        self.text_pool = WordPool(config.joint_dim, config.dropout)
        self.text_gate = GraphGate(config.joint_dim) if config.amr == "gate" else None
        self.similarity = Similarity(
            config.joint_dim,
            config.sim_dim,
            head=config.head,
            graph_steps=config.graph_steps,
            refinements=config.refinements,
            sharpness=config.sharpness,
        )

    @classmethod
    def default_loss(cls) -> LossConfig:
        """The released default: the sum of all hinges with margin 0.2 from the first epoch on."""
        return LossConfig(margin=0.2, warmup_epochs=0, negatives_after="all")

    @property
    def image_extras(self) -> tuple[str, ...]:
        """The adjacency of the regions."""
        return ("adjacency" if self.config.adjacency == "precomputed" else f"adjacency_{self.config.adjacency}",)

    @property
    def caption_extras(self) -> tuple[str, ...]:
        """The tokens of the captions' graphs, where they are read."""
        return () if self.config.amr == "none" else ("graph",)

    def encode_images(self, images: Images) -> Encoded:
        """The pooled vector and the 2R context vectors of each image.

        Raises:
            ShapeError: the adjacency is missing or has another size than the regions.
        """
        found: RegionVectors = self.image(images, self.adjacency(images))
        rows = torch.cat([found.overall[:, None], found.context], 1)  # (B, 1 + 2R, D)
        return Encoded.from_padded(rows, found.lengths + 1)

    def adjacency(self, images: Images) -> Bool[Tensor, "B R R"]:
        """The adjacency of a batch, cut or padded to its regions.

        Raises:
            ShapeError: it is missing, or describes fewer regions than there are.
        """
        name, regions = self.image_extras[0], images.values.shape[1]
        if name not in images.extra:
            raise ShapeError(f"this model reads `{name}` of the images, which was not given (Images.extra).")
        adjacency = images.extra[name] != 0
        missing = regions - adjacency.shape[1]
        if missing > 0 and images.lengths is not None and int(images.lengths.max()) > adjacency.shape[1]:
            raise ShapeError(
                f"`{name}` describes {adjacency.shape[1]} regions, but an image has {int(images.lengths.max())}. "
                "Make the boxes and the features of the same regions."
            )
        if missing < 0 and bool(adjacency[:, regions:].any()):
            raise ShapeError(
                f"`{name}` describes {adjacency.shape[1]} regions, but the images have {regions}. Regions that are "
                "dropped at random lose their neighbours: set data.region_drop to 0."
            )
        adjacency = nn.functional.pad(adjacency, (0, max(0, missing), 0, max(0, missing)))[:, :regions, :regions]
        ones = adjacency.sum(2)
        if self.config.adjacency == "precomputed" and bool((ones > self.config.neighbours).any()):
            warnings.warn(
                f"a region has {int(ones.max())} neighbours, of which {self.config.neighbours} are read: itself and "
                "those with the lowest indices (model.neighbours)",
                stacklevel=2,
            )
        return adjacency

    def words(self, tokens: Int[Tensor, "C L"], lengths: Int[Tensor, " C"]) -> Encoded:
        """Vectors of the tokens of some texts; an empty text has none."""
        there = lengths > 0
        if not bool(there.any()):
            return Encoded(self.text_pool.local.weight.new_zeros(0, self.config.joint_dim), lengths)
        vectors = self.text(tokens[there], lengths[there])
        found = Encoded.from_padded(unit_or_zero(vectors) if self.config.unit_words else vectors, lengths[there])
        return Encoded(found.vectors, lengths)

    @property
    def formula(self) -> Formula:
        """None: the score has weights."""
        return Formula(weights="the refined attention and its reasoning")

    @property
    def export_notes(self) -> tuple[str, ...]:
        """How many regions are normalised."""
        return (f"at most {self.config.regions} regions an image (model.regions)",)

    @property
    def not_exported(self) -> str | None:
        """Graphs differ in size from caption to caption."""
        amr = self.config.amr
        return None if amr == "none" else f"the graph of every caption is read one caption at a time (model.amr: {amr})"

    def image_block(self, images: Images) -> tuple[Float[Tensor, "B S D"], Int[Tensor, " B"]]:
        """As ``encode_images``, with an adjacency that has the size of the regions."""
        found: RegionVectors = self.image(images, images.extra[self.image_extras[0]])
        return torch.cat([found.overall[:, None], found.context], 1), found.lengths + 1

    def caption_block(self, captions: Captions) -> tuple[Float[Tensor, "C S D"], Int[Tensor, " C"]]:
        """As ``encode_captions``, without graphs."""
        words = self.text(captions.tokens, captions.lengths)
        words = unit_or_zero(words) if self.config.unit_words else words
        real = real_slots(captions.lengths, words.shape[1])
        return torch.cat([self.text_pool(words, real)[:, None], words], 1), captions.lengths + 1

    def encode_captions(self, captions: Captions) -> Encoded:
        """The pooled vector and the word vectors of each caption, special tokens included."""
        words = self.with_graphs(self.words(captions.tokens, captions.lengths), captions)
        block, real = words.padded()
        rows = torch.cat([self.text_pool(block, real)[:, None], block], 1)  # (C, 1 + L, D)
        return Encoded.from_padded(rows, words.lengths + 1)

    def with_graphs(self, words: Encoded, captions: Captions) -> Encoded:
        """The words of captions with what ``amr`` makes of their graphs."""
        if self.config.amr == "none":
            return words
        if "graph" not in captions.extra:
            raise ShapeError("this model reads `graph` of the captions, which was not given (Captions.extra).")
        tokens = captions.extra["graph"].long()
        lengths = captions.extra.get("graph_lengths", (tokens != 0).sum(1)).long()
        tokens = tokens[:, : max(1, int(lengths.max()))]
        if isinstance(self.text, Bert) and not self.training:
            tokens, lengths = cut_texts(tokens, lengths, self.text.max_tokens)
        graphs = self.words(tokens, lengths)
        pairs = zip(words.vectors.split(words.lengths.tolist()), graphs.vectors.split(lengths.tolist()), strict=True)
        if self.text_gate is not None:
            return Encoded(torch.cat([self.text_gate(t, a) for t, a in pairs]), words.lengths)
        return Encoded(torch.cat([v for pair in pairs for v in pair]), words.lengths + lengths)

    def score(self, images: Encoded, captions: Encoded) -> Float[Tensor, "B C"]:
        """Sigmoid of the reasoning, caption by caption; in training SAF's running statistics move once per caption."""
        logits, moments = [], []
        for caption in captions.vectors.split(captions.lengths.tolist()):
            nodes, _ = self.nodes(images, caption)
            found, moved = self.similarity.logits(nodes[:, None])
            logits.append(found[:, 0])
            moments.append(moved)
        if isinstance(self.similarity.head, GatedPooling):
            self.similarity.head.move(torch.cat([m for m in moments if m is not None]))
        return torch.sigmoid(torch.stack(logits, 1))

    def nodes(self, images: Encoded, caption: Float[Tensor, "L1 D"]) -> tuple[Float[Tensor, "B L1 S"], Regulated]:
        """Similarity vectors of one caption with every image (the pooled pair first), and the passes behind them."""
        block, real = images.padded()
        passes = self.similarity.passes(block[:, 1:], real[:, 1:], caption[1:])
        return self.similarity.join(block[:, 0], caption[0], passes.similarities[-1]), passes

    def pair_bytes(self, images: Encoded, captions: Encoded) -> int:
        """About eight vectors for every word of a pair are alive at a time, and the attention over the context."""
        return 4 * captions.max_length * (8 * self.config.joint_dim + 4 * images.max_length)

    def explain(self, images: Images, captions: Captions) -> Alignment:
        """Split the score of one pair over words and regions.

        With the edges of SGR and the gates of SAF taken as they are, the number before the sigmoid is a constant plus
        one linear term for each similarity vector, exactly. A word's term, scaled to what it moves the sigmoid, goes to
        the regions by its final attention (a region's own vector and its context together). What belongs to no word or
        region, the pooled vectors and the constant, is spread evenly over all parts; graph tokens of ``amr: concat``
        are spread evenly over the words. Parts may be negative, and add up to the score.
        """
        with torch.no_grad():
            image, caption = self.encode_images(images[0:1]), self.encode_captions(captions[0:1])
            score = self.score(image, caption)[0, 0]
            found, passes = self.nodes(image, caption.vectors)
        with torch.enable_grad():
            nodes = found[:, None].detach().requires_grad_()  # (1, 1, 1 + L, S)
            logit = self.similarity.logits(nodes, fixed=True)[0][0, 0]
            (slopes,) = torch.autograd.grad(logit, nodes)
        terms = (slopes * nodes).detach().double().sum(3)[0, 0, 1:]  # (L,), of every word
        end, start = logit.detach().double(), logit.detach().double() - terms.sum()
        moved = torch.sigmoid(end) - torch.sigmoid(start)
        slope = moved / (end - start) if (end - start).abs() > 1e-6 else torch.sigmoid(end) * torch.sigmoid(-end)
        attention = passes.attention[0].double().unflatten(1, (2, -1)).sum(1)  # (L, R)
        parts = slope * terms[:, None] * attention
        length = int(captions.lengths[0])
        parts = parts[:length] + parts[length:].sum(0) / length
        parts = parts + (score.double() - parts.sum()) / parts.numel()
        return Alignment(parts.to(score.dtype), float(score))


def cut_texts(
    tokens: Int[Tensor, "C L"], lengths: Int[Tensor, " C"], most: int
) -> tuple[Int[Tensor, "C K"], Int[Tensor, " C"]]:
    """Cut texts to their first tokens and the last one, as captions are that are too long for the tower."""
    if tokens.shape[1] <= most:
        return tokens, lengths
    last = tokens.gather(1, (lengths - 1).clamp_min(0)[:, None])
    cut = torch.cat([tokens[:, : most - 1], last], 1)
    return torch.where((lengths > most)[:, None], cut, tokens[:, :most]), lengths.clamp(max=most)
