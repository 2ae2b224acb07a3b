"""Attention, by the implementation that is fastest for the shape, type and device.

On CPUs the backward pass of `scaled_dot_product_attention` is slow in bfloat16, above all for narrow heads. There
training takes plain attention, a few heads at a time, so that the weights of one block stay in a core's cache.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

# Attention weights of one block: half of a server core's level 2 cache, beside which there are the block's gradients.
BLOCK_BYTES = 1 << 21
# Of all weights of one layer, which are kept until the backward pass. sdpa keeps none, and trains where they are more.
MOST_BYTES = 1 << 28
# Operators are global. The Hub's loader imports this file once for each repository, under another name.
NAMESPACE = __name__.replace(".", "_")


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    weights = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def block_size(query: torch.Tensor, key: torch.Tensor) -> int:
    """Heads of (heads, N, D) and (heads, M, D) that make one block."""
    return max(1, BLOCK_BYTES // (query.shape[1] * key.shape[1] * query.element_size()))


@torch.library.custom_op(f"{NAMESPACE}::blocked_attention", mutates_args=())
def blocked_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """softmax(Q K^T) V of (heads, N, D), (heads, M, D), (heads, M, D) -> (heads, N, D) and the weights of each block.

    One operator, so that `torch.compile` does not unroll its loop.
    """
    output, weights = torch.empty_like(query), []
    parts = [part.split(block_size(query, key)) for part in (query, key.transpose(1, 2), value, output)]
    scores = query.new_empty(len(parts[0][0]), query.shape[1], key.shape[1])
    for queries, keys, values, outputs in zip(*parts):
        torch.bmm(queries, keys, out=scores[: len(queries)])
        weights.append(scores[: len(queries)].softmax(-1))
        torch.bmm(weights[-1], values, out=outputs)
    return output, weights


@blocked_attention.register_fake
def _(query, key, value):
    blocks = query.split(block_size(query, key))
    return torch.empty_like(query), [part.new_empty(*part.shape[:2], key.shape[1]) for part in blocks]


@torch.library.custom_op(f"{NAMESPACE}::blocked_attention_backward", mutates_args=())
def blocked_attention_backward(
    gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, weights: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of query, key and value."""
    inputs = (gradient, query, key, value)
    gradients = tuple(torch.empty_like(part) for part in inputs[1:])
    parts = [part.split(block_size(query, key)) for part in inputs + gradients]
    of_weights = torch.empty_like(weights[0])
    for block, outer, queries, keys, values, of_queries, of_keys, of_values in zip(weights, *parts):
        torch.bmm(block.transpose(1, 2), outer, out=of_values)
        torch.bmm(outer, values.transpose(1, 2), out=of_weights[: len(outer)])
        of_scores = torch._softmax_backward_data(of_weights[: len(outer)], block, -1, block.dtype)
        torch.bmm(of_scores, keys, out=of_queries)
        torch.bmm(of_scores.transpose(1, 2), queries, out=of_keys)
    return gradients


@blocked_attention_backward.register_fake
def _(gradient, query, key, value, weights):
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs, *output[1])


def _backward(ctx, gradient, _):
    query, key, value, *weights = ctx.saved_tensors
    return blocked_attention_backward(gradient.contiguous(), query, key, value, weights)


blocked_attention.register_autograd(_backward, setup_context=_save)


def blocked_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """As `eager_attention_forward`, without a mask and without returning weights."""
    heads = (part.contiguous().flatten(0, 1) for part in (query * scaling, key, value))
    output = blocked_attention(*heads)[0].unflatten(0, query.shape[:2])
    return output.transpose(1, 2).contiguous(), None


def prefers_blocks(query: torch.Tensor, key: torch.Tensor, attention_mask: torch.Tensor | None) -> bool:
    """Whether (B, H, N, D) and (B, H, M, D) train faster in blocks than by sdpa, at a bearable cost in memory."""
    head_bytes = query.shape[2] * key.shape[2] * query.element_size()
    return (
        query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and attention_mask is None
        and query.requires_grad
        and head_bytes <= BLOCK_BYTES
        and head_bytes * query.shape[0] * query.shape[1] <= MOST_BYTES
    )


def choose_attention(
    implementation: str, query: torch.Tensor, key: torch.Tensor, attention_mask: torch.Tensor | None
) -> Callable:
    """Function of `implementation`, a name known to transformers; for sdpa the blocked one where that is faster."""
    if implementation == "sdpa" and prefers_blocks(query, key, attention_mask):
        return blocked_attention_forward
    return ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
