"""How is attention computed so that it has a second derivative, for one task and for many?"""

# ruff: noqa: ARG001  signatures are torch's

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from bilevel.batched.tensors import Unsupported, rule


@rule("scaled_dot_product_attention")
def dot_product(
    func: Callable[..., Any],
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """softmax(q k' / sqrt(d)) v in plain products: torch's own kernels have no second derivative on a CPU."""
    if enable_gqa:
        raise Unsupported("'scaled_dot_product_attention' with enable_gqa")
    scores = torch.matmul(query, key.transpose(-2, -1)) * (scale or 1 / math.sqrt(query.shape[-1]))
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        boolean = attn_mask.dtype == torch.bool
        scores = torch.where(attn_mask, scores, float("-inf")) if boolean else scores + attn_mask
    return torch.matmul(F.dropout(torch.softmax(scores, -1), dropout_p, dropout_p > 0), value)


@rule("multi_head_attention_forward")
def attend(
    func: Callable[..., Any],
    query: Any,
    key: Any,
    value: Any,
    embed_dim: int,
    num_heads: int,
    in_proj_weight: Any,
    in_proj_bias: Any,
    bias_k: Any,
    bias_v: Any,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Any,
    out_proj_bias: Any,
    training: bool = True,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Any = None,
    k_proj_weight: Any = None,
    v_proj_weight: Any = None,
    static_k: Any = None,
    static_v: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Any, Any]:
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2) over [length, samples, embed_dim]."""
    if (
        query.dim() != 3
        or any(v is not None and v is not False for v in (bias_k, bias_v, static_k, static_v))
        or add_zero_attn
    ):
        raise Unsupported(
            "'multi_head_attention_forward' with bias_kv, zero attention, static keys or one sample alone"
        )
    parts = in_proj_weight.chunk(3) if not use_separate_proj_weight else (q_proj_weight, k_proj_weight, v_proj_weight)
    biases = (None, None, None) if in_proj_bias is None else in_proj_bias.chunk(3)
    q, k, v = (
        F.linear(x, w, b).view(*x.shape[:2], num_heads, -1).permute(1, 2, 0, 3)  # [samples, heads, length, head_dim]
        for x, w, b in zip((query, key, value), parts, biases, strict=True)
    )
    mask = None
    for given in (attn_mask, None if key_padding_mask is None else key_padding_mask[:, None, None, :]):
        if given is None:
            continue
        if given is attn_mask and given.dim() == 3:
            given = given.view(-1, num_heads, *given.shape[1:])
        if given.dtype == torch.bool:  # True: not to be looked at
            given = torch.zeros(given.shape, dtype=query.dtype, device=query.device).masked_fill(given, float("-inf"))
        mask = given if mask is None else mask + given
    scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores + mask
    attention = torch.softmax(scores, -1)
    if training and dropout_p > 0:
        attention = F.dropout(attention, dropout_p)
    joined = torch.matmul(attention, v).permute(2, 0, 1, 3).flatten(2)
    out = F.linear(joined, out_proj_weight, out_proj_bias)
    if not need_weights:
        return out, None
    return out, attention.mean(1) if average_attn_weights else attention
