"""Bidirectional GRU over words: embedding, GRU, mean of the two directions.

Source: VSE++ / SCAN text encoder as kept by woodfrog/vse_infty (branch bigru) and ppanzx/CHAN ``lib/encoders.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from patchword.config import Config
from patchword.precision import in_float32


class BigruConfig(Config):
    """A BiGRU over a SCAN-style vocabulary.

    Attributes:
        vocab_size: rows of the embedding; filled in from the vocabulary (its size, ``<mask>`` counted) when training
            starts.
        word_dim: width of a word embedding.
        layers: stacked GRU layers.
        embedding: initial values: ``uniform`` in -0.1..0.1 (VSE-infinity) or ``xavier`` (CHAN).
        vectors: a local GloVe or fastText text file; rows of words in it are copied from there, the others start as
            N(0, 1) as in the authors' code (torch's default, ten times the usual scale). The embedding stays trainable.
    """

    kind: Literal["bigru"] = "bigru"
    vocab_size: int = Field(0, ge=0)
    word_dim: int = Field(300, gt=0)
    layers: int = Field(1, gt=0)
    embedding: Literal["uniform", "xavier"] = "uniform"
    vectors: Path | None = None


class Bigru(nn.Module):
    """Word vectors of a caption, one for every token, special tokens included.

    Args:
        config: sizes and starting weights.
        joint_dim: D, width of a word vector.
        dropout: on the embeddings, in training.
        directions: of the GRU; the mean of two is the word.
    """

    def __init__(
        self, config: BigruConfig, joint_dim: int, *, dropout: float = 0.0, directions: Literal[1, 2] = 2
    ) -> None:
        super().__init__()
        self.width = joint_dim
        self.embed = nn.Embedding(config.vocab_size, config.word_dim)
        self.rnn = nn.GRU(config.word_dim, joint_dim, config.layers, batch_first=True, bidirectional=directions == 2)
        self.dropout = nn.Dropout(dropout)
        if config.vectors is None:
            if config.embedding == "uniform":
                nn.init.uniform_(self.embed.weight, -0.1, 0.1)
            else:
                nn.init.xavier_uniform_(self.embed.weight)

    def forward(self, tokens: Int[Tensor, "C L"], lengths: Int[Tensor, " C"]) -> Float[Tensor, "C L D"]:
        """Encode a padded batch; padded positions come out as exact zeros.

        Any order of lengths is accepted, and the result of a caption does not depend on the rest of the batch.
        """
        words = self.dropout(self.embed(tokens))
        packed = nn.utils.rnn.pack_padded_sequence(words, lengths.cpu(), batch_first=True, enforce_sorted=False)
        with in_float32(words):
            states, _ = nn.utils.rnn.pad_packed_sequence(
                self.rnn(packed)[0], batch_first=True, total_length=tokens.shape[1]
            )
        if not self.rnn.bidirectional:
            return states
        return (states[..., : self.width] + states[..., self.width :]) / 2  # (C, L, D)


@torch.no_grad()
def set_embedding_rows(embedding: nn.Embedding, rows: dict[int, Tensor]) -> None:
    """Overwrite rows of an embedding with pretrained word vectors."""
    for index, vector in rows.items():
        embedding.weight[index] = vector.to(embedding.weight)
