"""One vector for a sentence from a plain BERT: the mean of its last hidden states, as sentence encoders are trained."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from patchword.data.tokenizers import PieceTokenizer
from patchword.data.wordpiece import WordPieces
from patchword.encoders.bert import Bert, BertConfig
from patchword.encoders.pretrained import pretrained_folder, read_arch
from patchword.layers.normalise import unit
from patchword.types import real_slots


class SentenceEncoder:
    """A BERT with its word pieces, in evaluation mode.

    Args:
        source: local folder of a BERT model, or its name on the hub.
        device: where it runs.

    Raises:
        CheckpointError, ConfigError, DataError: it is no BERT, or a part of it is missing.
    """

    def __init__(self, source: Path, *, device: str = "cpu") -> None:
        folder = pretrained_folder(source)
        self.tokenizer = PieceTokenizer(WordPieces.read(folder))
        tower = Bert(BertConfig(arch=read_arch("bert", folder)), joint_dim=1)
        tower.load_pretrained(folder)
        self.longest = tower.max_tokens
        self.bert = tower.bert.eval().to(device)

    @property
    def width(self) -> int:
        """F, the hidden width."""
        return int(self.bert.config.hidden_size)

    @torch.no_grad()
    def encode(self, sentences: Sequence[str]) -> Float[Tensor, "N F"]:
        """Mean over all pieces, ``[CLS]`` and ``[SEP]`` included, of unit length; what is too long is cut."""
        rows = [self._ids(sentence) for sentence in sentences]
        tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        mask = real_slots(torch.tensor([len(row) for row in rows]), tokens.shape[1]).to(self.bert.device)
        hidden = self.bert(input_ids=tokens.to(mask.device), attention_mask=mask.long()).last_hidden_state  # (N, L, F)
        return unit((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).float().cpu()

    def _ids(self, sentence: str) -> list[int]:
        ids = self.tokenizer.join(self.tokenizer.units(sentence))
        return ids if len(ids) <= self.longest else [*ids[: self.longest - 1], ids[-1]]

    def fingerprint(self) -> str:
        """What tells one model from another: a hash of its weights and of its word pieces."""
        found = hashlib.sha256(self.tokenizer.fingerprint().encode())
        for name, value in sorted(self.bert.state_dict().items()):
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()
