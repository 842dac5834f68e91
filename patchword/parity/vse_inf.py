"""Golden cases of VSE-infinity."""

from __future__ import annotations

import torch

from patchword.importers import vse_inf
from patchword.layers.gpo import positional_encoding
from patchword.methods.base import Method
from patchword.methods.vse_inf import VseInfinity, pool
from patchword.parity.cases import Case, Ledger
from patchword.parity.towers import Runner, compare_case, near, read_captions, read_images


def compare(case: Case) -> Ledger:
    """Compare a model case in full."""
    return compare_case(case, Runner(vse_inf.import_state, vse_inf.our_key, _forward))


def _forward(ledger: Ledger, method: Method) -> None:
    assert isinstance(method, VseInfinity)
    tensors = ledger.case.tensors
    images, captions = read_images(ledger), read_captions(ledger)
    patches, n_patches = method.image.patches(images)
    features, _ = method.image.features(images)
    if "grid_features" in tensors:
        near(ledger, "grid_features", patches, tensors["grid_features"])
    if "img_fc" in tensors:
        near(ledger, "img_fc", method.image.fc(patches), tensors["img_fc"])
    if "img_mlp" in tensors and method.image.mlp is not None:
        every = torch.ones(patches.shape[:2], dtype=torch.bool)
        near(ledger, "img_mlp", method.image.mlp(patches, every), tensors["img_mlp"])
    near(ledger, "img_feat_before_pool", features, tensors["img_feat_before_pool"])
    words = method.text(captions.tokens, captions.lengths)
    near(ledger, "cap_feat_before_pool", words, tensors["cap_feat_before_pool"])
    assert method.image.pool is not None
    assert method.text_pool is not None
    for side, gpo, block, lengths in (
        ("img", method.image.pool, features, n_patches),
        ("cap", method.text_pool, words, captions.lengths),
    ):
        near(
            ledger,
            f"{side}_pool_weights",
            gpo.weights(lengths, block.shape[1])[..., None],
            tensors[f"{side}_pool_weights"],
        )
        near(ledger, f"{side}_pooled", pool(gpo, block, lengths), tensors[f"{side}_pooled"])
    image_sets, caption_sets = method.encode_images(images), method.encode_captions(captions)
    near(ledger, "img_emb", image_sets.vectors, tensors["img_emb"])
    near(ledger, "cap_emb", caption_sets.vectors, tensors["cap_emb"])
    near(ledger, "sims", method.score(image_sets, caption_sets), tensors["sims"])
    for name in [n for n in tensors if n.startswith("gpo_pe_len")]:
        count, width = tensors[name].shape
        near(ledger, name, positional_encoding(count, width, tensors[name]), tensors[name])
