"""Renaming an authors' state dict with every key accounted for: live, dead by name, or refused."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from patchword.errors import CheckpointError
from patchword.methods.base import Method, is_training_only


@dataclass(frozen=True)
class KeyRules:
    """How the authors' names become ours.

    Attributes:
        live: (regular expression, replacement) pairs; the first that matches the start of a key is applied.
        dead: regular expressions of keys that the authors' code stores but never uses.
    """

    live: Sequence[tuple[str, str]]
    dead: Sequence[str]

    def rename(self, key: str) -> str | None:
        """Our name of an authors' key; None for a dead key.

        Raises:
            CheckpointError: no rule knows the key.
        """
        if any(re.match(pattern, key) for pattern in self.dead):
            return None
        for pattern, replacement in self.live:
            if re.match(pattern, key):
                return re.sub(f"^{pattern}" if not pattern.startswith("^") else pattern, replacement, key, count=1)
        raise CheckpointError(
            f"key `{key}` is unknown: it is neither a live nor a known dead key of this method. "
            "Is this a checkpoint of another method?"
        )


@dataclass(frozen=True)
class Imported:
    """Outcome of an import.

    Attributes:
        method: the model with the authors' weights, in evaluation mode.
        used: authors' keys that were used.
        dead: authors' keys that their code never uses, left out.
    """

    method: nn.Module
    used: list[str]
    dead: list[str]


def translate(state: Mapping[str, Tensor], rules: KeyRules) -> tuple[dict[str, Tensor], list[str]]:
    """Our state dict, and the dead keys.

    Raises:
        CheckpointError: a key is unknown.
    """
    ours: dict[str, Tensor] = {}
    dead: list[str] = []
    for key, value in state.items():
        name = rules.rename(key)
        if name is None:
            dead.append(key)
        else:
            ours[name] = value
    return ours, dead


def load_all(
    method: Method, ours: Mapping[str, Tensor], state: Iterable[str], dead: Collection[str], *, source: str
) -> Imported:
    """Load a complete state dict: every live tensor demanded, none left over, shapes equal.

    What only training needs is in no checkpoint and keeps its starting values.

    Args:
        method: gets the weights, and is set to evaluation.
        ours: the weights under our names.
        state: all of the authors' keys.
        dead: those that their code never uses.
        source: what they were read from, for messages.

    Raises:
        CheckpointError: naming the first offenders.
    """
    wanted = {k: v for k, v in method.state_dict().items() if not is_training_only(method, k)}
    missing, extra = [k for k in wanted if k not in ours], [k for k in ours if k not in wanted]
    if missing or extra:
        raise CheckpointError(
            f"{source}: {len(missing)} live keys are missing{_some(missing)} and {len(extra)} do not belong to this "
            f"model{_some(extra)}."
        )
    for key, value in wanted.items():
        if ours[key].shape != value.shape:
            raise CheckpointError(
                f"{source}: `{key}` has shape {tuple(ours[key].shape)}, the model expects {tuple(value.shape)}."
            )
    method.load_state_dict(dict(ours), strict=False)  # queues and key encoders are in no authors' checkpoint
    return Imported(method.eval(), [key for key in state if key not in dead], list(dead))


def _some(names: Iterable[str]) -> str:
    first = list(names)[:3]
    return f" ({', '.join(first)} ...)" if first else ""


def without_prefix(state: Mapping[str, Tensor], prefix: str = "module.") -> dict[str, Tensor]:
    """Remove the prefix that a data-parallel wrapper leaves on every key."""
    return {k.removeprefix(prefix): v for k, v in state.items()}
