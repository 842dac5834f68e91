"""How a score is made of what the two encoders give, in words and numbers, for those who have the vectors only."""

from __future__ import annotations

from dataclasses import dataclass, field

DOT = "score[i, j] = dot product of vector 0 of image i and vector 0 of caption j"
COSINES = "s[r, l] = dot product of vector r of the image and vector l of the caption"


@dataclass(frozen=True)
class Formula:
    """How the score of an image and a caption is made of their vectors.

    Attributes:
        how: the score as a formula that has no weights of its own; empty when there is none, and only the method
            itself can score.
        numbers: learned numbers that ``how`` names.
        weights: when there is no formula, what has weights in the score, such as "the condenser of patches".
    """

    how: str = ""
    numbers: dict[str, float] = field(default_factory=dict)
    weights: str = ""
