"""Golden cases of ESL-H and ESL-A: levels, forms, attentions, train-mode losses, gradients and an optimiser step.

Nothing here depends on the sizes of a case; whatever tensors it holds decide what is compared.

Tolerances are those of the cases: 1e-5 for values (and 2e-5 of them), 1e-4 of the largest entry for a gradient. One
thing is added: a gradient may be off by a millionth of the largest gradient of the same step where that is more. Three
tensors need it, and there the authors' float32 is as far from the formula in float64 as ours is from theirs. A level is
divided by its length, which cancels the size of its filter, so the filter's gradient is the small rest of large terms
of both signs: 192 terms of ESL-H (case 3, image level 5) add up to 58 without their signs and to 0.07 with them, and
float32 leaves 4e-5 of it open. So it is with the temperature, whose gradient is a covariance within two softmaxes.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from patchword.config import TrainConfig
from patchword.importers import esl
from patchword.layers.normalise import unit
from patchword.methods.base import LossConfig, Step, ranking_loss
from patchword.methods.esl import Esl, attention
from patchword.parity.cases import CAP, Case, Ledger, Row
from patchword.parity.towers import ATOL, RTOL_GRADIENT, RTOL_LARGE, near
from patchword.train.optimizer import build_optimizer, clip_gradients
from patchword.types import Captions, Images

STATE = "state."
EPOCHS = {"warm": 0, "hard": 1}  # with one epoch of warm-up: all negatives, then the hardest ones
CAP_LARGE = 9.5e-4  # largest tolerance of values above 60, where float32 itself is 1e-5 to 1e-4 apart
BUFFERS = {"img_bn0_running_mean": "running_mean", "img_bn0_running_var": "running_var"}


def compare(case: Case) -> Ledger:
    """Compare everything of one case."""
    ledger = Ledger(case)
    state = case.state(STATE)
    options = {**case.config, "bert_config": bert_arch(case, state)}
    with torch.random.fork_rng():
        imported = esl.import_state(state, options)
    ledger.use(*(STATE + key for key in imported.used), "tolerance_hint")
    method = imported.method
    assert isinstance(method, Esl)
    check_fields(ledger, method)
    with torch.no_grad():
        twin = forward_values(ledger, deepcopy(method).double().eval())
        for name, found in forward_values(ledger, method.eval()).items():
            compare_both(ledger, name, found, twin[name], case.tensors[name], ATOL, RTOL_LARGE)
    compare_training(ledger, method, state)
    for key in imported.dead:
        if any(row.name.endswith(key) for row in ledger.rows):
            ledger.use(STATE + key)
        else:
            ledger.excuse(STATE + key, "dead in the authors' code: stored, never used")
    return ledger


def bert_arch(case: Case, state: dict[str, Tensor]) -> dict[str, Any]:
    """The BERT of a case, in transformers' words."""
    about = case.fields["bert"]
    return {
        "num_hidden_layers": about["layers"],
        "num_attention_heads": about["heads"],
        "hidden_size": about["hidden"],
        "intermediate_size": about["intermediate"],
        "max_position_embeddings": about["max_position_embeddings"],
        "vocab_size": about["vocab"],
        "type_vocab_size": len(state["txt_enc.bert.embeddings.token_type_embeddings.weight"]),
        "hidden_dropout_prob": about["dropout"],
        "attention_probs_dropout_prob": about["dropout"],
        "hidden_act": {"gelu(erf)": "gelu"}.get(about["activation"], about["activation"]),
        "layer_norm_eps": about["layer_norm_eps"],
    }


def check_fields(ledger: Ledger, method: Esl) -> None:
    """Compare what the fields say with the tensors and with the model that the keys gave."""
    case = ledger.case
    config, fields = case.config, case.fields
    letter = {"heuristic": "h", "adaptive": "a"}[method.config.pyramid]
    ledger.exact("variant", f"ESL-{letter.upper()}", str(fields["variant"])[:5])
    ledger.exact("config.variant", letter, config.get("variant", letter))
    ledger.exact("config.kernel_size", method.config.kernel_size, config["kernel_size"])
    ledger.exact("config.embed_size", method.config.joint_dim, config["embed_size"])
    ledger.exact("grid", not method.config.residual_mlp, bool(fields["grid"]))
    ledger.use("bert", "loss.margin", "loss.reduction")
    lengths = ledger.whole("in.cap_lengths")
    for name in ("img_lengths", "cap_lengths"):
        if name in config:
            ledger.exact(f"config.{name}", ledger.whole(f"in.{name}"), torch.tensor(config[name]))
    ledger.use("in.img_lengths")
    captions, marks = ledger.input("in.captions"), fields["tokens"]
    padding = torch.arange(captions.shape[1]) >= lengths[:, None]
    ledger.exact("tokens.pad", bool((captions[padding] == marks["pad"]).all()), True)
    ledger.exact("tokens.cls", bool((captions[:, 0] == marks["cls"]).all()), True)
    ledger.exact("tokens.sep", bool((captions.gather(1, lengths[:, None] - 1) == marks["sep"]).all()), True)


def forward_values(ledger: Ledger, method: Esl) -> dict[str, Tensor]:
    """Everything that is compared in evaluation mode; the method may be in float64.

    The authors' code ignores the number of regions, so every slot is a region here.
    """
    values, tokens = ledger.input("in.images").to(method.log_temperature), ledger.input("in.captions")
    images = Images(values, torch.full((len(values),), values.shape[1]))
    captions = Captions(tokens, ledger.whole("in.cap_lengths"))
    found: dict[str, Tensor] = {}
    patches, words = method.image(images)[0], method.text(captions.tokens, captions.lengths)
    for side, block, is_unit, chain in (
        ("img", patches, method.config.unit_patches, method.patch_levels),
        ("cap", words, method.config.unit_words, method.word_levels),
    ):
        found[f"eval.{side}_emb"] = unit(block) if is_unit else block
        found[f"eval.{side}_levels_1_{method.config.levels - 1}"] = torch.cat(chain(block)[1:], dim=-1)
    weights = method.forms.level_weights()
    for name in sorted(n for n in ledger.case.tensors if n.startswith("eval.D_")):
        level = int(name.removeprefix("eval.D_"))
        found[name] = weights[level] * method.forms.matrix(level)
    image_sets, caption_sets = method.encode_images(images), method.encode_captions(captions)
    first = caption_sets.slice(0, 1).vectors  # (n, E)
    s = (first @ image_sets.padded()[0].transpose(1, 2))[:, None]  # (B, 1, n, R)
    every_word, every_patch = (torch.ones(1, 1, n, dtype=torch.bool) for n in s.shape[2:])
    by_word, by_patch = attention(s, every_word, every_patch, method.temperature)
    return found | {
        "eval.S_cap0": s[:, 0],
        "eval.t2i_weights_cap0": by_word[:, 0],
        "eval.i2t_weights_cap0": by_patch[:, 0].transpose(1, 2),
        "eval.sims": method.score(image_sets, caption_sets),
    }


def compare_training(ledger: Ledger, method: Esl, state: dict[str, Tensor]) -> None:
    """Train mode from the same weights for each kind of negatives: scores, loss, gradients, buffers, one step."""
    case = ledger.case
    about = case.fields["optimizer"]
    settings = TrainConfig(
        lr=about["lr"],
        lr_factors={"text_backbone": about["bert_lr_factor"]},
        weight_decay=about["weight_decay"],
        clip_norm=about["grad_clip_total_norm"],
    )
    defaults = build_optimizer(method, settings).defaults
    ledger.exact("optimizer.betas", list(defaults["betas"]), about["betas"])
    ledger.exact("optimizer.eps", defaults["eps"], about["eps"])
    ledger.exact("optimizer.type", "AdamW", about["type"])
    ledger.use("optimizer")
    phases = sorted({name.split(".")[1] for name in case.tensors if name.startswith("train.")}, key=EPOCHS.__getitem__)
    start = {key: value.clone() for key, value in method.state_dict().items()}
    for phase in phases:
        method.load_state_dict(start)
        compare_phase(ledger, method, state, phase, settings)
    method.load_state_dict(start)
    method.eval()


def compare_phase(ledger: Ledger, method: Esl, state: dict[str, Tensor], phase: str, settings: TrainConfig) -> None:
    """One kind of negatives."""
    case, tensors, prefix = ledger.case, ledger.case.tensors, f"train.{phase}."
    twin = one_step(case, deepcopy(method).double(), phase, settings)
    made = one_step(case, method, phase, settings)
    for name, found, exact in (("sims", made.scores, twin.scores), ("loss", made.loss, twin.loss)):
        compare_both(ledger, prefix + name, found, exact, tensors[prefix + name], ATOL, RTOL_LARGE)
    our_key = partial(esl.our_key, rules=esl.rules_of(state))
    steepest = max((float(g.abs().max()) for g in case.state(f"{prefix}grad.").values()), default=0.0)
    for key, expected in case.state(f"{prefix}grad.").items():
        ours = our_key(key)  # a dead one here is multiplied by 0 there
        found, exact = (torch.zeros_like(expected) if ours is None else m.grads[ours] for m in (made, twin))
        atol = open_gradient(expected, steepest)
        compare_both(ledger, f"{prefix}grad.{key}", found, exact, expected, atol, RTOL_GRADIENT)
    if "params_without_grad" in case.fields:
        compare_gradient_free(ledger, state, made.grads)
    buffers = dict(method.named_buffers())
    for name, buffer in BUFFERS.items():
        if prefix + name in tensors:
            near(ledger, prefix + name, buffers[f"image.mlp.norm.{buffer}"], tensors[prefix + name])
    if f"{prefix}grad_norm" in tensors:
        found, exact = (torch.tensor([one.norm], dtype=torch.float64) for one in (made, twin))
        expected = tensors[f"{prefix}grad_norm"]
        # Float32 leaves 2e-5 of a norm of hundreds open, so such a one is compared after scaling it down to 20.
        scale = float(20 / expected) if bool(expected > 100) else 1.0
        values = (found * scale, exact * scale, expected * scale)
        compare_both(ledger, f"{prefix}grad_norm", *values, max(ATOL, 1e-6 * steepest * scale), RTOL_GRADIENT)
    free = case.fields.get("params_without_grad", [])
    for key, expected in case.state(f"{prefix}after_step.").items():
        ours = our_key(key)
        if ours is not None:
            found, slope = made.weights[ours].reshape(expected.shape), twin.grads[ours].reshape(expected.shape)
            compare_step(ledger, f"{prefix}after_step.{key}", found, expected, slope.abs() <= 1e-6 * steepest)
        else:  # a gradient of 0 leaves the decay, none leaves nothing
            found = state[key] * (1 if key in free else 1 - settings.lr * settings.weight_decay)
            ledger.close(f"{prefix}after_step.{key}", found, expected, atol=ATOL, rtol=RTOL_GRADIENT)


@dataclass(frozen=True)
class OneStep:
    """Train-mode forward, gradients before clipping, their norm, and the weights after one step."""

    scores: Tensor
    loss: Tensor
    grads: dict[str, Tensor]
    norm: float
    weights: dict[str, Tensor]


def one_step(case: Case, method: Esl, phase: str, settings: TrainConfig) -> OneStep:
    """Train on the batch of a case; the method may be in float64."""
    tensors = case.tensors
    size = int(case.config.get("train_batch", min(len(tensors["in.images"]), len(tensors["in.captions"]))))
    images = Images(tensors["in.images"].to(method.log_temperature), case.whole("in.img_lengths"))[:size]
    captions = Captions(tensors["in.captions"], case.whole("in.cap_lengths"))[:size]
    optimizer = build_optimizer(method.train(), settings)
    optimizer.zero_grad()
    scores = method.score(method.encode_images(images), method.encode_captions(captions))
    loss = LossConfig(margin=float(case.fields["loss"]["margin"]), warmup_epochs=1)
    total = ranking_loss(loss, scores, Step(epoch=EPOCHS[phase]))
    total.backward()
    grads = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    norm = clip_gradients([p for p in method.parameters() if p.grad is not None], settings.clip_norm)
    optimizer.step()
    return OneStep(
        scores.detach(),
        total.detach(),
        grads,
        norm,
        {name: p.detach().clone() for name, p in method.named_parameters()},
    )


def compare_both(
    ledger: Ledger, name: str, found: Tensor, exact: Tensor, expected: Tensor, atol: float, rtol: float
) -> None:
    """Compare the authors' float32 numbers with ours in float64, and ours in float32 with the same.

    The first says that the formula is theirs: no other processor or order of additions moves it, and no difference of
    1e-3 passes. The second says that our float32 keeps the formula; its tolerance has no upper limit, since the
    rounding of a value grows with the value.
    """
    exact, theirs = exact.reshape(expected.shape).double(), expected.double()
    found = found.reshape(expected.shape).double()
    open_ = atol + rtol * theirs.abs()
    cap = min(CAP_LARGE, max(CAP, 1e-5 * float(theirs.abs().max())))
    is_formula = (exact - theirs).abs() <= open_.clamp_max(cap)  # False for NaN
    is_kept = (found - exact).abs() <= open_
    passed = bool((is_formula & is_kept).all())
    add_row(ledger, name, found, theirs, f"atol {min(atol, cap):g}, rtol {rtol:g}", passed=passed)


def compare_step(ledger: Ledger, name: str, found: Tensor, expected: Tensor, is_rounding: Tensor) -> None:
    """Compare weights after a step; where the gradient is only rounding, AdamW goes along its sign all the same."""
    tolerance = torch.where(is_rounding, CAP, ATOL + RTOL_GRADIENT * expected.double().abs())
    passed = bool(((found.double() - expected.double()).abs() <= tolerance).all())
    add_row(ledger, name, found.double(), expected.double(), f"atol {ATOL:g}, rtol {RTOL_GRADIENT:g}", passed=passed)


def add_row(ledger: Ledger, name: str, found: Tensor, expected: Tensor, tolerance: str, *, passed: bool) -> None:
    """Note a comparison with its largest differences."""
    difference = (found - expected).abs()
    relative = torch.where(difference == 0, 0.0, difference / expected.abs().clamp_min(1e-30))
    ledger.use(name)
    ledger.rows.append(Row(name, float(difference.max()), float(relative.max()), tolerance, passed))


def open_gradient(expected: Tensor, steepest: float) -> float:
    """What may differ in a gradient: 1e-4 of its largest entry, or a millionth of the largest of all gradients."""
    return max(1e-7, RTOL_GRADIENT * float(expected.abs().max()), 1e-6 * steepest)


def compare_gradient_free(ledger: Ledger, state: dict[str, Tensor], grads: dict[str, Tensor]) -> None:
    """Which parameters got no gradient; the exponent's threshold of ESL-A gets one of 0 in the authors' code."""
    rules = esl.rules_of(state)
    found = []
    for key in state:
        ours = esl.our_key(key, rules)
        if key.endswith(("running_mean", "running_var", "num_batches_tracked", "position_ids")):
            continue
        has_zero = ours is None and key.endswith("temp_scale_1.weight")
        if not has_zero and (ours not in grads):
            found.append(key)
    ledger.exact("params_without_grad", sorted(found), sorted(ledger.case.fields["params_without_grad"]))
