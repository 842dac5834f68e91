"""Slices of golden cases of ESL: single equations on the authors' own intermediate values, without a whole model.

A whole case holds 256 x 256 forms and is too big to be kept beside the tests; a slice needs a tenth of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from patchword.importers import esl
from patchword.layers.normalise import unit
from patchword.layers.pyramid import AdaptivePyramid, HeuristicPyramid, LevelForms, Pyramid, level_widths
from patchword.methods.base import LossConfig, Step, ranking_loss
from patchword.methods.esl import attention, split_scores
from patchword.parity.cases import Case, Ledger
from patchword.parity.towers import near

STATE = "state."


def compare(case: Case) -> Ledger:
    """Compare every equation whose inputs and outputs the slice holds."""
    ledger = Ledger(case)
    state = case.state(STATE)
    rules = esl.rules_of(state)
    is_heuristic = rules is esl.HEURISTIC
    ledger.exact("variant", "ESL-H" if is_heuristic else "ESL-A", str(case.fields["variant"])[:5])
    widths = level_widths(
        int(case.config["embed_size"]),
        state[f"{esl.CALCULATOR}sim_eval.weight"].numel(),
        int(case.config["kernel_size"]),
    )
    ours: dict[str, Tensor] = {}
    for key, value in state.items():
        name = esl.our_key(key, rules)
        if name is not None:
            ours[name] = esl.in_our_shape(name, value)
            ledger.use(STATE + key)
    with torch.no_grad(), torch.random.fork_rng():
        for side in ("img", "cap"):
            compare_levels(ledger, side, widths, ours, is_heuristic=is_heuristic)
        compare_forms(ledger, widths, ours, is_heuristic=is_heuristic)
        compare_attention(ledger, ours["log_temperature"].exp())
        compare_losses(ledger)
    return ledger


def compare_levels(
    ledger: Ledger, side: str, widths: list[int], ours: dict[str, Tensor], *, is_heuristic: bool
) -> None:
    """The chain of levels of one side; where maps are missing, each level from the authors' level below."""
    name = f"eval.{side}_levels_1_{len(widths) - 1}"
    if name not in ledger.case.tensors:
        return
    prefix = "image_pyramid." if side == "img" else "text_pyramid."
    maps = {k.removeprefix(prefix): v for k, v in ours.items() if k.startswith(prefix)}
    pyramid: Pyramid = HeuristicPyramid(widths, _taps(maps)) if is_heuristic else AdaptivePyramid(widths)
    pyramid.load_state_dict(maps, strict=False)
    expected = ledger.case.tensors[name]
    if len(maps) == len(widths) - 1:
        found = pyramid(ledger.input(f"eval.{side}_emb"), renormalise=side == "img")[1:]
        near(ledger, name, torch.cat(found, dim=-1), expected)
        return
    levels = expected.split(widths[1:], dim=-1)
    for index in sorted(int(key.rpartition(".")[2]) for key in maps):  # map k makes level k + 1
        if index and side == "img":  # the text's chain is not normalised, so its levels can not be continued
            near(ledger, name, unit(pyramid.reduce(index + 1, levels[index - 1])), levels[index], f"level {index + 1}")


def _taps(maps: dict[str, Tensor]) -> int:
    return next(iter(maps.values())).shape[-1]


def compare_forms(ledger: Ledger, widths: list[int], ours: dict[str, Tensor], *, is_heuristic: bool) -> None:
    """The effective matrices of the levels that the slice holds."""
    forms = LevelForms(widths, sparsified=is_heuristic)
    forms.load_state_dict(
        {k.removeprefix("forms."): v for k, v in ours.items() if k.startswith("forms.")}, strict=False
    )
    for name in sorted(n for n in ledger.case.tensors if n.startswith("eval.D_")):
        level = int(name.removeprefix("eval.D_"))
        near(ledger, name, forms.level_weights()[level] * forms.matrix(level), ledger.case.tensors[name])


def compare_attention(ledger: Ledger, temperature: Tensor) -> None:
    """Both attentions of caption 0 and its scores, from the authors' word x region matrix."""
    tensors = ledger.case.tensors
    s = ledger.input("eval.S_cap0")[:, None]  # (B, 1, n, R)
    words, patches = (torch.ones(1, 1, n, dtype=torch.bool) for n in s.shape[2:])
    by_word, by_patch = attention(s, words, patches, temperature)
    near(ledger, "eval.t2i_weights_cap0", by_word[:, 0], tensors["eval.t2i_weights_cap0"])
    near(ledger, "eval.i2t_weights_cap0", by_patch[:, 0].transpose(1, 2), tensors["eval.i2t_weights_cap0"])
    scores = split_scores(s, words, patches, temperature).sum(dim=(2, 3))
    near(ledger, "eval.sims_cap0", scores, tensors["eval.sims_cap0"])


def compare_losses(ledger: Ledger) -> None:
    """Both losses of the authors' train-mode scores."""
    loss = LossConfig(margin=float(ledger.case.fields["loss"]["margin"]), warmup_epochs=1)
    ledger.use("loss.margin", "loss.reduction")
    for epoch, phase in enumerate(("warm", "hard")):
        if f"train.{phase}.loss" in ledger.case.tensors:
            total = ranking_loss(loss, ledger.input(f"train.{phase}.sims"), Step(epoch=epoch))
            near(ledger, f"train.{phase}.loss", total[None], ledger.case.tensors[f"train.{phase}.loss"])
