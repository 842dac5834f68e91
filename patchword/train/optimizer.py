"""AdamW with one learning rate per parameter group, and the step schedule of the published recipes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from patchword.config import TrainConfig
from patchword.errors import ConfigError
from patchword.methods.base import GROUPS, Method, group_of


def build_optimizer(method: Method, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over all parameters of a method, frozen ones included (they get no gradient, hence no update).

    A factor of a group that this method lacks (``text_backbone`` of a BiGRU) changes nothing, so that a recipe can go
    with either text tower.

    Raises:
        ConfigError: ``lr_factors`` names a group that no method has.
    """
    groups = method.parameter_groups()
    unknown = set(config.lr_factors) - set(GROUPS)
    if unknown:
        raise ConfigError(f"`train.lr_factors` names {sorted(unknown)[0]!r}. Groups: {', '.join(GROUPS)}.")
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": config.lr * config.lr_factors.get(name, 1.0), "name": name}
            for name, parameters in sorted(groups.items())
        ],
        lr=config.lr,
        weight_decay=config.weight_decay,
    )


def restore(optimizer: torch.optim.Optimizer, method: Method, state: Mapping[str, Any]) -> None:
    """Load a saved state into the optimiser of a method, also one of before there was the group ``matching``.

    Raises:
        ValueError: the state is of another model.
    """
    then, now = ([group.get("name") for group in groups] for groups in (state["param_groups"], optimizer.param_groups))
    if "matching" in now and "matching" not in then:
        state = _with_matching(optimizer, method, state)
    optimizer.load_state_dict(dict(state))


def _with_matching(optimizer: torch.optim.Optimizer, method: Method, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """A state whose groups are ``text*`` and all else, in the order of the method, in the groups of today."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = {id(parameter): k for k, parameter in enumerate(parameters)}
    groups: dict[str, list[int]] = {}
    for name, parameter in method.named_parameters():
        if id(parameter) in numbers:
            role = group_of(name if name.startswith("text") else f"image.{name}")
            groups.setdefault(role, []).append(numbers[id(parameter)])
    listed = [groups[role] for role in sorted(groups)]
    if [len(group["params"]) for group in state["param_groups"]] != [len(group) for group in listed]:
        return state  # of another model, which torch refuses
    moved = dict(enumerate(number for group in listed for number in group))
    moments = {moved[old]: moment for old, moment in state["state"].items()}
    return {"state": moments, "param_groups": optimizer.state_dict()["param_groups"]}


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
