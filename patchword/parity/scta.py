"""Golden cases of SCTA (and LAPS): forward, drawn heads, training runs, scoring in shards with its recall.

The authors draw a layer for every caption in every scoring call. The deterministic part is compared with the stored
layers; the layers, and scores with layers of our own drawing, under the stored seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from patchword.encoders.all_tokens import patch_count
from patchword.encoders.bigru import BigruConfig
from patchword.encoders.patches import RegionsConfig, VitConfig
from patchword.evaluate.ranks import rank_scores
from patchword.evaluate.recall import recall_report
from patchword.importers import scta
from patchword.importers.keys import Imported
from patchword.layers.condense import (
    draw_heads,
    hidden_width,
    image_shares,
    keep_highest,
    kept_count,
    patch_scores,
    word_counts,
)
from patchword.methods.base import Step, ranking_loss
from patchword.methods.scta import CaptionTokens, Scta, SctaConfig
from patchword.parity.cases import Case, Ledger
from patchword.parity.scta_inputs import compare_pictures, compare_words
from patchword.parity.towers import near, near_gradient
from patchword.scoring.condensed import compare_condensed
from patchword.types import Captions, Encoded, Images

STATE = "sd."
CANCELLED = "aggr_net.weight.3.bias"
CUT = 2e-6  # a patch whose score is this near to the last one kept may fall on either side of the cut
FORMS: dict[str, Callable[[Scta, Encoded, CaptionTokens], Tensor]] = {
    "readable": Scta.compare,
    "condensed": compare_condensed,
}
# What a case says about itself, and options that the authors' code of this method never reads.
ABOUT = ("rng", "tolerance", "transformers", "opt.dataset", "opt.multi_gpu", "opt.shard_size")
NEVER_READ = ("opt.attention_weight",)


def compare(case: Case) -> Ledger:
    """Compare a case of any kind: captions to ids, pictures to pixels, or a model."""
    if "captions" in case.fields:
        return compare_words(case)
    if "img_res" in case.fields:
        return compare_pictures(case)
    ledger = Ledger(case)
    state = case.state(STATE)
    options = {**case.fields.get("opt", {})}
    for tower, name in (("image", "image_config"), ("text", "bert_config")):
        options[name] = case.config.get(tower, {}).get("config")
    with torch.random.fork_rng():
        imported = _import(case, state, {**case.config.get("opt", {}), **options})
        assert isinstance(imported.method, Scta)
        method = imported.method
        ledger.use(*(STATE + key for key in imported.used), *ABOUT)
        _compare_dead(ledger, method, imported.dead)
        _compare_settings(ledger, method, options)
        if "runs" in case.fields:
            for k in range(len(case.fields["runs"])):
                _compare_run(ledger, method, state, k)
        else:
            _compare_forward(ledger, method)
    return ledger


def _import(case: Case, state: dict[str, Tensor], options: dict[str, Any]) -> Imported:
    """The model of a case; one that holds embeddings instead of towers gets towers that are never used."""
    if any(key.startswith(scta.BACKBONE) for key in state):
        return scta.import_state(state, options)
    width = next(len(value) for key, value in state.items() if key.endswith("aggr_net.weight.0.weight"))
    towers = {"image": RegionsConfig(width=1), "text": BigruConfig(vocab_size=1, word_dim=1)}
    ratios = {"keep_ratio": "img_sparse_ratio", "patch_ratio": "img_aggr_ratio", "word_ratio": "cap_aggr_ratio"}
    values = {ours: options[theirs] for ours, theirs in ratios.items()}
    method = Scta(SctaConfig(joint_dim=width, patches=int(options["num_patches"]), **towers, **values))
    method.has_class_token = case.tensors["img_emb"].shape[1] == int(options["num_patches"]) + 1
    ours = {str(scta.our_key(key)): value for key, value in state.items() if scta.our_key(key) is not None}
    refused = method.load_state_dict(ours, strict=False).unexpected_keys
    used = [key for key in state if scta.our_key(key) is not None and scta.our_key(key) not in refused]
    return Imported(method.eval(), used, [key for key in state if scta.our_key(key) is None])


def _compare_dead(ledger: Ledger, method: Scta, dead: list[str]) -> None:
    """Swin's position index, which we compute ourselves, and the last bias of the patch condenser, which cancels."""
    buffers = dict(method.named_buffers())
    for key in dead:
        if key.endswith("relative_position_index"):
            inner = key.removeprefix(scta.BACKBONE).replace(".attention.self.", ".attention.relative_position_bias.")
            found = buffers[f"image.patches.backbone.{inner}"].flatten()
            ledger.exact(STATE + key, found, ledger.input(STATE + key).flatten())
        elif key.endswith(CANCELLED):
            bias = ledger.input(STATE + key)
            logits = torch.linspace(-2, 2, 7 * len(bias)).view(7, -1).sin()
            biased, note = torch.softmax(logits + bias, dim=0), "the softmax over patches cancels it"
            near(ledger, STATE + key, torch.softmax(logits, dim=0), biased, note=note)
        else:
            ledger.excuse(STATE + key, "dead in the authors' code: stored, never used")


def _compare_settings(ledger: Ledger, method: Scta, options: dict[str, Any]) -> None:
    """Counts that the case lists, and the options that say which model it is."""
    fields, config = ledger.case.fields, method.config
    real = patch_count(config.image) if isinstance(config.image, VitConfig) else int(options["num_patches"])
    patches = config.patches if config.patches is not None else real  # what the number of mixtures comes from
    mixtures = method.patch_condenser.fc2.out_features
    found: dict[str, Any] = {
        "num_patches": patches,
        "aggregated_image_tokens": mixtures,
        "kept_patches": kept_count(real, config.keep_ratio),
        "opt.num_patches": patches,
        "opt.vit_type": "vit" if method.has_class_token else "swin",
        "opt.embed_size": config.joint_dim,
        "opt.img_sparse_ratio": config.keep_ratio,
        "opt.sparse_ratio": config.keep_ratio,
        "opt.img_aggr_ratio": config.patch_ratio,
        "opt.aggr_ratio": config.patch_ratio,
        "opt.cap_aggr_ratio": config.word_ratio,
        "opt.margin": method.loss.margin,
        "opt.monitor_weight": method.loss.monitor_weight,
        "opt.ratio_weight": method.loss.monitor_weight,
        "opt.max_violation": method.loss.warmup_epochs == 0,
        "opt.max_word": config.word_limit,
        "opt.loss": "vse",
    }
    for name, value in found.items():
        outer, _, inner = name.rpartition(".")
        place = fields.get(outer, {}) if outer else fields
        if inner in place:
            expected = place[inner]
            if inner == "vit_type":  # any name that holds "swin" is one
                expected = "swin" if "swin" in str(expected) else "vit"
            ledger.exact(name, value, expected)
    for name in NEVER_READ:
        ledger.excuse(name, "never read by the authors' code")


def _captions(ledger: Ledger) -> Captions:
    return Captions(ledger.input("tokens"), ledger.whole("lengths"))


def _stored_heads(ledger: Ledger, prefix: str, method: Scta, lengths: Tensor, seed: int | None) -> Tensor | None:
    """The layers in a case, compared with ours under its seed; None for LAPS, which has none.

    The generator is left as it is after drawing them.
    """
    if method.config.word_condenser == "none":
        return None
    counts = word_counts(lengths, method.config.word_ratio)
    if "caption_keep" in ledger.case.fields:
        ledger.exact("caption_keep", counts, torch.tensor(ledger.case.fields["caption_keep"]))
    stored = [ledger.case.tensors[f"{prefix}fc2.{c}.weight"] for c in range(len(lengths))]
    if seed is not None:
        torch.manual_seed(seed)
        for c, drawn in enumerate(draw_heads(counts, hidden_width(method.config.joint_dim))):
            for name, found in zip(("weight", "bias"), drawn, strict=True):
                name = f"{prefix}fc2.{c}.{name}"
                ledger.close(name, found, ledger.case.tensors[name], atol=1e-7, rtol=0.0, note="drawn by us")
    return pad_sequence(stored, batch_first=True)


def _as_published(method: Scta) -> Scta:
    """The same model with layers that are drawn in every scoring call."""
    method.config = method.config.model_copy(update={"word_head": "resample"})
    return method


@torch.no_grad()
def _compare_forward(ledger: Ledger, method: Scta) -> None:
    """Everything that the authors' model computes in evaluation."""
    case, tensors = ledger.case, ledger.case.tensors
    images, captions = _encoded(ledger, method)
    if "shard_size" in case.fields or "shard" in str(case.fields.get("kind", "")):
        _compare_shards(ledger, method, images, captions)
        return
    seed = case.fields.get("sim_seed")
    heads = _stored_heads(ledger, "", method, captions.lengths, seed)
    words, _ = method.caption_tokens(captions, heads)
    for c, count in enumerate(words.counts.tolist()):
        if f"cap_tokens.{c}" in tensors:
            near(ledger, f"cap_tokens.{c}", words.tokens[c, :count], tensors[f"cap_tokens.{c}"])
    scores, masks, mixed, gap = _patches_by_hand(method, images, words)
    near(ledger, "score", scores, tensors["score"])
    _compare_masks(ledger, "mask", scores, masks, tensors["mask"])
    if case.fields.get("min_score_gap_at_cut") is not None:
        near(ledger, "min_score_gap_at_cut", gap, torch.tensor(case.fields["min_score_gap_at_cut"]))
    near(ledger, "img_tokens", mixed, tensors["img_tokens"])
    for form, pairs in FORMS.items():
        near(ledger, "sims", pairs(method, images, words), tensors["sims"], note=f"stored layers, {form} form")
    if seed is not None:
        torch.manual_seed(seed)
        ledger.use("sim_seed")
        near(ledger, "sims", _as_published(method).score(images, captions), tensors["sims"], note="layers drawn by us")


def _encoded(ledger: Ledger, method: Scta) -> tuple[Encoded, Encoded]:
    """Vector sets of the case's images and captions, compared with the stored ones, or those where nothing else is."""
    tensors = ledger.case.tensors
    if "images" not in tensors:
        image, text = ledger.input("img_emb"), ledger.input("cap_emb")
        lengths = ledger.whole("lengths").clamp(max=text.shape[1])
        sizes = torch.full((len(image),), image.shape[1])
        return Encoded.from_padded(image, sizes), Encoded.from_padded(text, lengths)
    images, captions = Images(ledger.input("images")), _captions(ledger)
    if "img_emb" in tensors:
        near(ledger, "img_emb", method.image(images)[0], tensors["img_emb"])
    if "cap_emb" in tensors:
        near(ledger, "cap_emb", method.text(captions.tokens, captions.lengths), tensors["cap_emb"])
    return method.encode_images(images), method.encode_captions(captions)


def _patches_by_hand(method: Scta, images: Encoded, words: CaptionTokens) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Patch scores, kept patches and unit image tokens of every pair, and the smallest gap at a cut."""
    first, ratio = int(method.has_class_token), method.config.keep_ratio
    scores, masks, mixed = [], [], []
    for rows in images.vectors.split(images.lengths.tolist()):
        x = rows[first:]
        kept = kept_count(len(x), ratio)
        s = patch_scores(x, words.means)  # (C, P)
        shares = image_shares(method.patch_condenser(x), s, kept)  # (C, A + 1, P)
        tokens = torch.cat([rows[None, :first].expand(len(s), -1, -1), shares @ x], dim=1)
        scores.append(s)
        masks.append(keep_highest(s, kept))
        mixed.append(normalize(tokens, dim=2))
    every = torch.stack(scores)  # (B, C, P)
    ordered = every.sort(dim=2, descending=True).values
    kept = int(masks[0][0].sum())
    gap = (ordered[..., kept - 1] - ordered[..., kept]).min() if kept < every.shape[2] else torch.tensor(torch.inf)
    return every, torch.stack(masks), torch.stack(mixed), gap


def _compare_masks(ledger: Ledger, name: str, scores: Tensor, found: Tensor, expected: Tensor) -> None:
    """Compare kept patches, (B, C, P); where a patch ties with the last one kept, either may be kept."""
    last = scores.masked_fill(~found, torch.inf).amin(2, keepdim=True)
    is_tied = (scores - last).abs() <= CUT
    is_tied &= is_tied.sum(2, keepdim=True) > 1
    kept = found.to(expected)
    ledger.exact(name, kept.masked_fill(is_tied, 1.0), expected.masked_fill(is_tied, 1.0))
    ledger.exact(name, kept.sum(2), expected.sum(2), note="number of kept patches")


def _compare_run(ledger: Ledger, method: Scta, state: dict[str, Tensor], k: int) -> None:
    """One training step: drawn layers, scores, kept patches, loss, gradients, and which weights get none."""
    case, run, name = ledger.case, ledger.case.fields["runs"][k], f"run{k}."
    tensors = case.tensors
    ledger.use(*(f"runs.{k}.{key}" for key in ("run", "warmup_alpha", "max_violation", "rng_seed")))
    alpha = Fraction(run["warmup_alpha"]).limit_denominator(10**6)
    loss = method.loss.model_copy(update={"warmup_epochs": 0 if run["max_violation"] else 1})
    ids = ledger.whole("img_ids")
    step = Step(epoch=0, iteration=alpha.numerator, iterations=alpha.denominator, image_rows=ids)
    parameters = dict(method.named_parameters())
    for form, pairs in FORMS.items():
        method.train()
        method.zero_grad()
        images, captions = (
            method.encode_images(Images(ledger.input("images"))),
            method.encode_captions(_captions(ledger)),
        )
        heads = _stored_heads(ledger, name, method, captions.lengths, int(run["rng_seed"]))
        words, _ = method.caption_tokens(captions, heads)
        scores = pairs(method, images, words)
        near(ledger, f"{name}sims", scores, tensors[f"{name}sims"], note=f"{form} form")
        if f"{name}mask" in tensors:
            s, kept, _, _ = _patches_by_hand(method, images, words)
            # the authors' layout is (captions, images, patches)
            _compare_masks(ledger, f"{name}mask", s, kept, tensors[f"{name}mask"].transpose(0, 1))
        align = ranking_loss(loss.model_copy(update={"ramp_epoch": None}), scores, step)
        method.loss = loss
        total = method.losses(scores, images, captions, step)["total"]
        for what, found in (("align_loss", align), ("loss", total)):
            expected = tensors[f"{name}{what}"]
            ledger.close(f"{name}{what}", found, expected, atol=1e-6, rtol=1e-5, note=f"{form} form")
        ledger.close(f"runs.{k}.loss", total, torch.tensor(run["loss"]), atol=1e-6, rtol=1e-5)
        total.backward()
        for key, expected in case.state(f"{name}grad.").items():
            ours = scta.our_key(key)
            gradient = None if ours is None else parameters[ours].grad
            found = torch.zeros_like(expected) if gradient is None else gradient
            near_gradient(ledger, f"{name}grad.{key}", found, expected)
        slopes = [p.grad.norm() for p in parameters.values() if p.grad is not None]
        norm = torch.stack(slopes).norm() if slopes else torch.tensor(torch.nan)
        ledger.close(f"{name}grad_norm", norm, tensors[f"{name}grad_norm"], atol=1e-7, rtol=1e-4, note=f"{form} form")
        _compare_gradient_free(ledger, parameters, state, k)
    torch.manual_seed(int(run["rng_seed"]))
    near(ledger, f"{name}sims", method.score(images, captions), tensors[f"{name}sims"], note="layers drawn by us")


def _compare_gradient_free(ledger: Ledger, parameters: dict[str, Any], state: dict[str, Tensor], k: int) -> None:
    """The authors' weights that get no gradient are those we do not have, but for the bias that the softmax cancels."""
    free = []
    for key, value in state.items():
        ours = scta.our_key(key)
        is_weight = value.is_floating_point() and not key.endswith(CANCELLED)
        if is_weight and (ours is None or parameters[ours].grad is None):
            free.append(key)
    expected = ledger.case.fields["runs"][k]["params_without_grad"]
    ledger.exact(f"runs.{k}.params_without_grad", sorted(free), sorted(expected))
    ledger.use(*(STATE + key for key in expected))


def _compare_shards(ledger: Ledger, method: Scta, images: Encoded, captions: Encoded) -> None:
    """Scores in square shards, images outside, captions inside, with layers drawn anew in every shard; and recall."""
    fields, expected = ledger.case.fields, ledger.case.tensors["sims"]
    size = int(fields["shard_size"] if "shard_size" in fields else fields["opt"]["shard_size"])
    ledger.use("shard_size", "sim_seed")
    if len(images) != len(expected):  # every image once per caption
        images = images.select(torch.arange(0, len(images), len(images) // len(expected)))
    torch.manual_seed(int(fields["sim_seed"]))
    published = _as_published(method)
    scores = torch.empty(len(images), len(captions))
    for i in range(0, len(images), size):
        for c in range(0, len(captions), size):
            block = images.slice(i, i + size), captions.slice(c, c + size)
            scores[i : i + size, c : c + size] = published.score(*block)
    near(ledger, "sims", scores, expected, note=f"shards of {size}")
    owner = torch.arange(len(captions)) // (len(captions) // len(images))
    table = recall_report(rank_scores(scores.numpy(), owner.numpy())).pessimistic
    for place, prefix in ((fields, ""), (fields.get("recall", {}), "recall."), (fields.get("metrics", {}), "metrics.")):
        for direction, found in (("i2t", table.i2t.numbers), ("t2i", table.t2i.numbers)):
            if direction in place:
                wanted = place[direction]
                ledger.close(f"{prefix}{direction}", list(found)[: len(wanted)], wanted, atol=1e-4, rtol=0.0)
        if "rsum" in place:
            ledger.close(f"{prefix}rsum", table.rsum, place["rsum"], atol=1e-4, rtol=0.0)
