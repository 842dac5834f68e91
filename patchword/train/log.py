"""What a run says about an evaluation: a row of ``metrics.jsonl`` and a line on the console."""

from __future__ import annotations

from typing import Any

from patchword.evaluate.result import Evaluation


def summary(result: Evaluation) -> dict[str, Any]:
    """The numbers of an evaluation that a log line holds."""
    head = result.headline
    return {
        "rsum": head.rsum,
        "i2t": [head.i2t.r1, head.i2t.r5, head.i2t.r10],
        "t2i": [head.t2i.r1, head.t2i.r5, head.t2i.r10],
        "encode_s": result.provenance.encode_s,
        "score_s": result.provenance.score_s,
    }


def line(result: Evaluation) -> str:
    """The headline of an evaluation in one line."""
    a, b = result.headline.i2t, result.headline.t2i
    return (
        f"i2t {a.r1:.1f}/{a.r5:.1f}/{a.r10:.1f}  t2i {b.r1:.1f}/{b.r5:.1f}/{b.r10:.1f}  rsum {result.headline.rsum:.1f}"
    )
