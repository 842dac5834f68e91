"""Recall over the variants of a model whose scores hold a random part: SCTA's word banks, or its draws.

SCTA's word condenser is a layer that is drawn, not learned. One bank of its rows is one draw, so a recall from one bank
says little: this gives the mean and the deviation over several, and the recall of the mean of their scores. A model
that draws anew in every evaluation (``model.word_head: resample``) draws from the seeds here, so that the same command
gives the same report. The split is encoded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from patchword.data.table import Split
from patchword.errors import ConfigError
from patchword.evaluate.encoding import batch_of, encode_split
from patchword.evaluate.model_notes import HasVariants, input_notes
from patchword.evaluate.one_model import provenance_of
from patchword.evaluate.repeats import Repeats
from patchword.evaluate.result import Evaluation, evaluate_scores
from patchword.evaluate.setting import Setting, open_with
from patchword.loading import load
from patchword.model import Model
from patchword.types import Encoded

BANK_SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class BankReport(Repeats):
    """Evaluations of the same split with several banks.

    Attributes:
        seeds: of the banks.
        together: evaluation of the mean of all score matrices.
        what: ``banks``, or ``draws`` of a model that stores none.
    """

    seeds: tuple[int, ...]
    together: Evaluation
    what: str = "banks"

    def to_json(self) -> dict[str, Any]:
        """Plain values at full precision."""
        each = {str(seed): one.headline.to_json() for seed, one in zip(self.seeds, self.each, strict=True)}
        return {"seeds": list(self.seeds), "spread": self.spreads(), "each": each, "together": self.together.to_json()}

    def table(self) -> str:
        """Plain text: mean +- deviation over the banks, and the recall of the mean scores."""
        lines = [
            f"recall over {len(self.seeds)} {self.what} (seeds {', '.join(map(str, self.seeds))}), mean +- deviation"
        ]
        head = self.together.headline
        for title, side, numbers in (("image -> text", "i2t", head.i2t), ("text -> image", "t2i", head.t2i)):
            cells = [
                f"{k} {self._cell(f'{side}_{name}')} ({value:.1f})"
                for k, name, value in zip(("R@1", "R@5", "R@10"), ("r1", "r5", "r10"), numbers.recalls, strict=True)
            ]
            lines.append(f"{title:<15}{'   '.join(cells)}")
        lines.append(f"rsum {self._cell('rsum')} ({head.rsum:.1f})   in brackets: the mean of all score matrices")
        lines += [f"warning: {text}" for text in self.together.warnings]
        lines += [f"note: {text}" for text in self.together.notes]
        return "\n".join(lines)

    def _cell(self, column: str) -> str:
        return "{:.1f} +- {:.1f}".format(*self.spread(column))


def evaluate_banks(
    model: Model,
    split: Split,
    setting: Setting | None = None,
    *,
    seeds: Sequence[int] = BANK_SEEDS,
    protocol: str = "auto",
    batch: int | None = None,
    max_words: int | None = None,
) -> BankReport:
    """Evaluate a loaded model on an open split with several banks, or draws; its own bank is back afterwards.

    Args:
        model: of a method with a random part, such as SCTA.
        split: with images.
        setting: memory of the scoring, folder of its finished parts, and where progress goes.
        seeds: of the banks, two or more different ones.
        protocol: named protocol, or ``auto``.
        batch: items encoded at a time; by default as the setting says.
        max_words: captions are cut to this many words; None: as in training.

    Raises:
        ConfigError: the model's scores hold nothing random, or there are fewer than two seeds.
        ScoreError: scores are not finite, or the protocol does not fit the split.
    """
    method = model.method
    if not isinstance(method, HasVariants) or not method.has_variants:
        raise ConfigError(
            f"the scores of this {method.name} hold nothing random, so its recall has no spread. "
            "Use patchword evaluate. Banks are for scta with model.word_head: bank or resample."
        )
    if len(set(seeds)) < max(2, len(seeds)):
        raise ConfigError(f"{list(seeds)} were given as seeds. Expected two or more different ones, such as 0 1 2 3 4.")
    setting = setting if setting is not None else Setting()
    batch = batch_of(model, setting.eval_batch if batch is None else batch)
    images, captions = encode_split(model, split, batch=batch, max_words=max_words, console=setting.console)
    provenance, notes = provenance_of(model, split), input_notes(model, split, batch)
    total, each = torch.zeros(len(images), len(captions)), []
    for seed in seeds:
        scores = _score(method, model, images, captions, setting.part(f"bank{seed}"), seed)
        each.append(evaluate_scores(scores, split, protocol=protocol, provenance=provenance, notes=notes))
        total += scores / len(seeds)
    together = evaluate_scores(total, split, protocol=protocol, provenance=provenance, notes=notes)
    return BankReport(tuple(each), tuple(seeds), together, "banks" if method.draw_images is None else "draws")


def _score(
    method: HasVariants, model: Model, images: Encoded, captions: Encoded, setting: Setting, seed: int
) -> Float[Tensor, "N M"]:
    """Scores of the model of one seed, with a draw for each shard of the images."""
    size = method.draw_images or len(images)
    if len(images) <= size:
        with method.variant(seed):
            return setting.score(model, images, captions)
    rows = []
    for shard, start in enumerate(range(0, len(images), size)):
        with method.variant(seed, shard):
            some = images.slice(start, min(start + size, len(images)))
            rows.append(setting.part(f"shard{shard}").score(model, some, captions))
    return torch.cat(rows)


def evaluate_banks_of(
    run: Path | str | Model,
    data: Path | str | Split,
    banks: int,
    setting: Setting | None = None,
    *,
    protocol: str = "auto",
) -> BankReport:
    """Evaluate one run with the random parts of the seeds 0 to ``banks`` - 1.

    Raises:
        ConfigError: fewer than two banks, or a method whose scores hold nothing random.
    """
    if banks < 2:
        raise ConfigError(f"`banks` is {banks}. Expected 2 or more: one draw has no deviation.")
    setting = setting if setting is not None else Setting()
    model = run if isinstance(run, Model) else load(run, device=setting.device)
    opened = open_with(model, data, setting)
    return evaluate_banks(model, opened, setting, seeds=range(banks), protocol=protocol)
