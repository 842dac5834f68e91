"""A small CEFG over region features that knows words, for tests that evaluate or explain it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from small import REGIONS, WIDTH

from patchword.data.tokenizers import WordTokenizer
from patchword.data.vocab import Vocabulary
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.methods.cefg import Cefg, CefgConfig
from patchword.model import Model


def cefg_model(captions: Sequence[str], **changes: Any) -> Model:
    """A CEFG with random weights whose scores differ, for the data of ``write_precomp``."""
    torch.manual_seed(1)
    words = WordTokenizer(Vocabulary.build(captions, min_count=1))
    base: dict[str, Any] = {"joint_dim": 8, "sim_dim": 6, "image": RegionsConfig(width=WIDTH), "regions": REGIONS}
    text = BigruConfig(vocab_size=words.size, word_dim=6)
    method = Cefg(CefgConfig.model_validate({**base, "text": text, **changes})).eval()
    for name, parameter in method.similarity.named_parameters():
        torch.nn.init.normal_(parameter, std=0.5 if name.startswith("head") else 0.8)
    return Model(method, words)
