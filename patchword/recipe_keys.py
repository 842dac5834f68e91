"""What was meant by an unknown key of a recipe: a name of the authors' code, another section, another method's setting.

The keys of all sections and methods are known here, so a hint names the full dotted key, ready to be written down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from patchword.config import DataConfig, TrainConfig
from patchword.config_keys import models_in
from patchword.methods import METHODS, method_class

Keys = dict[str, tuple[str, ...]]  # dotted key -> the kinds of tower that have it; none: all have it

# Options of the authors' code -> what they are here; the first one that the method has is meant.
AUTHORS: dict[str, tuple[str, ...]] = {
    "aggr_ratio": ("model.patch_ratio",),
    "alpha": ("model.coding_temperature",),
    "backbone_lr_factor": ("train.lr_factors",),
    "backbone_path": ("model.image.weights", "model.image.pretrained"),
    "backbone_warmup_epochs": ("train.freeze_backbone",),
    "base_loss": ("loss.base",),
    "belta": ("model.pooling_temperature",),
    "bert_path": ("model.text.pretrained",),
    "bi_gru": ("model.text.kind",),
    "coding_type": ("model.coding",),
    "criterion": ("loss.kind",),
    "cross_loss": ("loss.cross",),
    "data_name": ("data.name",),
    "data_path": ("data.root",),
    "decay_rate": ("train.lr_gamma",),
    "embed_size": ("model.joint_dim",),
    "embedding_warmup_epochs": ("train.freeze_backbone",),
    "epsilon": ("loss.sinkhorn_epsilon",),
    "freeze_prototypes_niters": ("loss.swav_from_step",),
    "gcn_dropout": ("model.convolution_dropout",),
    "gnn_loss": ("loss.graph",),
    "grad_clip": ("train.clip_norm",),
    "img_dim": ("model.image.width",),
    "init_smooth": ("model.sharpness",),
    "learning_rate": ("train.lr",),
    "lr_schedules": ("train.lr_steps",),
    "lr_update": ("train.lr_steps",),
    "mask_repeat": ("loss.same_image",),
    "max_violation": ("loss.negatives_after", "loss.warmup_epochs"),
    "moco_M": ("model.queue",),
    "moco_r": ("model.momentum",),
    "module_name": ("model.head",),
    "nhead": ("model.heads",),
    "nmb_prototypes": ("model.prototypes",),
    "no_imgnorm": ("model.unit_patches", "model.unit_regions", "model.unit_images"),
    "no_txtnorm": ("model.unit_words", "model.unit_captions"),
    "norm_input": ("model.graph_input",),
    "num_epochs": ("train.epochs",),
    "num_layers": ("model.text.layers",),
    "num_layers_enc": ("model.graph_layers",),
    "num_partial": ("model.neighbours",),
    "pooling_type": ("model.pooling",),
    "precomp_enc_type": ("model.image.kind",),
    "reg_loss_weight": ("loss.regulariser",),
    "sgr_step": ("model.graph_steps",),
    "sinkhorn_iterations": ("loss.sinkhorn_rounds",),
    "size_augment": ("data.region_drop",),
    "sparse_ratio": ("model.keep_ratio",),
    "text_enc_type": ("model.text.kind",),
    "topk": ("model.top_k",),
    "vocab_path": ("data.vocabulary",),
    "vse_mean_warmup_epochs": ("loss.warmup_epochs",),
    "warmup": ("loss.graph_from_step", "train.warmup_steps"),
}


def keys_of(method: str) -> Keys:
    """Every dotted key that a recipe of a method may have.

    Example:
        >>> keys_of("chan")["model.text.word_dim"], keys_of("chan")["train.lr"]
        (('bigru',), ())
    """
    cls: Any = method_class(method)
    sections = {"data": DataConfig, "model": cls.Config, "loss": cls.Loss, "train": TrainConfig}
    found: Keys = {}
    for section, config in sections.items():
        found |= _below(config, section)
    return found


def _below(config: type[BaseModel], at: str) -> Keys:
    """The keys of a configuration and of those inside it."""
    found: Keys = {}
    for name, info in config.model_fields.items():
        found[f"{at}.{name}"] = ()
        inner = models_in(info.annotation)
        each = [(_kinds(one), _below(one, f"{at}.{name}")) for one in inner]
        for kinds, keys in each:
            for key, deeper in keys.items():
                everywhere = all(key in others for _, others in each)
                found[key] = deeper if everywhere else tuple(dict.fromkeys((*found.get(key, ()), *kinds)))
    return found


def _kinds(config: type[BaseModel]) -> tuple[str, ...]:
    """What ``kind`` may be in this configuration."""
    kind = config.model_fields.get("kind")
    return get_args(kind.annotation) if kind is not None and get_origin(kind.annotation) is Literal else ()


def hint_for(method: str, keys: Sequence[str | int], known: Sequence[str]) -> str:
    """A sentence about an unknown key, with a blank before it: what was probably meant, or what is known there.

    Args:
        method: of the recipe; one that does not exist stands for all.
        keys: the unknown key and those around it, outermost first.
        known: the keys that exist beside it.

    Example:
        >>> hint_for("chan", ["train", "learning_rate"], ["lr"])
        " Did you mean `train.lr` (called learning_rate in the authors' code)?"
        >>> hint_for("vse_inf", ["model", "coding"], ["pooling"])
        ' `model.coding` is a setting of chan, not of vse_inf.'
    """
    asked, leaf, parent = ".".join(map(str, keys)), str(keys[-1]), ".".join(map(str, keys[:-1]))
    all_keys = {name: keys_of(name) for name in METHODS}
    own = all_keys.get(method) or {key: kinds for one in all_keys.values() for key, kinds in one.items()}
    if asked in own:
        return f" It is a setting of `{parent}.kind: {' or '.join(own[asked])}`."
    return (
        _of_authors(leaf, own)
        or _elsewhere(leaf, own)
        or _of_another_method(method, asked, all_keys)
        or _nearest(leaf, parent, known, own, all_keys)
        or (f" Known: {', '.join(known)}." if known else "")
    )


def _of_authors(leaf: str, own: Keys) -> str:
    """The method's key for an option of the authors' code."""
    meant = next((key for key in AUTHORS.get(leaf, ()) if key in own), None)
    return f" Did you mean {_shown(meant, own)} (called {leaf} in the authors' code)?" if meant else ""


def _elsewhere(leaf: str, own: Keys) -> str:
    """The keys of this very name at another place of the recipe."""
    same = [_shown(key, own) for key in own if key.rpartition(".")[2] == leaf]
    return f" Did you mean {' or '.join(same)}?" if same else ""


def _of_another_method(method: str, asked: str, all_keys: dict[str, Keys]) -> str:
    """Which methods have the key, where this one has not."""
    leaf = asked.rpartition(".")[2]
    for key in (asked, *AUTHORS.get(leaf, ()), *_others_called(leaf, all_keys)):
        has = [name for name, keys in all_keys.items() if key in keys]
        if has and method not in has:
            called = f" (called {leaf} in the authors' code)" if leaf in AUTHORS else ""
            return f" `{key}`{called} is a setting of {', '.join(has)}, not of {method}."
    return ""


def _others_called(leaf: str, all_keys: dict[str, Keys]) -> Iterator[str]:
    return (key for keys in all_keys.values() for key in keys if key.rpartition(".")[2] == leaf)


def _nearest(leaf: str, parent: str, known: Sequence[str], own: Keys, all_keys: dict[str, Keys]) -> str:
    """The key that is spelled most alike: beside it, elsewhere in the recipe, in the authors' code, in other methods.

    What lies farther must be more alike.
    """
    best, found = 0.0, ""
    for one in known:
        if (alike := _alike(leaf, one)) >= 0.6 and alike > best:
            best, found = alike, f" Did you mean `{parent}.{one}`?" if parent else f" Did you mean `{one}`?"
    for key in own:
        if (alike := _alike(leaf, key.rpartition(".")[2])) >= 0.75 and alike > best:
            best, found = alike, f" Did you mean {_shown(key, own)}?"
    for name in AUTHORS:
        if (alike := _alike(leaf, name)) >= 0.8 and alike > best and (meant := _of_authors(name, own)):
            best, found = alike, meant
    for method, keys in all_keys.items():
        for key in keys:
            if not found and _alike(leaf, key.rpartition(".")[2]) >= 0.85:
                found = f" Did you mean `{key}`? It is a setting of {method}."
    return found


def _alike(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()


def _shown(key: str, keys: Keys) -> str:
    """A key in backquotes, with the kinds of tower that have it when not all do."""
    of = f" of `{key.rpartition('.')[0]}.kind: {' or '.join(keys[key])}`" if keys[key] else ""
    return f"`{key}`{of}"
