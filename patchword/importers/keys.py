"""Renaming an authors' state dict with every key accounted for: live, dead by name, or refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from patchword.errors import CheckpointError
from patchword.methods.base import Method, is_training_only

Origins = Callable[[str], Sequence[str]]


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

    def origins(self, name: str) -> list[str]:
        """The authors' keys that become ``name``; none when no rule gives such a name.

        Example:
            >>> rules = KeyRules([(r"net\\.(?:img_)?layers\\.(\\d+)\\.w$", r"layers.\\1.weight")], [])
            >>> rules.origins("layers.3.weight"), rules.origins("bias")
            (['net.img_layers.3.w', 'net.layers.3.w'], [])
        """
        keys = [key for pattern, replacement in self.live for key in _undone(pattern, replacement, name)]
        keys = list(dict.fromkeys(keys))
        is_dead = [any(re.match(pattern, key) for pattern in self.dead) for key in keys]
        return [key for key, dead in zip(keys, is_dead, strict=True) if not dead and self.rename(key) == name]


_GROUP = re.compile(r"\((?P<kind>\?[:=])?(?P<inner>[^()]*)\)(?P<is_optional>\??)")


def _undone(pattern: str, replacement: str, name: str) -> Iterator[str]:
    """What a rule may have made ``name`` of: with the optional groups of its pattern, and without them."""
    inner = [m["inner"] for m in _GROUP.finditer(pattern) if m["kind"] is None]
    parts = re.split(r"\\(\d)", replacement)  # literal text and numbers of groups in turn
    made = "".join(f"({inner[int(part) - 1]})" if k % 2 else re.escape(part) for k, part in enumerate(parts))
    found = re.match(made + ("$" if pattern.endswith("$") else ""), name)
    if found is None:
        return
    texts = dict(zip(map(int, parts[1::2]), found.groups(), strict=True))
    for keeps in (True, False):
        key, last, number = "", 0, 0
        for group in _GROUP.finditer(pattern):
            number += group["kind"] is None
            key += pattern[last : group.start()]
            last = group.end()
            if group["kind"] is None and number in texts:
                key += texts[number]
            elif group["kind"] != "?=" and (keeps or not group["is_optional"]):
                key += group["inner"]
        key += pattern[last:].removesuffix("$")
        yield key.replace("\\.", ".") + name[found.end() :]


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
    method: Method,
    ours: Mapping[str, Tensor],
    state: Iterable[str],
    dead: Collection[str],
    *,
    source: str,
    origins: Origins | None = None,
) -> Imported:
    """Load a complete state dict: every live tensor demanded, none left over, shapes equal, all weights finite.

    What only training needs is in no checkpoint and keeps its starting values.

    Args:
        method: gets the weights, and is set to evaluation.
        ours: the weights under our names.
        state: all of the authors' keys.
        dead: those that their code never uses.
        source: what they were read from, for messages.
        origins: the authors' keys of a name of ours, for messages.

    Raises:
        CheckpointError: naming the first offenders.
    """
    wanted = {k: v for k, v in method.state_dict().items() if not is_training_only(method, k)}
    missing, extra = [k for k in wanted if k not in ours], [k for k in ours if k not in wanted]
    if missing or extra:
        raise CheckpointError(
            f"{source}: {len(missing)} live keys are missing{_some(missing, state, origins)} and {len(extra)} do not "
            f"belong to this model{_some(extra, state, origins)}."
        )
    for key, value in wanted.items():
        fault = _fault(ours[key], value)
        if fault:
            raise CheckpointError(f"{source}: `{key}` {fault}{_in_file(key, state, origins)}.")
    method.load_state_dict(dict(ours), strict=False)  # queues and key encoders are in no authors' checkpoint
    return Imported(method.eval(), [key for key in state if key not in dead], list(dead))


def _fault(found: Tensor, wanted: Tensor) -> str:
    """What keeps a tensor of a file from being a weight of ours; empty when nothing does."""
    if found.shape != wanted.shape:
        return f"has shape {tuple(found.shape)}, the model expects {tuple(wanted.shape)}"
    if found.layout != torch.strided or found.is_meta or found.is_quantized:
        return "holds no plain numbers (it is sparse, quantised, or empty), the model expects them"
    if not wanted.is_floating_point():  # counters
        return ""
    if not found.is_floating_point():
        return f"holds {str(found.dtype).removeprefix('torch.')}, the model expects floating-point numbers"
    wrong = found.numel() - int(torch.isfinite(found.to(wanted.dtype)).sum())
    if wrong:
        return f"holds {wrong:,} of {found.numel():,} numbers that are NaN or infinite, the model expects finite ones"
    return ""


def _in_file(name: str, state: Iterable[str], origins: Origins | None) -> str:
    """The authors' key of our name, as a remark; of several the one that is most like the keys of the file."""
    keys = origins(name) if origins is not None else []
    if not keys or name in keys:
        return ""
    there = list(state)

    def shared(key: str) -> int:
        """Letters at the start of a key that it shares with another."""
        return max(n for n in range(len(key) + 1) if n == 0 or any(other.startswith(key[:n]) for other in there))

    return f", in the file `{max(keys, key=shared)}`"


def _some(names: Sequence[str], state: Iterable[str], origins: Origins | None) -> str:
    first = [name + _in_file(name, state, origins) for name in names[:3]]
    return f" ({'; '.join(first) if origins else ', '.join(first)} ...)" if first else ""


def without_prefix(state: Mapping[str, Tensor], prefix: str = "module.") -> dict[str, Tensor]:
    """Remove the prefix that a data-parallel wrapper leaves on every key."""
    return {k.removeprefix(prefix): v for k, v in state.items()}
