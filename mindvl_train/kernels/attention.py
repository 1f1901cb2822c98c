"""Attention inside each segment of a packed stream, and never across two."""

from collections import Counter
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mindvl_train.kernels.registry import Attention, KernelSpec
from mindvl_train.kernels.segments import Segments

NPU_MASK_SIZE = 2048
NPU_FULL, NPU_RIGHT_DOWN_CAUSAL = 0, 3
# What one call of `npu_fusion_attention` takes in its packed layout.
NPU_SEGMENTS, NPU_TOKENS, NPU_HEADS, NPU_HEAD_SIZE = 1024, 1024 * 1024, 256, 768
# (left, right): how many keys before and after itself a query sees; -1: all.
CUDA_FULL, CUDA_CAUSAL = (-1, -1), (-1, 0)
# Boundaries kept on the device: those of the text, of the images and of the windows, of a few batches.
CUDA_KEPT = 16


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


def load_npu() -> Attention:
    """`npu_fusion_attention` in its packed layout (Ascend Extension for PyTorch, API reference).

    The causal mask is the compressed one: 2048 × 2048 for any length, 4 MiB instead of seq_len² bytes. A call takes
    1,024 segments; the windows of a vision tower alone may be more, and go through in several.
    """
    import torch_npu

    masks: dict[torch.device, Tensor] = {}

    def attend_some(
        query: Tensor, key: Tensor, value: Tensor, segments: Segments, *, causal: bool, scale: float
    ) -> Tensor:
        """One call; its segments are at most `NPU_SEGMENTS`."""
        # The ends of the segments, on the host and without the leading zero.
        ends = list(segments.cu_seqlens[1:])
        attended: Tensor = torch_npu.npu_fusion_attention(
            query,
            key,
            value,
            query.shape[1],
            "TND",
            # Without a mask the sparse mode is ignored and attention is full.
            atten_mask=masks[query.device] if causal else None,
            scale=scale,
            keep_prob=1.0,
            actual_seq_qlen=ends,
            actual_seq_kvlen=ends,
            sparse_mode=NPU_RIGHT_DOWN_CAUSAL if causal else NPU_FULL,
        )[0]
        return attended

    def attend(
        query: Tensor, key: Tensor, value: Tensor, segments: Segments, *, causal: bool, scale: float | None = None
    ) -> Tensor:
        groups = _npu_groups(query, segments)
        if causal and query.device not in masks:
            square = torch.ones(NPU_MASK_SIZE, NPU_MASK_SIZE, dtype=torch.bool, device=query.device)
            masks[query.device] = square.triu(1)
        head_dim, value_dim = query.shape[-1], value.shape[-1]
        scale = head_dim**-0.5 if scale is None else scale
        # Values have the queries' size: latent attention's are smaller.
        padded = F.pad(value, (0, head_dim - value_dim))
        tokens = [group.cu_seqlens[-1] for group in groups]
        queries, keys, values = (torch.split(stream, tokens) for stream in (query, key, padded))
        attended = [
            attend_some(*some, causal=causal, scale=scale) for some in zip(queries, keys, values, groups, strict=True)
        ]
        whole = attended[0] if len(attended) == 1 else torch.cat(attended)
        return whole[..., :value_dim]

    return attend


def _npu_groups(query: Tensor, segments: Segments) -> list[Segments]:
    """The segments of each call: no segment sees another, so that any number of calls gives the same.

    Raises:
        ValueError: the kernel takes no such heads or segments, in any number of calls.
    """
    _, heads, head_dim = query.shape
    lengths = segments.lengths
    groups = [Segments.of(lengths[at : at + NPU_SEGMENTS]) for at in range(0, len(lengths), NPU_SEGMENTS)]
    longest = max(group.cu_seqlens[-1] for group in groups)
    problems = {
        "a segment of one token crashes npu_fusion_attention": 1 in lengths,
        f"npu_fusion_attention takes at most {NPU_TOKENS:,} tokens a call, not {longest:,}": longest > NPU_TOKENS,
        f"npu_fusion_attention takes at most {NPU_HEADS} heads, not {heads}": heads > NPU_HEADS,
        f"npu_fusion_attention takes heads of at most {NPU_HEAD_SIZE}, not {head_dim}": head_dim > NPU_HEAD_SIZE,
    }
    for problem, found in problems.items():
        if found:
            raise ValueError(f"{problem}; set kernels.attention: reference")
    return groups


def without_values(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, *, causal: bool, scale: float | None = None
) -> Tensor:
    """On the meta device, where it does not matter which tokens a segment has: all of one length in one call.

    As much arithmetic as the reference, and as much kept for the backward pass as by every fused kernel: queries,
    keys, values, outputs and a sum a row, never the scores of all pairs.

    Args and returns are those of `reference`.
    """
    alike = Segments.of(length * count for length, count in sorted(Counter(segments.lengths).items()))
    batches = zip(*(_split(stream, alike) for stream in (query, key, value)), strict=True)
    attended = []
    for length, batch in zip(sorted(set(segments.lengths)), batches, strict=True):
        q, k, v = (stream.squeeze(0).unflatten(1, (-1, length)).transpose(0, 1) for stream in batch)
        out: Tensor = _Fused.apply(q, k, v)
        attended.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(attended)


class _Fused(torch.autograd.Function):
    """The products of attention over [B, heads, L, D], and what a fused kernel keeps; no values."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scores = query @ _repeated(key, query).transpose(2, 3)
        out = scores @ _repeated(value, query)
        sums = query.new_empty(query.shape[:3], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _, _ = ctx.saved_tensors
        (gradient,) = gradients
        scores = gradient @ _repeated(value, query).transpose(2, 3)
        for_value, for_key = scores.transpose(2, 3) @ gradient, scores.transpose(2, 3) @ query
        return scores @ _repeated(key, query), for_key[:, : key.shape[1]], for_value[:, : key.shape[1]]


def _repeated(heads: Tensor, query: Tensor) -> Tensor:
    """One for every head of the queries."""
    return heads.repeat_interleave(query.shape[1] // heads.shape[1], dim=1)


def load_cuda() -> Attention:
    """`torch.nn.attention.varlen.varlen_attn`: FlashAttention over all segments in one call, in 16 bits."""
    from torch.nn.attention.varlen import varlen_attn

    @lru_cache(CUDA_KEPT)
    def boundaries(cu_seqlens: tuple[int, ...], device: torch.device) -> Tensor:
        """On the device once a batch, not once a layer."""
        return torch.tensor(cu_seqlens, dtype=torch.int32, device=device)

    def attend(
        query: Tensor, key: Tensor, value: Tensor, segments: Segments, *, causal: bool, scale: float | None = None
    ) -> Tensor:
        head_dim, value_dim = query.shape[-1], value.shape[-1]
        ends, longest = boundaries(segments.cu_seqlens, query.device), max(segments.lengths)
        attended = varlen_attn(
            query,
            key,
            # Values have the queries' size: latent attention's are smaller.
            F.pad(value, (0, head_dim - value_dim)),
            ends,
            ends,
            longest,
            longest,
            scale=head_dim**-0.5 if scale is None else scale,
            window_size=CUDA_CAUSAL if causal else CUDA_FULL,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        assert isinstance(attended, Tensor), "nothing but the output was asked for"
        return attended[..., :value_dim]

    return attend


REFERENCE = KernelSpec(devices=frozenset(), load=lambda: reference)
CUDA = KernelSpec(devices=frozenset({"cuda"}), load=load_cuda, precisions=frozenset({"bfloat16"}))
META = KernelSpec(devices=frozenset({"meta"}), load=lambda: without_values)
NPU = KernelSpec(devices=frozenset({"npu"}), load=load_npu)
