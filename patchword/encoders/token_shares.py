"""What each token adds to a pooled vector of CLIP or SigLIP: linear shares that add up to it.

A pooled vector is read off one row of a transformer, whose residual stream is a sum: what attention brought from every
token in every layer, and the rest (the row's own start, its feed-forward parts, biases). With the attention weights and
the deviation of the last layer norm taken as they are, everything behind that sum is linear, so every token has a share
and the shares add up exactly. The rest belongs to no token. No gradient is taken.

Source of the decomposition: Gandelsman, Efros, Steinhardt, "Interpreting CLIP's Image Representation via Text-Based
Decomposition" (ICLR 2024), section 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from patchword.encoders.clip_towers import ImageTower, TextTower
from patchword.types import Captions, Images


def image_shares(tower: ImageTower, images: Images) -> Float[Tensor, "R1 D"]:
    """Shares of the first image's vector: what belongs to no patch, then every patch."""
    if tower.kind == "clip":
        model = tower.backbone
        with _inputs(model.encoder.layers, model.post_layernorm) as seen:
            model(pixel_values=images.values[:1])
        brought = _brought(model.encoder.layers, seen, 0)
        brought[0] += seen[model.post_layernorm][0] - brought.sum(0)
        return _projected(_through_norm(brought, model.post_layernorm, 0), tower.projection, 0)
    found, shapes = tower.run(images[0:1])
    head, count = tower.backbone.head, int(shapes[0].prod())
    tokens = found.last_hidden_state[0, :count]  # (R, hidden)
    attention: nn.MultiheadAttention = head.attention
    (q, k, v), (bq, bk, bv) = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    linear = torch.nn.functional.linear
    parts = (linear(head.probe[0, 0], q, bq), linear(tokens, k, bk), linear(tokens, v, bv))
    everywhere = torch.ones(count, dtype=torch.bool, device=tokens.device)
    brought = attended(*parts, attention.num_heads, everywhere, attention.out_proj.weight)
    rest = found.pooler_output[0] - brought.sum(0)
    return torch.cat([rest[None], brought])


def text_shares(tower: TextTower, captions: Captions) -> Float[Tensor, "L D"]:
    """Shares of the first caption's vector, one for each token; what belongs to no word goes to the end mark."""
    ids, mask, starts = tower.place(captions.tokens[:1], captions.lengths[:1])
    model, start, count = tower.backbone, int(starts[0]), int(captions.lengths[0])
    with _inputs(model.encoder.layers, model.final_layer_norm) as seen:
        pooled: Tensor = tower.projection(model(input_ids=ids, attention_mask=mask).pooler_output)[0]
    hidden = seen[model.final_layer_norm][0]  # (T, hidden)
    end = start + count - 1
    row = end if tower.kind == "clip" else len(hidden) - 1
    visible = torch.ones(len(hidden), dtype=torch.bool, device=hidden.device) if mask is None else mask[0].bool()
    if tower.kind == "clip":
        row = _pooled_row(hidden, model.final_layer_norm, tower.projection, pooled)
        visible = torch.arange(len(hidden), device=hidden.device) <= row
    brought = _brought(model.encoder.layers, seen, row, visible)
    brought[end] += hidden[row] - brought.sum(0)
    shares = _through_norm(brought, model.final_layer_norm, end)
    shares = _projected(shares, tower.projection if tower.kind == "clip" else model.head, end)
    own = shares[start : start + count].clone()
    own[-1] += shares.sum(0) - own.sum(0)  # what the filling around the caption brought
    return own


def _pooled_row(
    hidden: Float[Tensor, "T W"], norm: nn.Module, projection: nn.Module, pooled: Float[Tensor, " D"]
) -> int:
    """The row that transformers pooled, whatever rule the checkpoint's configuration gives."""
    return int((projection(norm(hidden)) - pooled).norm(dim=1).argmin())


@contextmanager
def _inputs(layers: nn.ModuleList, norm: nn.Module) -> Iterator[dict[nn.Module, Tensor]]:
    """The inputs of every layer's attention and of the last layer norm, noted while the model runs."""
    seen: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, given: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        seen[module] = given[0] if given else named["hidden_states"]

    watched = [*(layer.self_attn for layer in layers), norm]
    handles = [module.register_forward_pre_hook(note, with_kwargs=True) for module in watched]  # type: ignore[union-attr]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _brought(
    layers: nn.ModuleList, seen: dict[nn.Module, Tensor], row: int, visible: Bool[Tensor, " T"] | None = None
) -> Float[Tensor, "T W"]:
    """What attention brought into one row from every token, over all layers."""
    total: Tensor | None = None
    for layer in layers:
        attention: Any = layer.self_attn
        tokens = seen[attention][0]  # (T, W)
        allowed = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device) if visible is None else visible
        parts = (attention.q_proj(tokens[row]), attention.k_proj(tokens), attention.v_proj(tokens))
        found = attended(*parts, attention.num_heads, allowed, attention.out_proj.weight)
        total = found if total is None else total + found
    assert total is not None
    return total


def attended(
    query: Float[Tensor, " W"],
    keys: Float[Tensor, "T W"],
    values: Float[Tensor, "T W"],
    heads: int,
    visible: Bool[Tensor, " T"],
    output: Float[Tensor, "V W"],
) -> Float[Tensor, "T V"]:
    """What one query's attention brings from every token: sum over heads h of weight[h, t] * (output_h @ value[t]_h).

    The sum over tokens is the attention's output without its bias.
    """
    size = query.shape[0] // heads
    scores = torch.einsum("hd,thd->ht", query.view(heads, size), keys.view(len(keys), heads, size)) * size**-0.5
    weights = torch.softmax(scores.masked_fill(~visible, -torch.inf), dim=1)  # (H, T)
    mixed = torch.einsum("ht,thd->thd", weights, values.view(len(values), heads, size))
    return mixed.reshape(len(values), -1) @ output.T


def _through_norm(shares: Float[Tensor, "T W"], norm: nn.Module, own: int) -> Float[Tensor, "T W"]:
    """A layer norm of the sum of shares, as shares: its deviation is that of the sum, its bias goes to row ``own``."""
    known: Any = norm
    deviation = (shares.sum(0).var(unbiased=False) + known.eps).sqrt()
    found: Tensor = known.weight * (shares - shares.mean(1, keepdim=True)) / deviation
    found[own] += known.bias
    return found


def _projected(shares: Float[Tensor, "T W"], projection: nn.Module, own: int) -> Float[Tensor, "T D"]:
    """A linear layer of the sum of shares, as shares: its bias goes to row ``own``."""
    known: Any = projection
    found: Tensor = shares @ known.weight.T
    if known.bias is not None:
        found[own] += known.bias
    return found
