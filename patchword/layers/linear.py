"""Linear layers with the starting weights that the authors of most systems use."""

from __future__ import annotations

from torch import nn


def xavier(layer: nn.Linear) -> nn.Linear:
    """Start a layer with Xavier-uniform weights and no bias."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
