"""The gated delta rule and the convolution before it: what they compute, and that both restart at every segment."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mindvl_train.kernels import causal_convolution, delta_rule, registry
from mindvl_train.kernels.registry import KernelConfig, KernelError, resolve
from mindvl_train.kernels.segments import Segments
from mindvl_train.models.decoder import Decoder, DecoderConfig
from tests.mindvl_train.kernels.fake_torch_npu import Recorded
from tests.mindvl_train.synthetic import QWEN3_5, TINY_MODEL

NAMES = (
    "fla",
    "fla.ops",
    "fla.ops.gated_delta_rule",
    "fla.modules",
    "fla.modules.causal_conv1d",
    "causal_conv1d",
)
HEADS, VALUE_HEADS, KEY, VALUE = 2, 4, 5, 3
CHANNELS, WIDTH = 8, 4
# One, two and three tokens are fewer than the convolution sees.
LENGTHS = st.lists(st.one_of(st.integers(1, 3), st.integers(1, 23)), min_size=1, max_size=7)


def recurrence(query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, segments: Segments) -> Tensor:
    """Token after token, as the module's first lines have it."""
    groups = value.shape[1] // key.shape[1]
    query, key = (F.normalize(each, dim=-1).repeat_interleave(groups, dim=1) for each in (query, key))
    outputs, starts = [], set(segments.cu_seqlens)
    for at in range(len(value)):
        if at in starts:
            state = value.new_zeros(value.shape[1], key.shape[-1], value.shape[-1])
        state = state * decay[at].exp()[:, None, None]
        correction = beta[at, :, None] * (value[at] - torch.einsum("hkv,hk->hv", state, key[at]))
        state = state + torch.einsum("hk,hv->hkv", key[at], correction)
        outputs.append(torch.einsum("hkv,hk->hv", state, query[at]) / KEY**0.5)
    return torch.stack(outputs)


def streams(tokens: int, seed: int = 0, speed: float = 1.0) -> list[Tensor]:
    """Queries, keys, values, decays and betas; `speed` of forgetting is in powers of e a token."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(HEADS, KEY), (HEADS, KEY), (VALUE_HEADS, VALUE), (VALUE_HEADS,), (VALUE_HEADS,)]
    drawn = [torch.randn(tokens, *shape, generator=generator) for shape in shapes]
    return [*drawn[:3], -speed * drawn[3].exp(), drawn[4].sigmoid()]


def with_gradients(kernel: Callable[..., Tensor], inputs: list[Tensor], *others: Any) -> list[Tensor]:
    """Outputs and the gradients of all inputs."""
    leaves = [each.detach().requires_grad_() for each in inputs]
    output = kernel(*leaves, *others)
    upstream = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).cos().view(output.shape)
    return [output.detach(), *torch.autograd.grad(output, leaves, upstream)]


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
@pytest.mark.parametrize("speed", [0.001, 1.0, 30.0])
def test_it_is_the_recurrence_in_values_and_gradients(chunk: int, speed: float) -> None:
    segments = Segments.of([9, 1, 2, 17, 3, 4])
    inputs = streams(36, speed=speed)
    found = with_gradients(delta_rule.reference, inputs, segments, chunk)
    expected = with_gradients(recurrence, [each.double() for each in inputs], segments)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=2e-5, rtol=1e-4)


def packed_and_alone(
    kernel: Callable[..., Tensor], inputs: list[Tensor], along: int, lengths: list[int], *others: Any
) -> list[tuple[Tensor, Tensor]]:
    """What a pack gives and what its segments give alone, values and gradients; `along` inputs run along the stream."""

    def alone(*arguments: Tensor) -> Tensor:
        pieces = zip(*(each.split(lengths) for each in arguments[:along]), strict=True)
        return torch.cat([kernel(*each, *arguments[along:], Segments.of([len(each[0])]), *others) for each in pieces])

    packed = with_gradients(kernel, inputs, Segments.of(lengths), *others)
    return list(zip(packed, with_gradients(alone, inputs), strict=True))


@settings(max_examples=60, deadline=None)
@given(
    lengths=LENGTHS,
    chunk=st.sampled_from([1, 2, 3, 8, 16, 64]),
    seed=st.integers(0, 99),
    speed=st.sampled_from([0.01, 1.0, 100.0]),
)
def test_a_pack_is_its_segments_alone(lengths: list[int], chunk: int, seed: int, speed: float) -> None:
    """Wherever the borders lie in a chunk, and however fast the segment before forgets."""
    for packed, alone in packed_and_alone(delta_rule.reference, streams(sum(lengths), seed, speed), 5, lengths, chunk):
        torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)


def test_without_boundaries_segments_would_see_each_other() -> None:
    inputs = streams(12, speed=0.1)
    apart, together = (delta_rule.reference(*inputs, Segments.of(lengths)) for lengths in ([6, 6], [12]))
    torch.testing.assert_close(apart[:6], together[:6])
    assert (apart[6:] - together[6:]).abs().max() > 0.01


@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS, width=st.integers(1, 5), seed=st.integers(0, 99))
def test_the_convolution_of_a_pack_is_that_of_its_segments_alone(lengths: list[int], width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    stream = torch.randn(sum(lengths), CHANNELS, generator=generator)
    weight = torch.randn(CHANNELS, width, generator=generator)
    for packed, alone in packed_and_alone(causal_convolution.reference, [stream, weight], 1, lengths):
        torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)


def test_the_convolution_is_torchs_over_one_segment() -> None:
    stream, weight = torch.randn(9, CHANNELS), torch.randn(CHANNELS, WIDTH)
    padded = F.pad(stream.t(), (WIDTH - 1, 0))
    expected = F.silu(F.conv1d(padded, weight.unsqueeze(1), groups=CHANNELS)).t()
    torch.testing.assert_close(causal_convolution.reference(stream, weight, Segments.of([9])), expected)


@pytest.mark.parametrize("kernel", ["delta_rule", "causal_convolution"])
def test_a_type_in_is_the_type_out(kernel: str) -> None:
    segments = Segments.of([3, 2])
    if kernel == "delta_rule":
        found = delta_rule.reference(*(each.bfloat16() for each in streams(5)), segments)
    else:
        weight = torch.randn(CHANNELS, WIDTH).bfloat16()
        found = causal_convolution.reference(torch.randn(5, CHANNELS).bfloat16(), weight, segments)
    assert found.dtype == torch.bfloat16


def fake_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
) -> tuple[Tensor, None]:
    """`fla.ops.gated_delta_rule.chunk_gated_delta_rule` (0.6), by its docstring."""
    assert q.dtype == k.dtype == v.dtype == torch.bfloat16, "its products are of 16 bits"
    assert g.dtype == torch.float32, "the decays, in log space"
    assert cu_seqlens is not None, "several sequences in one are told by their boundaries alone"
    assert q.shape[0] == 1, "the batch size is expected to be 1 when using cu_seqlens"
    assert q.shape == k.shape
    assert v.shape[2] % k.shape[2] == 0
    assert g.shape == beta.shape == v.shape[:3]
    assert k.shape[-1] <= 256
    assert cu_seqlens.dtype == torch.int64
    assert cu_seqlens.device == q.device
    assert cu_seqlens[0] == 0
    assert cu_seqlens[-1] == q.shape[1]
    assert bool((cu_seqlens.diff() > 0).all())
    if cu_seqlens_cpu is not None:
        assert torch.equal(cu_seqlens_cpu, cu_seqlens.cpu())
    assert use_qk_l2norm_in_kernel, "queries and keys come as they are"
    assert (scale, initial_state, output_final_state) == (None, None, False)
    segments = Segments(tuple(cu_seqlens.tolist()))
    return delta_rule.reference(*(each.squeeze(0) for each in (q, k, v, g, beta)), segments).unsqueeze(0), None


def fake_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """`causal_conv1d.causal_conv1d_fn` (1.7), by the checks of its C++."""
    batch, dim, seqlen = x.shape
    assert x.stride(1) == 1, "seq_idx is only supported for channel last layout"
    assert x.stride(2) > 1, "seq_idx is only supported for channel last layout"
    assert dim % 8 == 0, "only supports channel dimension divisible by 8"
    assert x.stride(0) % 8 == x.stride(2) % 8 == 0, "requires strides to be multiples of 8"
    assert weight.shape[0] == dim
    assert 2 <= weight.shape[1] <= 4, "only supports width between 2 and 4"
    assert seq_idx is not None, "several sequences in one are told by seq_idx alone"
    assert seq_idx.dtype == torch.int32
    assert seq_idx.shape == (batch, seqlen)
    assert seq_idx.is_contiguous()
    assert activation in ("silu", "swish")
    assert bias is initial_states is final_states_out is None
    assert not return_final_states
    lengths = torch.unique_consecutive(seq_idx[0], return_counts=True)[1].tolist()
    convolved = causal_convolution.reference(x[0].t(), weight, Segments.of(lengths))
    return convolved.contiguous().t().unsqueeze(0)


def fake_fla_convolution(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool | None = False,
    activation: str | None = None,
    backend: str | None = "triton",
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
) -> tuple[Tensor, None]:
    """`fla.modules.causal_conv1d.causal_conv1d` (0.6), by its docstring."""
    assert x.shape[0] == 1
    assert weight is not None
    assert weight.shape[0] == x.shape[2]
    assert bias is residual is initial_state is None
    assert not output_final_state
    assert activation in ("swish", "silu")
    assert backend == "triton", "the one that a backend for Ascend stands in for"
    assert cu_seqlens is not None, "several sequences in one are told by their boundaries alone"
    assert cu_seqlens[0] == 0
    assert cu_seqlens[-1] == x.shape[1]
    assert cu_seqlens_cpu is not None
    assert torch.equal(cu_seqlens_cpu, cu_seqlens.cpu())
    segments = Segments(tuple(cu_seqlens.tolist()))
    return causal_convolution.reference(x.squeeze(0), weight, segments).unsqueeze(0), None


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both libraries, installed as far as Python can tell."""
    modules = {name: ModuleType(name) for name in NAMES}
    modules["fla.ops.gated_delta_rule"].chunk_gated_delta_rule = fake_delta_rule  # type: ignore[attr-defined]
    modules["fla.modules.causal_conv1d"].causal_conv1d = fake_fla_convolution  # type: ignore[attr-defined]
    modules["causal_conv1d"].causal_conv1d_fn = fake_convolution  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(registry, "find_spec", lambda name: modules.get(name))


def test_cuda_calls_as_documented_and_computes_the_same(packages: None) -> None:
    segments, kernels = Segments.of([5, 1, 9, 2]), resolve(KernelConfig(), "cuda", "bfloat16")
    assert (kernels.names["delta_rule"], kernels.names["causal_convolution"]) == ("cuda", "cuda")
    inputs = streams(17)
    narrow = [*(each.bfloat16() for each in inputs[:3]), inputs[3], inputs[4].bfloat16()]
    # A slice, as a projection of several may hand it over.
    stream = torch.randn(17, 3 * CHANNELS).bfloat16()[:, CHANNELS : 2 * CHANNELS]
    filters = [torch.randn(CHANNELS, WIDTH).bfloat16()]
    assert_same(kernels.delta_rule, delta_rule.reference, narrow, segments)
    assert_same(kernels.causal_convolution, causal_convolution.reference, [stream, *filters], segments)


def assert_same(
    kernel: Callable[..., Tensor], reference: Callable[..., Tensor], inputs: list[Tensor], segments: Segments
) -> None:
    found, expected = (with_gradients(each, inputs, segments) for each in (kernel, reference))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("channels", "width"), [(12, 4), (8, 5), (8, 1)])
def test_what_the_convolution_of_cuda_does_not_take_is_refused(channels: int, width: int, packages: None) -> None:
    with pytest.raises(ValueError, match=r"causal-conv1d takes .* set kernels.causal_convolution: reference"):
        causal_convolution.load_cuda()(torch.randn(3, channels), torch.randn(channels, width), Segments.of([3]))


def test_keys_that_the_fused_rule_does_not_take_are_refused(packages: None) -> None:
    heads = torch.randn(3, 1, 257)
    with pytest.raises(ValueError, match=r"keys of 257 .* set kernels.delta_rule: reference"):
        delta_rule.load_fused()(heads, heads, heads, heads[..., 0], heads[..., 0], Segments.of([3]))


def test_a_missing_package_stops_a_model_that_needs_it_before_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    kernels = resolve(KernelConfig(), "cuda", "bfloat16")
    decoders = {name: TINY_MODEL["decoder"] | each for name, each in (("attends", {}), ("remembers", QWEN3_5))}
    with torch.device("meta"):
        Decoder(DecoderConfig(**decoders["attends"]), kernels)
        told = (
            r"kernels.delta_rule: 'cuda' needs the package fla, which is not installed: pip install 'mindvl\[delta\]'"
        )
        with pytest.raises(KernelError, match=told):
            Decoder(DecoderConfig(**decoders["remembers"]), kernels)


def test_ascend_calls_as_documented_and_computes_the_same(packages: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_npu", Recorded())
    segments, kernels = Segments.of([5, 1, 9, 2]), resolve(KernelConfig(), "npu", "bfloat16")
    assert (kernels.names["delta_rule"], kernels.names["causal_convolution"]) == ("npu", "npu")
    inputs = streams(17)
    narrow = [*(each.bfloat16() for each in inputs[:3]), inputs[3], inputs[4].bfloat16()]
    mixed = [torch.randn(17, CHANNELS).bfloat16(), torch.randn(CHANNELS, WIDTH).bfloat16()]
    assert_same(kernels.delta_rule, delta_rule.reference, narrow, segments)
    assert_same(kernels.causal_convolution, causal_convolution.reference, mixed, segments)
