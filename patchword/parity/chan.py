"""Golden cases of CHAN: all codings and poolings, with the authors' padding sentinel and without it."""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor

from patchword.importers import chan
from patchword.importers.chan import CODINGS, POOLINGS
from patchword.importers.keys import Imported
from patchword.layers.normalise import unit
from patchword.methods.base import Method
from patchword.methods.chan import Chan, ChanConfig, code_pairs, pool_codes
from patchword.parity.cases import Case, Ledger
from patchword.parity.towers import Runner, compare_case, near, read_captions, read_images
from patchword.types import Captions, Images


def compare(case: Case) -> Ledger:
    """Compare a model case in full."""
    return compare_case(case, Runner(_import_reference, chan.our_key, _forward, _slots))


def _import_reference(state: dict[str, Tensor], options: dict[str, object]) -> Imported:
    """Import with the authors' padding sentinel, under which their training losses were measured."""
    imported = chan.import_state(state, options)
    assert isinstance(imported.method, Chan)
    imported.method.config = imported.method.config.model_copy(update={"score_padding": "reference"})
    return imported


def _with_config(method: Chan, config: ChanConfig) -> Chan:
    """The same weights under another configuration."""
    other = copy(method)
    other.config = config
    return other


def _slots(method: Method, images: Images, captions: Captions) -> tuple[Tensor, Tensor]:
    """Region and word vectors of every slot; the padded ones hold what the towers make of padding."""
    assert isinstance(method, Chan)
    patches, _ = method.image(images)
    words = method.text(captions.tokens, captions.lengths)
    return (
        unit(patches) if method.config.unit_patches else patches,
        unit(words) if method.config.unit_words else words,
    )


def _forward(ledger: Ledger, method: Method) -> None:
    assert isinstance(method, Chan)
    tensors = ledger.case.tensors
    images, captions = read_images(ledger), read_captions(ledger)
    near(ledger, "img_fc", method.image.fc(images.values), tensors["img_fc"])
    patches, words = method.encode_images(images), method.encode_captions(captions)
    for name, found in zip(("img_emb", "cap_emb"), _slots(method, images, captions), strict=True):
        near(ledger, name, found, tensors[name])
    selected, expected = method.score(patches, words), tensors["sims/selected"]
    if method.config.pooling == "softmax":  # measured pair by pair without padding, because the padded form is NaN
        masked = method.config.model_copy(update={"score_padding": "masked"})
        clean = Chan.score(_with_config(method, masked), patches, words)
        selected = torch.where(expected.isnan(), selected, clean)
    near(ledger, "sims/selected", selected, expected)
    unit = method.config.unit_patches and method.config.unit_words
    for authors_coding, coding in CODINGS.items():
        if f"coding/{authors_coding}" not in tensors:
            continue
        (v, v_mask), (w, w_mask) = patches.padded(), words.padded()
        alpha, belta = method.config.coding_temperature, method.config.pooling_temperature
        reference, real = code_pairs(v, v_mask, w, w_mask, coding, alpha, "reference")  # type: ignore[arg-type]
        clean, _ = code_pairs(v, v_mask, w, w_mask, coding, alpha)  # type: ignore[arg-type]
        expected = tensors[f"coding/{authors_coding}"]
        near(ledger, f"coding/{authors_coding}", torch.where(real, reference, -1.0), expected)
        for authors_pooling, pooling in POOLINGS.items():
            name = f"{authors_coding}/{authors_pooling}"
            if f"sims/{name}" not in tensors:
                continue
            found = pool_codes(reference, real, pooling, belta, "reference")  # type: ignore[arg-type]
            pure = pool_codes(clean, real, pooling, belta)  # type: ignore[arg-type]
            if pooling == "softmax":  # measured pair by pair without padding, because the padded form is NaN
                near(ledger, f"sims/{name}", pure, tensors[f"sims/{name}"])
            else:
                near(ledger, f"sims/{name}", found, tensors[f"sims/{name}"], note="with the padding sentinel")
                if unit:
                    near(ledger, f"sims/{name}", pure, tensors[f"sims/{name}"], note="without the padding sentinel")
            if f"sims_raw/{name}" in tensors:
                near(ledger, f"sims_raw/{name}", found, tensors[f"sims_raw/{name}"], note="NaN where a slot is padded")
