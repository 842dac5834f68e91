"""Golden cases of SCTA's inputs: captions to padded token ids, pictures to pixels."""

from __future__ import annotations

import random

import torch

from patchword.data.batches import pad_captions
from patchword.data.pictures import VitTransform
from patchword.data.tokenizers import PieceTokenizer
from patchword.data.wordpiece import WordPieces, basic_words
from patchword.parity.cases import Case, Ledger


class _CaseTokenizer(PieceTokenizer):
    """A piece tokeniser over a case's toy vocabulary, which the guard against truncated vocabularies would refuse."""

    def __init__(self, pieces: WordPieces) -> None:
        self.pieces = pieces
        self._cache: dict[str, list[int]] = {}


def compare_words(case: Case) -> Ledger:
    """Compare the basic words, the ids of every run (one generator for all its captions), and the padded batch.

    The authors sort a batch by length, the longest caption first; ours keep their order, which changes no score.
    """
    ledger, fields = Ledger(case), case.fields
    tokenizer = _CaseTokenizer(WordPieces(fields["vocab"]))
    ledger.use("vocab", "captions", "mask_rate", "rng", "transformers")
    for k, caption in enumerate(fields["captions"]):
        ledger.exact(f"basic_tokens.{k}", basic_words(caption), fields["basic_tokens"][k])
    units = [tokenizer.units(caption) for caption in fields["captions"]]
    for k, run in enumerate(fields["runs"]):
        ledger.use(f"runs.{k}")
        draw = random.Random(int(run["seed"])) if run["train"] else None
        ids = [tokenizer.join(one, draw, float(fields["mask_rate"])) for one in units]
        name = run["name"]
        for c, one in enumerate(ids):
            ledger.exact(f"{name}.ids.{c}", one, case.tensors[f"{name}.ids.{c}"])
        order = sorted(range(len(ids)), key=lambda c: -len(ids[c]))
        batch = pad_captions([ids[c] for c in order])
        for part, found in (("ids", torch.tensor(order)), ("lengths", batch.lengths), ("targets", batch.tokens)):
            ledger.exact(f"{name}.collate.{part}", found, case.tensors[f"{name}.collate.{part}"])
    return ledger


def compare_pictures(case: Case) -> Ledger:
    """Compare the pixels that evaluation makes of decoded pictures."""
    ledger = Ledger(case)
    transform = VitTransform(int(case.fields["img_res"]))
    ledger.use("img_res", "steps", "pillow", "tolerance")
    for name in (name for name in case.tensors if name.startswith("raw.")):
        expected = name.replace("raw.", "pixels.")
        found = transform(ledger.input(name).numpy(), None)
        ledger.close(expected, found, case.tensors[expected], atol=1e-6, rtol=0.0)
    return ledger
