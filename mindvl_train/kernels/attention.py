"""Attention inside each segment of a packed stream, and never across two."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mindvl_train.kernels.registry import KernelSpec
from mindvl_train.kernels.segments import Segments


def reference(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, *, causal: bool, scale: float | None = None
) -> Tensor:
    """One scaled-dot-product call a segment: five times faster on a CPU than one call with a block mask.

    Args:
        query: [T, heads, D].
        key: [T, kv_heads, D]; heads is a multiple of kv_heads.
        value: [T, kv_heads, V].
        segments: the boundaries; their lengths add up to T.
        causal: a token sees itself and what precedes it in its segment, else its whole segment.
        scale: of the products of queries and keys; None: 1 / √D.

    Returns:
        [T, heads, V].
    """
    grouped = query.shape[1] != key.shape[1]
    queries, keys, values = (_split(stream, segments) for stream in (query, key, value))
    attended = [
        F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=grouped)
        for q, k, v in zip(queries, keys, values, strict=True)
    ]
    return torch.cat(attended, dim=2).squeeze(0).transpose(0, 1)


def _split(stream: Tensor, segments: Segments) -> tuple[Tensor, ...]:
    """[T, heads, D] → for every segment [1, heads, length, D], without a copy."""
    return torch.split(stream.transpose(0, 1).unsqueeze(0), segments.lengths, dim=2)


REFERENCE = KernelSpec(devices=frozenset(), load=lambda: reference)
