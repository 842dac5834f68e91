"""Golden cases of AAHR: encoders in evaluation, then successive training steps as its parts switch on one by one."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from patchword.config import TrainConfig
from patchword.importers import aahr
from patchword.layers.normalise import unit
from patchword.layers.training_rows import Rows, unpack
from patchword.losses.prototypes import sinkhorn
from patchword.methods.aahr import Aahr, ConvolvedGraph, GuidedHead
from patchword.methods.base import Step
from patchword.parity.cases import Case, Ledger
from patchword.parity.hrem import (
    account_for_state,
    compare_draws,
    compare_gradients,
    compare_listing,
    compare_relation,
    draws_of,
    encoders_of,
    epoch_of,
    gap_of,
    load_training,
    options_of,
    read_batch,
)
from patchword.parity.towers import near
from patchword.train.optimizer import build_optimizer, clip_gradients
from patchword.types import Captions, Images, real_slots

KEYS = {"momentum_img.": "img_enc.", "momentum_txt.": "txt_enc."}  # key encoders and what they follow
QUEUES = {"image_queue": "images", "text_queue": "captions"}
SHORT = {"txt_enc.bert.q": "txt_enc.bert.encoder.layer.0.attention.self.query.weight"}  # a name of the cases


def our_part(key: str) -> tuple[str, int | None] | None:
    """Our name of an authors' key of the encoders, the criterion or the key encoders, and which head it is."""
    key = SHORT.get(key, key)
    for prefix, followed in KEYS.items():
        if key.startswith(prefix):
            part = aahr.our_part(followed + key.removeprefix(prefix))
            return None if part is None else (f"key_{part[0]}", part[1])
    return aahr.our_part(key)


def take(values: Mapping[str, Tensor | None], key: str, heads: int) -> Tensor | None:
    """What belongs to an authors' key; of a layer that joins all heads, its own head's rows."""
    part = our_part(key)
    value = None if part is None else values[part[0]]
    if part is None or value is None or part[1] is None:
        return value
    return value.chunk(heads)[part[1]]


def compare(case: Case) -> Ledger:
    """Compare a case in full."""
    ledger = Ledger(case)
    with torch.random.fork_rng():
        imported = aahr.import_state(encoders_of(case), options_of(case))
    method = imported.method
    assert isinstance(method, Aahr)
    load_training(method, _training_state(ledger))
    if method.queue is not None:
        method.key_started.fill_(True)  # the case holds the key encoders as they are
    account_for_state(ledger, our_part, ("img_enc.", "txt_enc.", "criterion.", *KEYS))
    compare_listing(ledger)
    with torch.no_grad():
        _compare_evaluation(ledger, method.eval())
    _compare_steps(ledger, method)
    return ledger


def _training_state(ledger: Ledger) -> dict[str, Tensor]:
    """Criterion, key encoders and queues of a case under our names."""
    state = ledger.case.state("state.")
    ours: dict[str, Tensor] = {}
    for prefix, followed in (*KEYS.items(), ("criterion.", "criterion.")):
        named = {}
        for key in (k for k in state if k.startswith(prefix)):
            name = aahr.TRAINING_RULES.rename(followed + key.removeprefix(prefix))
            if name is not None:
                named[name] = state[key]
        ours |= {("key_" if prefix in KEYS else "") + k: v for k, v in aahr.stack_heads(named).items()}
    there = {key: name for key, name in QUEUES.items() if key in state}
    return ours | {f"queue.{name}": ledger.input(f"state.{key}").T for key, name in there.items()}


def _compare_evaluation(ledger: Ledger, method: Aahr) -> None:
    tensors = ledger.case.tensors
    images, captions, _ = read_batch(ledger, "in1.", clip=True)
    patches, n_patches = method.image.features(images)
    words = method.text(captions.tokens, captions.lengths)
    for side, head, fragments, lengths, clip in (
        ("image", method.image_head, patches, n_patches, images.extra["clip"]),
        ("text", method.text_head, words, captions.lengths, captions.extra["clip"]),
    ):
        fused, local = head(fragments, lengths, clip)
        if f"eval.{side}.pre_pool" in tensors:
            near(ledger, f"eval.{side}.pre_pool", fragments, tensors[f"eval.{side}.pre_pool"])
        near(
            ledger, f"eval.{side}.mha_att", _attention(head, fragments, lengths, clip), tensors[f"eval.{side}.mha_att"]
        )
        near(ledger, f"eval.{side}.local", local, tensors[f"eval.{side}.local"])
        near(ledger, f"eval.{side}.emb", fused, tensors[f"eval.{side}.emb"])
    scores = method.score(method.encode_images(images), method.encode_captions(captions))
    near(ledger, "eval.sim", scores, tensors["eval.sim"])
    for name in tensors:
        found = re.fullmatch(r"eval\.text\.emb_pad_plus(\d+)", name)
        if found is not None:
            padded = torch.nn.functional.pad(captions.tokens, (0, int(found[1])))
            longer = method.encode_captions(Captions(padded, captions.lengths, captions.extra))
            near(ledger, name, longer.vectors, tensors[name])


def _attention(head: GuidedHead, fragments: Tensor, lengths: Tensor, clip: Tensor) -> Tensor:
    counted = real_slots(lengths, fragments.shape[1]) if head.config.pool_padding == "masked" else None
    return head.pool.weights(head.project(clip), head.graph(fragments, lengths), counted)


def _compare_steps(ledger: Ledger, method: Aahr) -> None:
    """The training steps of a case, each with the losses, draws, gradients and keys that it holds."""
    config = ledger.case.config
    settings = TrainConfig(
        lr=float(config["lr"]),
        lr_factors={"text_backbone": float(config["lr_bert"]) / float(config["lr"])},
        weight_decay=float(config["weight_decay"]),
        clip_norm=float(config["grad_clip"]),
    )
    optimizer = build_optimizer(method, settings)
    parameters = [p for p in method.parameters() if p.requires_grad]
    method.train()
    gaps: list[float] = []
    count = 0
    while f"in{count + 1}.images" in ledger.case.tensors:
        images, captions, ids = read_batch(ledger, f"in{count + 1}.", clip=True)
        step = Step(epoch=epoch_of(config, method.loss.warmup_epochs), image_rows=ids, step=count)
        count += 1
        optimizer.zero_grad()
        method.begin_step(step)
        _compare_step(ledger, method, f"step{count}.", images, captions, step, gaps)
        norm = clip_gradients(parameters, settings.clip_norm)
        near_total(ledger, f"step{count}.grad_norm", norm)
        optimizer.step()
        _compare_state(ledger, method, f"after{count}.")
    expected_gap = ledger.case.fields.get("smallest_connectivity_gap")
    if gaps and expected_gap is not None:
        ledger.close("smallest_connectivity_gap", min(gaps), expected_gap, atol=1e-6, rtol=1e-4)


def near_total(ledger: Ledger, name: str, found: Tensor | float) -> None:
    """Compare a loss or a norm, when the case has it."""
    if name in ledger.case.tensors:
        ledger.close(name, found, ledger.case.tensors[name], atol=1e-5, rtol=1e-5)


def _compare_step(
    ledger: Ledger, method: Aahr, prefix: str, images: Images, captions: Captions, step: Step, gaps: list[float]
) -> None:
    case = ledger.case
    a, b = method.encode_images(images), method.encode_captions(captions)
    scores = method.score(a, b)
    parts, graph, matching = method.criterion(scores, a, b, step, draws_of(ledger, prefix))
    assert step.image_rows is not None
    compare_draws(ledger, prefix, matching.weights, step.image_rows)
    rows_a, rows_b = unpack(a, method.heads), unpack(b, method.heads)
    for side, rows in (("image", rows_a), ("text", rows_b)):
        for name, found in zip(("emb", "local", "key"), rows.heads, strict=False):
            name = f"{prefix}key_{side}" if name == "key" else f"{prefix}{side}.{name}"
            if name in case.tensors:
                near(ledger, name, found, case.tensors[name])
    zero = scores.new_zeros(())
    for theirs, ours in (
        ("base", "base"),
        ("gnn", "graph"),
        ("reg", "regulariser"),
        ("swav", "swav"),
        ("moco", "moco"),
    ):
        near_total(ledger, f"{prefix}loss_part.{theirs}", parts.get(ours, zero))
    constant = float(case.config["reg_loss_weight"]) * parts.get("regulariser", zero)  # theirs adds it, to no effect
    near_total(ledger, f"{prefix}loss", parts["total"] + constant)
    if graph is not None:
        gaps.append(gap_of(unit(rows_a.heads[1]), unit(rows_b.heads[1]), rows_a, rows_b, method.config))
        _compare_graph(ledger, f"{prefix}graph.", graph)
    _compare_assignments(ledger, method, f"{prefix}swav.", rows_a, rows_b)
    parts["total"].backward()
    gradients = {name: p.grad for name, p in method.named_parameters()}
    heads = method.config.guide_heads
    compare_gradients(ledger, f"{prefix}grad.", lambda key: take(gradients, key, heads))
    field = f"zero_or_no_gradient_at_{prefix.rstrip('.')}"
    if field in case.fields:
        keys = [k for k in case.state("state.") if k.startswith(("img_enc.", "txt_enc.", "criterion."))]
        keys = [k for k in keys if not re.search(r"running_|num_batches|swav_loss\.queue$", k)]
        without = [k for k in keys if (g := take(gradients, k, heads)) is None or not g.any()]
        ledger.exact(field, sorted(without), sorted(case.fields[field]))


def _compare_graph(ledger: Ledger, prefix: str, graph: ConvolvedGraph) -> None:
    tensors = ledger.case.tensors
    if f"{prefix}connect" not in tensors:
        return
    ledger.exact(f"{prefix}connect", graph.connect, tensors[f"{prefix}connect"])
    compare_relation(ledger, f"{prefix}relation", graph.relation, graph.connect)
    found = {
        "mask": graph.mask,
        "reg": graph.regulariser,
        "gcn_img": graph.by_image,
        "gcn_txt": graph.by_caption,
        "gcn_joint": graph.by_all,
        "gnn_in": graph.inputs,
        "gnn_out": graph.enhanced,
    }
    for name, value in found.items():
        near(ledger, f"{prefix}{name}", value, tensors[f"{prefix}{name}"])


def _compare_assignments(ledger: Ledger, method: Aahr, prefix: str, a: Rows, b: Rows) -> None:
    for side, rows in (("image", a), ("text", b)):
        name = f"{prefix}q_{side}"
        if name in ledger.case.tensors and method.prototypes is not None:
            scores = rows.heads[0] @ method.prototypes.T
            q = sinkhorn(scores.detach(), method.loss.sinkhorn_epsilon, method.loss.sinkhorn_rounds)
            near(ledger, name, q, ledger.case.tensors[name])


def _compare_state(ledger: Ledger, method: Aahr, prefix: str) -> None:
    """Weights, prototypes, key encoders and queues after a step."""
    now: dict[str, Tensor | None] = dict(method.state_dict())
    for key, expected in ledger.case.state(prefix).items():
        if key in QUEUES:
            value = now[f"queue.{QUEUES[key]}"]
            found = None if value is None else value.T
        else:
            found = take(now, key, method.config.guide_heads)
        found = ledger.case.tensors[f"state.{key}"] if found is None else found  # a dead weight must not have moved
        near(ledger, prefix + key, found, expected)
