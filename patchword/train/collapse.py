"""Noticing a collapsed run: the hinge sits at its margin and true pairs are no longer found, not even within a batch.

It happens when hardest negatives start before the scores can tell pairs apart (fartashf/vsepp#27, naver-ai/pcmepp#7).
The loss alone does not show it: a healthy VSE-infinity run contracts its space at that moment, its loss too lies at
twice the margin per pair for an epoch or two, and it recovers, because it still ranks true pairs first. Remedies:
docs/train.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from patchword.losses.triplet import hinge

ADVICE = (
    "the hardest negatives score as high as the true pairs, and true pairs are found far less often than before. "
    "Try, in this order: InfoNCE (--loss.kind info_nce --loss.temperature 0.05 --loss.margin 0, for CHAN with "
    "--model.pooling mean), a gentler start (--loss.warmup_epochs 2, --loss.anneal_epochs 2), a larger batch "
    "(--train.batch_size 384, with --train.micro_batch to save memory), or a smaller learning rate"
)


@dataclass
class CollapseWatch:
    """Looks at every score matrix while the hardest negatives are trained on.

    Two running means over about ``window`` steps: the share of the margin that the hardest negatives violate (1 means
    that they score as high as the true pairs), and the recall within the batch. Training has collapsed when the first
    is at least 0.9 and the second has fallen below ``kept`` of the best it has been, or to chance.

    Attributes:
        window: steps that the running means remember.
        kept: share of the best recall that a healthy run keeps.
        best: best running recall so far, in 0..1; part of the training state.
        recall: running recall now; part of the training state, as are the next two.
        violation: running share of the margin that the hardest negatives violate.
        steps: taken on hardest negatives without a break, which that share remembers.
        seen: what the last step alone showed, for the log: ``step_recall`` and, on hardest negatives, ``violation``.
    """

    window: int = 50
    kept: float = 0.6
    best: float = 0.0
    recall: float = -1.0
    violation: float = 0.0
    steps: int = 0
    seen: dict[str, float] = field(default_factory=dict)

    def look(self, scores: Float[Tensor, "B B"], margin: float | None) -> bool:
        """Whether training has collapsed as of this step.

        Args:
            scores: of the batch, true pairs on the diagonal.
            margin: of the hinge, while only hardest negatives count; None in all other steps.
        """
        violation = None
        if margin is not None:
            violation = float(hinge(scores.detach(), margin, hardest=1)) / (2 * len(scores) * margin)
        return self.see(batch_recall(scores), violation, len(scores))

    def see(self, recall: float, violation: float | None, batch: int) -> bool:
        """Whether training has collapsed as of a step of which only these numbers are known.

        Args:
            recall: within the batch, in 0..1.
            violation: share of the margin that the hardest negatives violate; None while they are not trained on.
            batch: pairs in it.
        """
        self.seen = {"step_recall": recall, **({} if violation is None else {"violation": violation})}
        share = 1 / self.window
        self.recall = recall if self.recall < 0 else self.recall + share * (recall - self.recall)
        if violation is None:
            self.best, self.steps = max(self.best, self.recall), 0
            return False
        self.violation = violation if self.steps == 0 else self.violation + share * (violation - self.violation)
        self.steps += 1
        self.best = max(self.best, self.recall)
        if self.steps < self.window or self.violation < 0.9:
            return False
        return self.recall < max(self.kept * self.best, 2 / batch)


def batch_recall(scores: Float[Tensor, "B B"]) -> float:
    """R@1 within a batch, mean of both directions, in 0..1; a tie with the true pair counts as a miss.

    Example:
        >>> batch_recall(torch.eye(4)), batch_recall(torch.zeros(4, 4))
        (1.0, 0.0)
    """
    scores = scores.detach()
    others = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool, device=scores.device), -torch.inf)
    positive = scores.diagonal()
    by_image, by_caption = (positive > others.amax(1)).float().mean(), (positive > others.amax(0)).float().mean()
    return float((by_image + by_caption) / 2)
