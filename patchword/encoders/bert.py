"""BERT over word pieces, projected to the joint width.

Source: woodfrog/vse_infty (branch master) ``lib/encoders.py`` EncoderText; the same tower serves CHAN.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from patchword.config import Config
from patchword.encoders.pretrained import hf_config, load_pretrained
from patchword.errors import ShapeError


class BertConfig(Config):
    """A BERT text encoder.

    Attributes:
        pretrained: folder with ``config.json``, weights, ``vocab.txt`` or ``tokenizer.json``, and for a cased BERT
            ``tokenizer_config.json``; or a name on the hub, which is fetched once; None starts from random weights.
        arch: fields of transformers' ``BertConfig`` that differ from bert-base-uncased; filled in from ``pretrained``.
        frozen: keep the BERT weights fixed and train only what stands on it.
    """

    kind: Literal["bert"] = "bert"
    pretrained: Path | None = None
    arch: dict[str, Any] = Field(default_factory=dict)
    frozen: bool = False


class Bert(nn.Module):
    """Word-piece vectors of a caption, ``[CLS]`` and ``[SEP]`` included.

    The BERT pooler is not built: it is never used.
    """

    def __init__(self, config: BertConfig, joint_dim: int) -> None:
        super().__init__()
        from transformers import BertModel

        self.frozen = config.frozen
        self.bert = BertModel(hf_config("bert", config.arch), add_pooling_layer=False)
        self.linear = nn.Linear(self.bert.config.hidden_size, joint_dim)
        if config.frozen:
            self.bert.requires_grad_(False)

    @property
    def max_tokens(self) -> int:
        """Longest caption, in word pieces, that the position table can hold."""
        return int(self.bert.config.max_position_embeddings)

    def load_pretrained(self, folder: Path) -> None:
        """Copy the weights of a local BERT folder."""
        load_pretrained(self.bert, folder, ignored=("pooler.", "cls."))

    def train(self, mode: bool = True) -> Bert:
        """Set training mode; a frozen BERT stays in evaluation mode (no dropout)."""
        super().train(mode)
        if self.frozen:
            self.bert.eval()
        return self

    def forward(self, tokens: Int[Tensor, "C L"], lengths: Int[Tensor, " C"]) -> Float[Tensor, "C L D"]:
        """Encode a padded batch; padded positions (id 0) are not attended to and come out as arbitrary values.

        Raises:
            ShapeError: a text is longer than the position table.
        """
        if tokens.shape[1] > self.max_tokens:
            raise ShapeError(
                f"a text has {tokens.shape[1]} word pieces, but the text tower reads at most {self.max_tokens}."
            )
        mask = (tokens != 0).to(self.linear.weight.dtype)
        hidden = self.bert(input_ids=tokens, attention_mask=mask).last_hidden_state  # (C, L, hidden)
        projected: Tensor = self.linear(hidden)
        return projected
