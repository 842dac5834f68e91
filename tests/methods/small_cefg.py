"""A small CEFG and inputs for it, shared by its test files."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from patchword.encoders.bert import BertConfig
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.methods.cefg import Cefg, CefgConfig
from patchword.types import Captions, Images

HEADS = ("sgr", "saf")
R, WIDTH, D, VOCAB = 6, 5, 8, 20
BERT = BertConfig(
    arch={
        "vocab_size": VOCAB,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "max_position_embeddings": 12,
    }
)
WORDS = (4, 1, 2, 6, 3)


def cefg(**changes: object) -> Cefg:
    """A small CEFG in evaluation mode, with weights that use the whole range of the regulator."""
    torch.manual_seed(1)
    base = {
        "joint_dim": D,
        "sim_dim": 6,
        "image": RegionsConfig(width=WIDTH),
        "regions": R,
        "text": BigruConfig(vocab_size=VOCAB, word_dim=6),
    }
    made = Cefg(CefgConfig.model_validate({**base, **changes})).eval()
    for name, parameter in made.similarity.named_parameters():
        nn.init.normal_(parameter, std=0.5 if name.startswith("head") else 0.8)
    for norm in (m for m in made.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        assert norm.running_mean is not None
        norm.running_mean.normal_(0, 0.2)
    return made


def images(
    counts: tuple[int, ...] = (R, R, R), *, extra: int = 0, seed: int = 0, name: str = "adjacency_released"
) -> Images:
    """Images that do not depend on the others of the batch."""
    values = torch.zeros(len(counts), max(counts) + extra, WIDTH)
    adjacency = torch.zeros(len(counts), max(counts) + extra, max(counts) + extra, dtype=torch.bool)
    for k, count in enumerate(counts):
        draw = torch.Generator().manual_seed(100 * seed + 10 * k + count)
        values[k, :count] = torch.randn(count, WIDTH, generator=draw)
        adjacency[k, :count, :count] = (torch.rand(count, count, generator=draw) < 0.3) | torch.eye(count).bool()
    return Images(values, torch.tensor(counts), None, {name: adjacency})


def captions(lengths: tuple[int, ...] = WORDS, *, extra: int = 0, graphs: tuple[int, ...] | None = None) -> Captions:
    def texts(counts: tuple[int, ...], start: int) -> Tensor:
        tokens = torch.zeros(len(counts), max(1, *counts) + extra, dtype=torch.long)
        for k, count in enumerate(counts):
            tokens[k, :count] = torch.randint(1, VOCAB, (count,), generator=torch.Generator().manual_seed(start + k))
        return tokens

    side = {} if graphs is None else {"graph": texts(graphs, 50), "graph_lengths": torch.tensor(graphs)}
    return Captions(texts(lengths, 0), torch.tensor(lengths), side)


def scores(method: Cefg, a: Images, b: Captions) -> Tensor:
    return method.score(method.encode_images(a), method.encode_captions(b))
