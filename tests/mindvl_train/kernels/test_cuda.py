"""The CUDA kernels: their arithmetic on a CPU where torch has it there, else the documented contract of the call.

No GPU: torch has no CPU kernel of `varlen_attn`, so one that checks its arguments and computes plainly stands in.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.attention.varlen as varlen
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mindvl_train.kernels import attention, grouped_gemm, rms_norm
from mindvl_train.kernels.registry import KernelConfig, KernelError, resolve
from mindvl_train.kernels.segments import Segments
from tests.mindvl_train.kernels.test_npu import MODELS, _batch, _model
from tests.mindvl_train.synthetic import LAYOUT

CALLS: list[str] = []


def fake_varlen_attn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor | None,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: Tensor | None = None,
    block_table: Tensor | None = None,
    num_splits: int | None = None,
) -> Tensor:
    CALLS.append("varlen_attn")
    assert query.dtype == key.dtype == value.dtype == torch.bfloat16, "FlashAttention computes in 16 bits"
    assert query.ndim == key.ndim == value.ndim == 3
    assert query.shape[2] == key.shape[2] == value.shape[2] <= 256
    assert key.shape[1] == value.shape[1]
    assert query.shape[1] == key.shape[1] or enable_gqa
    assert query.shape[1] % key.shape[1] == 0
    for ends, tokens, longest in ((cu_seq_q, query, max_q), (cu_seq_k, key, max_k)):
        assert ends is not None
        assert ends.dtype == torch.int32
        assert ends.device == tokens.device
        assert ends[0] == 0
        assert ends[-1] == len(tokens)
        assert type(longest) is int
        assert longest == ends.diff().max()
    assert window_size in ((-1, -1), (-1, 0))
    assert return_aux is seqused_k is block_table is num_splits is None
    pieces = []
    for start, stop in zip(cu_seq_q.tolist(), cu_seq_q.tolist()[1:], strict=False):
        q, k, v = (stream[start:stop].float().transpose(0, 1)[None] for stream in (query, key, value))
        causal = window_size == (-1, 0)
        pieces.append(F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=True))
    return torch.cat(pieces, dim=2)[0].transpose(0, 1).to(query.dtype)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    monkeypatch.setattr(varlen, "varlen_attn", fake_varlen_attn)
    yield CALLS
    CALLS.clear()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("heads", "sizes"), [((4, 4), (8, 8)), ((4, 2), (8, 8)), ((4, 4), (24, 16))])
def test_attention_is_that_of_the_reference(
    causal: bool, heads: tuple[int, int], sizes: tuple[int, int], calls: list[str]
) -> None:
    generator = torch.Generator().manual_seed(0)
    segments = Segments.of([5, 1, 9])
    shapes = [(15, heads[0], sizes[0]), (15, heads[1], sizes[0]), (15, heads[1], sizes[1])]
    streams = [torch.randn(shape, generator=generator).to(torch.bfloat16).requires_grad_() for shape in shapes]
    found = attention.load_cuda()(*streams, segments, causal=causal, scale=0.3)
    wide = [stream.detach().float().requires_grad_() for stream in streams]
    expected = attention.reference(*wide, segments, causal=causal, scale=0.3)
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)
    upstream = torch.randn(found.shape, generator=generator)
    for ours, theirs in zip(
        torch.autograd.grad(found, streams, upstream.to(torch.bfloat16)),
        torch.autograd.grad(expected, wide, upstream),
        strict=True,
    ):
        assert (ours.float() - theirs).norm() <= 0.02 * theirs.norm()


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_the_grouped_product_is_that_of_the_reference(counts: list[int], seed: int) -> None:
    """Experts without tokens and no tokens at all among them."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(sum(counts), 8, generator=generator, requires_grad=True)
    # As `Experts` hands it over: [E, out, in], transposed.
    weight = torch.randn(len(counts), 16, 8, generator=generator, requires_grad=True)
    products = [
        kernel(tokens, weight.transpose(1, 2), torch.tensor(counts))
        for kernel in (grouped_gemm.reference, grouped_gemm.grouped)
    ]
    torch.testing.assert_close(*products, atol=1e-5, rtol=1e-5)
    upstream = torch.randn(products[0].shape, generator=generator)
    gradients = [torch.autograd.grad(product, (tokens, weight), upstream) for product in products]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_is_that_of_the_reference(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(7, 3, 16, generator=generator), torch.randn(16, generator=generator)
    streams = [hidden.to(dtype).requires_grad_(), weight.requires_grad_()]
    bound = 1e-5 if dtype == torch.float32 else 0.01
    outputs = [kernel(*streams, 1e-6) for kernel in (rms_norm.reference, rms_norm.fused)]
    assert outputs[1].dtype == dtype
    upstream = torch.randn(hidden.shape, generator=generator)
    pairs = [
        tuple(output.float() for output in outputs),
        *zip(*(torch.autograd.grad(output, streams, upstream.to(output.dtype)) for output in outputs), strict=True),
    ]
    for ours, theirs in pairs:
        assert (ours.float() - theirs.float()).norm() <= bound * theirs.float().norm()


@pytest.mark.parametrize("name", MODELS)
def test_whole_models_in_bfloat16_keep_the_contract_and_the_loss(name: str, calls: list[str]) -> None:
    decoder = MODELS[name]
    batch = _batch(replace(LAYOUT, window=4, position_axes=3 if "mrope_section" in decoder else 1))
    reference = _model(decoder, resolve(KernelConfig(), "cpu"))
    fused = _model(decoder, resolve(KernelConfig(), "cuda", "bfloat16")).to(torch.bfloat16)
    expected, found = reference(batch), fused(batch)
    assert found.item() == pytest.approx(expected.item(), rel=0.05)
    expected.backward()
    found.backward()
    ours = torch.cat(
        [parameter.grad.float().flatten() for parameter in fused.parameters() if parameter.grad is not None]
    )
    theirs = torch.cat([parameter.grad.flatten() for parameter in reference.parameters() if parameter.grad is not None])
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.95
    layers = len(fused.vision.blocks) + len(fused.decoder.layers)
    assert len(calls) == layers, "a call a layer, however many segments"


def test_auto_takes_what_cuda_has_for_the_precision() -> None:
    half, full = (resolve(KernelConfig(), "cuda", precision).names for precision in ("bfloat16", "float32"))
    named = {operation for operation, name in half.items() if name == "cuda"}
    narrow = {"attention", "grouped_gemm", "delta_rule", "causal_convolution"}
    assert named == narrow | {"rms_norm", "cross_entropy"}
    assert {operation for operation in half if half[operation] != full[operation]} == narrow


def test_a_kernel_that_does_not_compute_in_the_precision_is_an_error() -> None:
    with pytest.raises(KernelError, match=r"kernels.attention: 'cuda' computes in bfloat16, not in float32"):
        resolve(KernelConfig(attention="cuda"), "cuda")
