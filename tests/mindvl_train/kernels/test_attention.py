"""Attention over segments equals attention under the mask that the segments stand for."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_train.kernels.attention import reference
from mindvl_train.kernels.segments import Segments


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_values_and_gradients_are_those_of_a_block_mask(
    causal: bool, kv_heads: int, lengths: list[int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    shapes = [(total, 4, 8), (total, kv_heads, 8), (total, kv_heads, 8)]
    streams = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]
    segment = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    mask = segment[:, None] == segment[None, :]
    if causal:
        mask = mask.tril()
    batched = [stream.transpose(0, 1)[None] for stream in streams]
    expected = F.scaled_dot_product_attention(*batched, attn_mask=mask, enable_gqa=True)[0].transpose(0, 1)
    attended = reference(*streams, Segments.of(lengths), causal=causal)
    torch.testing.assert_close(attended, expected, atol=1e-5, rtol=1e-5)
    upstream = torch.randn(attended.shape, generator=generator)
    for ours, theirs in zip(
        torch.autograd.grad(attended, streams, upstream), torch.autograd.grad(expected, streams, upstream), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
