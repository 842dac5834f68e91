"""Golden cases of VSE-infinity and CHAN: forward, train-mode losses, gradients, BatchNorm buffers, optimiser steps.

Nothing here depends on the sizes of a case; whatever tensors it holds decide what is compared.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from patchword.config import TrainConfig
from patchword.data.augment import keep_cells_mask
from patchword.importers.keys import Imported
from patchword.methods.base import LossConfig, Method, Step, ranking_loss
from patchword.parity.cases import Case, Ledger
from patchword.train.optimizer import build_optimizer, clip_gradients
from patchword.types import Captions, Images

ATOL = 1e-5  # on embeddings and unit-scale scores
RTOL_LARGE = 2e-5  # on larger values
RTOL_GRADIENT = 1e-4
STATE = "state_dict/"
BUFFERS = "train/buffer_after_1_forward/"


@dataclass(frozen=True)
class Runner:
    """What the common part needs to know about a method.

    Attributes:
        import_state: builds the method from an authors' state dict and options.
        our_key: our name of an authors' key, None for a dead one.
        forward: compares the method's own forward quantities.
        slots: image and caption vectors of every slot, padded ones included; None for one vector per item.
    """

    import_state: Callable[[Any, Any], Imported]
    our_key: Callable[[str], str | None]
    forward: Callable[[Ledger, Method], None]
    slots: Callable[[Method, Images, Captions], tuple[Tensor, Tensor]] | None = None


def near(ledger: Ledger, name: str, found: Tensor, expected: Tensor, note: str = "") -> None:
    """Compare forward values: 1e-5 absolute at unit scale, 2e-5 relative above."""
    ledger.close(name, found, expected, atol=ATOL, rtol=RTOL_LARGE, note=note)


def near_gradient(ledger: Ledger, name: str, found: Tensor, expected: Tensor) -> None:
    """Compare gradients: 1e-4 relative, and absolute 1e-4 of the largest entry (or 1e-6) for the entries near zero."""
    finite = expected[expected.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    ledger.close(name, found, expected, atol=max(1e-7, RTOL_GRADIENT * scale), rtol=RTOL_GRADIENT)


def read_images(ledger: Ledger, prefix: str = "") -> Images:
    """The image batch of a case: regions with lengths, or pixels with the draws of the size augmentation."""
    values = ledger.input(f"{prefix}images")
    if f"{prefix}image_lengths" in ledger.case.tensors:
        return Images(values, ledger.whole(f"{prefix}image_lengths"))
    keep = None
    if f"{prefix}np_rand_1" in ledger.case.tensors:
        keep = keep_cells_mask(ledger.input(f"{prefix}np_rand_1").numpy(), ledger.input(f"{prefix}np_rand_2").numpy())
    return Images(values, None, keep)


def read_captions(ledger: Ledger, prefix: str = "") -> Captions:
    """The caption batch of a case."""
    return Captions(ledger.input(f"{prefix}captions"), ledger.whole(f"{prefix}caption_lengths"))


def compare_case(case: Case, runner: Runner) -> Ledger:
    """Compare everything of one case."""
    ledger = Ledger(case)
    state = case.state(STATE)
    with torch.random.fork_rng():
        imported = runner.import_state(state, case.config)
    ledger.use(*(STATE + k for k in imported.used))
    assert isinstance(imported.method, Method)
    method = imported.method.eval()
    check_config(ledger)
    with torch.no_grad():
        runner.forward(ledger, method)
    if "train/images" in case.tensors:
        compare_training(ledger, method, state, runner)
    for key in imported.dead:
        if not any(row.name.endswith(key) for row in ledger.rows):
            ledger.excuse(STATE + key, "dead in the authors' code: stored, never used")
        else:
            ledger.use(STATE + key)
    return ledger


def check_config(ledger: Ledger) -> None:
    """Compare the lengths that the configuration lists with the tensors."""
    names = {"img_lens": "image_lengths", "cap_lens": "caption_lengths"}
    for key, tensor in names.items():
        for prefix, path in (("", ""), ("train_", "train/")):
            listed = ledger.case.config.get(prefix + key)
            if listed is not None and path + tensor in ledger.case.tensors:
                ledger.exact(f"config.{prefix}{key}", ledger.case.whole(path + tensor), torch.tensor(listed))


def compare_training(ledger: Ledger, method: Method, state: dict[str, Tensor], runner: Runner) -> None:
    """Train-mode forward, every loss with its gradients, buffers after one forward, and the trajectory."""
    case, config = ledger.case, ledger.case.config
    images, captions = read_images(ledger, "train/"), read_captions(ledger, "train/")
    start = {k: v.clone() for k, v in method.state_dict().items()}
    method.freeze_blocks(int(config.get("fixed_blocks", 0)))
    margin, temperature = float(config["margin"]), float(config.get("temperature", 0.01))
    kinds = {
        "hinge_sum": (LossConfig(margin=margin, warmup_epochs=1), Step(epoch=0)),
        "hinge_max": (LossConfig(margin=margin, warmup_epochs=0), Step(epoch=0)),
        "infonce": (LossConfig(kind="info_nce", margin=margin, temperature=temperature), Step()),
    }
    for k, (kind, (loss, step)) in enumerate(kinds.items()):
        if f"train/loss/{kind}" not in case.tensors:
            continue
        method.load_state_dict(start)
        method.train()
        method.zero_grad()
        image_sets, caption_sets = method.encode_images(images), method.encode_captions(captions)
        scores = method.score(image_sets, caption_sets)
        if k == 0:
            vectors = (image_sets.vectors, caption_sets.vectors)
            compare_train_forward(
                ledger, method, runner.slots(method, images, captions) if runner.slots else vectors, scores, runner
            )
        total = ranking_loss(loss, scores, step)
        near(ledger, f"train/loss/{kind}", total, case.tensors[f"train/loss/{kind}"])
        if kind in case.fields.get("scalars", {}):
            near(ledger, f"scalars.{kind}", total, torch.tensor(case.fields["scalars"][kind]))
        total.backward()
        parameters = dict(method.named_parameters())
        for key, expected in case.state(f"train/grad/{kind}/").items():
            ours = runner.our_key(key)
            found = None if ours is None else parameters[ours].grad
            near_gradient(
                ledger, f"train/grad/{kind}/{key}", torch.zeros_like(expected) if found is None else found, expected
            )
    method.load_state_dict(start)
    if "train/traj/loss" in case.tensors:
        compare_trajectory(ledger, method, state, runner, images, captions)
    method.load_state_dict(start)
    counters = [n for n in case.tensors if n.startswith(BUFFERS) and n.endswith("num_batches_tracked")]
    for name in (n for n in counters if n not in ledger.used):  # buffers of a moment that was not reached
        ledger.exact(name, "after 1 forward or after all steps", f"after {int(case.tensors[name])}")


def compare_train_forward(
    ledger: Ledger,
    method: Method,
    embeddings: tuple[Tensor, Tensor],
    scores: Tensor,
    runner: Runner,
) -> None:
    """Embeddings and scores in train mode, and the buffers after this one forward."""
    case = ledger.case
    near(ledger, "train/img_emb", embeddings[0], case.tensors["train/img_emb"])
    near(ledger, "train/cap_emb", embeddings[1], case.tensors["train/cap_emb"])
    near(ledger, "train/sims", scores, case.tensors["train/sims"])
    compare_buffers(ledger, method, runner, forwards=1)


def compare_buffers(ledger: Ledger, method: Method, runner: Runner, *, forwards: int, mean_atol: float = ATOL) -> None:
    """Compare BatchNorm buffers, if the case measured them after this many training forwards.

    The name of the tensors says one forward; their own counter says when they were taken, and the counter is right.
    """
    case, now = ledger.case, method.state_dict()
    counts = [int(v) for k, v in case.state(BUFFERS).items() if k.endswith("num_batches_tracked")]
    if max(counts, default=0) != forwards:
        return
    for key, expected in case.state(BUFFERS).items():
        ours = runner.our_key(key)
        found = case.tensors[STATE + key] if ours is None else now[ours]  # a dead buffer must not have moved
        atol = mean_atol if key.endswith("running_mean") and ours is not None else ATOL
        ledger.close(BUFFERS + key, found, expected, atol=atol, rtol=RTOL_LARGE, note=f"after {forwards} forward(s)")


def train_config(config: dict[str, Any]) -> TrainConfig:
    """The optimiser settings of the authors' code for this configuration (their parameter groups and decay)."""
    single_group = config.get("text_enc_type") == "bigru" and config.get("precomp_enc_type") != "backbone"
    return TrainConfig(
        lr=float(config["learning_rate"]),
        lr_factors={"text_backbone": 0.1, "image_backbone": float(config.get("backbone_lr_factor", 0.01))},
        weight_decay=0.01 if single_group else 1e-4,
        clip_norm=float(config["grad_clip"]),
    )


def compare_trajectory(
    ledger: Ledger, method: Method, state: dict[str, Tensor], runner: Runner, images: Images, captions: Captions
) -> None:
    """Optimiser steps on one batch: step 0 with all negatives, later ones with the hardest."""
    case = ledger.case
    settings = train_config(case.config)
    twin = deepcopy(method).double()
    take_steps(case, twin, settings, replace(images, values=images.values.double()), captions)
    losses, norms = take_steps(case, method, settings, images, captions)
    for name, found in (("loss", losses), ("grad_norm_before_clip", norms)):
        name = f"train/traj/{name}"
        ledger.close(name, torch.tensor(found), case.tensors[name], atol=1e-5, rtol=1e-4)
    for key, found in (("traj", losses), ("gn", norms)):
        if key in case.fields.get("scalars", {}):
            expected = torch.tensor(case.fields["scalars"][key])
            ledger.close(f"scalars.{key}", torch.tensor(found), expected, atol=1e-5, rtol=1e-4)
    ledger.use("scalars.param_groups")
    now, exact = method.state_dict(), twin.state_dict()
    steps = len(losses)
    # A bias in front of a batch norm has no gradient but rounding, which AdamW turns into steps of up to lr; the
    # running mean carries that bias, so it is only known to the sum of what those steps can add up to.
    drift = sum(0.1 * 0.9 ** (steps - 1 - k) * 2 * settings.lr * k for k in range(steps))
    compare_buffers(ledger, method, runner, forwards=steps, mean_atol=drift)
    for key, expected in case.state(f"train/traj/param_after_{steps}_steps/").items():
        ours = runner.our_key(key)
        found_weight = state[key] if ours is None else now[ours]  # a dead weight must not have moved
        # AdamW divides by |gradient|, so rounding in a gradient near zero moves a weight by a part of lr: as far as our
        # own rounding does, measured against the same steps in float64.
        rounding = 0.0 if ours is None else float((found_weight.double() - exact[ours]).abs().max())
        atol = max(1e-5, 8 * rounding)
        ledger.close(f"train/traj/param_after_{steps}_steps/{key}", found_weight, expected, atol=atol, rtol=1e-4)


def take_steps(
    case: Case, method: Method, settings: TrainConfig, images: Images, captions: Captions
) -> tuple[list[float], list[float]]:
    """The optimiser steps of a trajectory: every loss, and every norm before clipping; may be in float64."""
    optimizer = build_optimizer(method, settings)
    parameters = [p for p in method.parameters() if p.requires_grad]
    loss = LossConfig(margin=float(case.config["margin"]), warmup_epochs=1)
    losses, norms = [], []
    method.train()
    for step in range(len(case.tensors["train/traj/loss"])):
        optimizer.zero_grad()
        scores = method.score(method.encode_images(images), method.encode_captions(captions))
        total = ranking_loss(loss, scores, Step(epoch=step))
        total.backward()
        losses.append(float(total.detach()))
        norms.append(clip_gradients(parameters, settings.clip_norm))
        optimizer.step()
    return losses, norms
