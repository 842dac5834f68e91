"""Golden cases of HREM: encoders in evaluation, then one training forward and backward with and without the graph.

What AAHR's cases share with them lies here too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from patchword.encoders.bert import Bert
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig
from patchword.importers import hrem
from patchword.layers.batch_graph import cross_similarities
from patchword.layers.normalise import unit
from patchword.layers.training_rows import Rows, pack, unpack
from patchword.methods.base import Step
from patchword.methods.hrem import Hrem, HremConfig, RelationConfig
from patchword.parity.cases import Case, Ledger
from patchword.parity.towers import RTOL_GRADIENT, near
from patchword.types import Captions, Encoded, Images

PROBABILITY_ATOL, PROBABILITY_RTOL = 1e-4, 1e-3  # exp of differences of values around 500
ROUNDING = 1e-6  # of the largest gradient of a step
BERT_FIELDS = {
    "vocab_size": "vocab",
    "hidden_size": "bert_dim",
    "num_hidden_layers": "bert_layers",
    "num_attention_heads": "bert_heads",
    "intermediate_size": "bert_intermediate",
    "max_position_embeddings": "bert_max_pos",
    "layer_norm_eps": "bert_eps",
}


def options_of(case: Case) -> dict[str, Any]:
    """The authors' options of a case, with the shape of its small BERT."""
    options = case.config
    types = case.tensors["state.txt_enc.bert.embeddings.token_type_embeddings.weight"]
    bert = {ours: options[theirs] for ours, theirs in BERT_FIELDS.items()}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # as the cases were measured
    return {**options, "bert_config": {**bert, **still, "type_vocab_size": len(types)}}


def encoders_of(case: Case) -> dict[str, Tensor]:
    """The authors' state of both encoders, as a checkpoint holds it."""
    state = case.state("state.")
    return {k: v for k, v in state.items() if k.startswith(("img_enc.", "txt_enc."))}


def epoch_of(config: Mapping[str, Any], warmup_epochs: int) -> int:
    """An epoch in which the hinge counts the negatives that the case counted."""
    return warmup_epochs if config["max_violation"] else 0


def draws_of(ledger: Ledger, prefix: str) -> Iterator[tuple[Tensor | None, Tensor | None]]:
    """The negatives that the authors' code drew, two directions at a time, in the order of its calls."""
    call = 0
    while True:
        names = [f"{prefix}draw{2 * call + way}.neg_idx" for way in (0, 1)]
        both = [ledger.input(name) if name in ledger.case.tensors else None for name in names]
        yield both[0], both[1]
        call += 1


def compare_draws(ledger: Ledger, prefix: str, weights: list[Tensor], ids: Tensor, *, first: int = 0) -> None:
    """Compare the probabilities of every positive pair's negatives."""
    anchor = (ids[:, None] == ids[None, :]).nonzero()[:, 0]
    for k, found in enumerate(weights, start=first):
        name = f"{prefix}draw{k}.weight"
        if name in ledger.case.tensors:
            expected = ledger.case.tensors[name]
            ledger.close(name, found[anchor], expected, atol=PROBABILITY_ATOL, rtol=PROBABILITY_RTOL)


def compare_gradients(ledger: Ledger, prefix: str, found: Callable[[str], Tensor | None]) -> None:
    """Compare every gradient below ``prefix``; a parameter without one counts as zero.

    Relative to the tensor's largest entry, but a gradient that is only rounding (of a bias before a batch norm, of
    attention's key bias) relative to the largest entry of all.
    """
    wanted = ledger.case.state(prefix)
    overall = max((float(expected.abs().max()) for expected in wanted.values()), default=0.0)
    for key, expected in wanted.items():
        gradient = found(key)
        gradient = torch.zeros_like(expected) if gradient is None else gradient
        atol = max(RTOL_GRADIENT * float(expected.abs().max()), ROUNDING * overall)
        ledger.close(prefix + key, gradient, expected, atol=atol, rtol=RTOL_GRADIENT)


def compare_relation(ledger: Ledger, name: str, relation: Tensor, connect: Tensor) -> None:
    """Compare relations; some cases hold them after unconnected pairs were set to minus infinity."""
    expected = ledger.case.tensors[name]
    near(ledger, name, relation.masked_fill(~connect, -torch.inf) if expected.isinf().any() else relation, expected)


def gap_of(images: Tensor, captions: Tensor, a: Rows, b: Rows, config: RelationConfig) -> float:
    """Smallest distance in any row between the last connected value and the next smaller one."""
    cross = cross_similarities(a.fragments, b.fragments, b.counts, config.top_k)
    gaps = []
    for values in (images @ images.T, captions @ captions.T, cross.i2t, cross.t2i):
        k = max(1, int(values.shape[1] * config.threshold))
        ordered = values.detach().sort(dim=1, descending=True).values
        if k < ordered.shape[1]:  # else everything is connected
            gaps.append(float((ordered[:, k - 1] - ordered[:, k]).min()))
    return min(gaps, default=float("inf"))


def compare_listing(ledger: Ledger) -> None:
    """The state that the JSON lists is the state that the tensors hold."""
    if "state_keys" in ledger.case.fields:
        there = sorted(k for k in ledger.case.tensors if k.startswith("state."))
        ledger.exact("state_keys", sorted(set(ledger.case.fields["state_keys"])), there)
    ledger.use("seed")


def account_for_state(ledger: Ledger, our_name: Callable[[str], object | None], prefixes: tuple[str, ...]) -> None:
    """Mark the weights that were loaded as used, and list the dead ones."""
    for key in ledger.case.state("state."):
        if not key.startswith(prefixes):
            continue
        if our_name(key) is None:
            ledger.excuse(f"state.{key}", "dead in the authors' code: stored, never used")
        else:
            ledger.use(f"state.{key}")


def read_batch(ledger: Ledger, prefix: str, *, clip: bool = False) -> tuple[Images, Captions, Tensor]:
    """Images, captions and image ids of a batch; AAHR's with CLIP's vectors."""
    extras = [{"clip": ledger.input(f"{prefix}clip_{side}")} if clip else {} for side in ("image", "text")]
    lengths = [ledger.whole(f"{prefix}{name}_lengths") for name in ("image", "caption")]
    images = Images(ledger.input(f"{prefix}images"), lengths[0], extra=extras[0])
    captions = Captions(ledger.input(f"{prefix}captions"), lengths[1], extra=extras[1])
    return images, captions, ledger.input(f"{prefix}img_ids")


def load_training(method: torch.nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what only training needs on top of the encoders; every name and shape must fit."""
    merged = dict(method.state_dict())
    for name, value in state.items():
        assert merged[name].shape == value.shape, name
        merged[name] = value
    method.load_state_dict(merged)


def compare(case: Case) -> Ledger:
    """Compare a case in full."""
    ledger = Ledger(case)
    with torch.random.fork_rng():
        imported = hrem.import_state(encoders_of(case), options_of(case))
    method = imported.method
    assert isinstance(method, Hrem)
    graph = {hrem.our_key(k): v for k, v in case.state("state.").items() if k.startswith("criterion.")}
    load_training(method, {name: value for name, value in graph.items() if name is not None})
    account_for_state(ledger, hrem.our_key, ("img_enc.", "txt_enc.", "criterion."))
    compare_listing(ledger)
    images, captions, ids = read_batch(ledger, "in.")
    with torch.no_grad():
        _compare_evaluation(ledger, method, images, captions)
    _compare_training(ledger, method, images, captions, ids)
    return ledger


def _compare_encoders(
    ledger: Ledger, method: Hrem, images: Images, captions: Captions, prefix: str
) -> tuple[Tensor, Tensor]:
    """Fragments and pooled vectors of both sides; returns the normalised ones."""
    tensors = ledger.case.tensors
    patches, n_patches = method.image.features(images)
    words = method.text(captions.tokens, captions.lengths)
    sides = (
        ("image", patches, method.image_pool(patches, n_patches), method.encode_images(images)),
        ("text", words, method.text_pool(words, captions.lengths), method.encode_captions(captions)),
    )
    for side, fragments, pooled, sets in sides:
        near(ledger, f"{prefix}.{side}.pre_pool", fragments, tensors[f"{prefix}.{side}.pre_pool"])
        near(ledger, f"{prefix}.{side}.emb_notnorm", pooled, tensors[f"{prefix}.{side}.emb_notnorm"])
        near(ledger, f"{prefix}.{side}.emb", sets.vectors[sets.offsets[:-1]], tensors[f"{prefix}.{side}.emb"])
    return sides[0][2], sides[1][2]


def _compare_evaluation(ledger: Ledger, method: Hrem, images: Images, captions: Captions) -> None:
    tensors = ledger.case.tensors
    _compare_encoders(ledger, method, images, captions, "eval")
    scores = method.score(method.encode_images(images), method.encode_captions(captions))
    near(ledger, "eval.sim", scores, tensors["eval.sim"])
    if "eval.text.bert" in tensors:
        mask = (captions.tokens != 0).float()
        assert isinstance(method.text, Bert)
        hidden = method.text.bert(input_ids=captions.tokens, attention_mask=mask).last_hidden_state
        near(ledger, "eval.text.bert", hidden, tensors["eval.text.bert"])


def _compare_training(ledger: Ledger, method: Hrem, images: Images, captions: Captions, ids: Tensor) -> None:
    case = ledger.case
    start = {k: v.clone() for k, v in method.state_dict().items()}
    method.train()
    with torch.no_grad():
        _compare_encoders(ledger, method, images, captions, "train")
    method.load_state_dict(start)  # the batch norm has moved
    a, b = method.encode_images(images), method.encode_captions(captions)
    now = method.state_dict()
    for key, expected in case.state("train.bn_after.").items():
        name = hrem.our_key(f"img_enc.{key}")
        # A dead buffer must not have moved.
        found = case.tensors[f"state.img_enc.{key}"] if name is None else now[name]
        near(ledger, f"train.bn_after.{key}", found, expected)
    _compare_losses(ledger, method, a, b, ids)


def _compare_losses(ledger: Ledger, method: Hrem, a: Encoded, b: Encoded, ids: Tensor) -> None:
    """Both losses of a batch, what the graph makes, and the gradients of the later one."""
    case, tensors = ledger.case, ledger.case.tensors
    scores = method.score(a, b)
    draws = draws_of(ledger, "train.")
    epoch = epoch_of(case.config, method.loss.warmup_epochs)
    before = Step(epoch=epoch, image_rows=ids, step=method.loss.graph_from_step - 1)
    parts, _, first = method.criterion(scores, a, b, before, draws)
    near(ledger, "train.loss_before_warmup", parts["total"], tensors["train.loss_before_warmup"])
    step = Step(epoch=epoch, image_rows=ids, step=method.loss.graph_from_step)
    parts, graph, second = method.criterion(scores, a, b, step, draws)
    assert graph is not None
    rows_a, rows_b = unpack(a, 2), unpack(b, 2)
    gap = gap_of(rows_a.heads[0], rows_b.heads[0], rows_a, rows_b, method.config)
    expected_gap = case.fields.get("smallest_connectivity_gap")
    if expected_gap is not None and gap < float("inf"):
        ledger.close("smallest_connectivity_gap", gap, expected_gap, atol=1e-6, rtol=1e-4)
    compare_draws(ledger, "train.", first.weights + second.weights, ids)
    near(ledger, "train.loss", parts["total"], tensors["train.loss"])
    for theirs, ours in (("base", "base"), ("gnn", "graph"), ("reg", "regulariser")):
        near(ledger, f"train.loss_part.{theirs}", parts[ours], tensors[f"train.loss_part.{theirs}"])
    ledger.exact("train.connect", graph.connect, tensors["train.connect"])
    compare_relation(ledger, "train.relation", graph.relation, graph.connect)
    near(ledger, "train.mask", graph.mask, tensors["train.mask"])
    near(ledger, "train.gnn_out", graph.enhanced, tensors["train.gnn_out"])
    parts["total"].backward()
    parameters = dict(method.named_parameters())

    def gradient(key: str) -> Tensor | None:
        name = hrem.our_key(key)
        return None if name is None else parameters[name].grad

    compare_gradients(ledger, "grad.", gradient)
    for item, names in case.fields.get("no_grad_parameters", {}).items():
        without = [k for k in case.state(f"state.{item}.") if "running_" not in k and "num_batches" not in k]
        without = [k for k in without if gradient(f"{item}.{k}") is None]
        ledger.exact(f"no_grad_parameters.{item}", sorted(without), sorted(names))


def compare_slice(case: Case) -> Ledger:
    """Compare what lies between the fragments and the losses, of a case without its encoders."""
    ledger = Ledger(case)
    options = case.config
    plain = {
        "joint_dim": options["embed_size"],
        "image": RegionsConfig(width=1),
        "text": BigruConfig(vocab_size=1, word_dim=1),
        "graph_input": "unit" if options["norm_input"] else "raw",
    }
    with torch.random.fork_rng():
        config = HremConfig.model_validate({**hrem.plain_options(options), **plain})
        method = Hrem(config, hrem.loss_of(options)).eval()
    state = {hrem.our_key(k): v for k, v in case.state("state.").items()}
    load_training(method, {name: value for name, value in state.items() if name is not None})
    account_for_state(ledger, hrem.our_key, ("img_enc.", "txt_enc.", "criterion."))
    ledger.use("seed")
    counts = [ledger.whole(f"in.{name}_lengths") for name in ("image", "caption")]
    for side, pool, lengths in (("image", method.image_pool, counts[0]), ("text", method.text_pool, counts[1])):
        if f"eval.{side}.pre_pool" in case.tensors:
            pooled = pool(ledger.input(f"eval.{side}.pre_pool"), lengths)
            near(ledger, f"eval.{side}.emb_notnorm", pooled, case.tensors[f"eval.{side}.emb_notnorm"])
            near(ledger, f"eval.{side}.emb", unit(pooled), case.tensors[f"eval.{side}.emb"])
    sets = []
    for side, lengths in zip(("image", "text"), counts, strict=True):
        heads = [ledger.input(f"train.{side}.{name}") for name in ("emb", "emb_notnorm")]
        sets.append(pack(heads, lengths, ledger.input(f"train.{side}.pre_pool")))
    _compare_losses(ledger, method.train(), sets[0], sets[1], ledger.input("in.img_ids"))
    return ledger
