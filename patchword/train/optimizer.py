"""AdamW with one learning rate per parameter group, and the step schedule of the published recipes."""

from __future__ import annotations

import torch
from torch import nn

from patchword.config import TrainConfig
from patchword.errors import ConfigError
from patchword.methods.base import Method


def build_optimizer(method: Method, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over all parameters of a method, frozen ones included (they get no gradient, hence no update).

    Raises:
        ConfigError: ``lr_factors`` names a group that the method does not have.
    """
    groups = method.parameter_groups()
    unknown = set(config.lr_factors) - {"text", "text_backbone", "image", "image_backbone"}
    if unknown:
        raise ConfigError(
            f"`train.lr_factors` names {sorted(unknown)[0]!r}. Groups: text, text_backbone, image, image_backbone."
        )
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": config.lr * config.lr_factors.get(name, 1.0), "name": name}
            for name, parameters in sorted(groups.items())
        ],
        lr=config.lr,
        weight_decay=config.weight_decay,
    )


def set_rates(optimizer: torch.optim.Optimizer, config: TrainConfig, epoch: int, step: int) -> float:
    """Set every group's rate for this point of training; returns the base rate.

    Rates are multiplied by ``lr_gamma`` at the start of every epoch in ``lr_steps``, and rise linearly over
    ``warmup_steps``. They are a function of (epoch, step) alone, so a resumed run needs no schedule state.
    """
    rate = config.lr * config.lr_gamma ** sum(epoch >= e for e in config.lr_steps)
    if step < config.warmup_steps:
        rate *= (step + 1) / config.warmup_steps
    for group in optimizer.param_groups:
        group["lr"] = rate * config.lr_factors.get(group["name"], 1.0)
    return rate


def clip_gradients(parameters: list[nn.Parameter], limit: float | None) -> float:
    """Cut the global L2 norm of all gradients to ``limit``; returns the norm before."""
    return float(torch.nn.utils.clip_grad_norm_(parameters, limit if limit is not None else float("inf")))
