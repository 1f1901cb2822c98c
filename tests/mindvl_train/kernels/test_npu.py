"""The Ascend kernels against a `torch_npu` that checks their calls: the documented contract, not the hardware."""

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mindvl_train import accelerators, plugins
from mindvl_train.accelerators import AcceleratorError
from mindvl_train.data.batch import Batch, BatchLayout, collate
from mindvl_train.kernels.attention import load_npu as load_attention
from mindvl_train.kernels.attention import reference as attention_reference
from mindvl_train.kernels.registry import KernelConfig, KernelError, Kernels, resolve
from mindvl_train.kernels.rotary import load_npu as load_rotary
from mindvl_train.kernels.segments import Segments
from mindvl_train.models.vlm import VLM, VLMConfig
from tests.mindvl_train.kernels.fake_torch_npu import Recorded
from tests.mindvl_train.synthetic import LAYOUT, MOE, TINY_MODEL, image_sample, pack_of, text_sample, tiny_model

LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 8}
WINDOWS = {"window_size": 112, "fullatt_block_indexes": [1]}
MODELS: dict[str, dict[str, Any]] = {
    "dense": {},
    "multimodal rotary": {"mrope_section": [2, 1, 1]},
    "experts": {"moe": MOE},
    "latent experts": {"moe": MOE, "latent": LATENT},
}


@pytest.fixture
def torch_npu(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    fake = Recorded()
    monkeypatch.setitem(sys.modules, "torch_npu", fake)
    return fake


def _model(decoder: dict[str, Any], kernels: Kernels) -> VLM:
    """The weights of `tiny_model`, with windows in its tower."""
    weights = tiny_model(**decoder).state_dict()
    settings = {
        "vision": TINY_MODEL["vision"] | WINDOWS,
        "decoder": TINY_MODEL["decoder"] | decoder,
    }
    model = VLM(VLMConfig(**settings), kernels)
    model.load_state_dict(weights)
    return model


def _batch(layout: BatchLayout, padding: int = 5) -> Batch:
    rng = np.random.default_rng(0)
    samples = [text_sample(rng, 9), image_sample(rng, (10, 12), 5), text_sample(rng, 9)]
    return collate([pack_of(samples, sum(len(sample.tokens) for sample in samples) + padding)], layout)


@pytest.mark.parametrize("name", MODELS)
def test_losses_and_gradients_are_those_of_the_reference(name: str, torch_npu: Recorded) -> None:
    decoder = MODELS[name]
    batch = _batch(replace(LAYOUT, window=4, position_axes=3 if "mrope_section" in decoder else 1))
    reference = _model(decoder, resolve(KernelConfig(), "cpu"))
    fused = _model(decoder, resolve(KernelConfig(), "npu"))
    expected, found = reference(batch), fused(batch)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    expected.backward()
    found.backward()
    for (parameter_name, ours), theirs in zip(fused.named_parameters(), reference.parameters(), strict=True):
        if theirs.grad is None:
            assert ours.grad is None
        else:
            assert (ours.grad - theirs.grad).norm() <= 1e-5 * theirs.grad.norm(), parameter_name
    wanted = {"npu_fusion_attention", "npu_rms_norm", "npu_rotary_mul", "npu_swiglu"}
    if "moe" in decoder:
        wanted |= {"npu_grouped_matmul", "npu_moe_token_permute", "npu_moe_token_unpermute"}
    assert set(torch_npu.calls) == wanted


def test_auto_takes_every_kernel_that_ascend_has(torch_npu: Recorded) -> None:
    names = resolve(KernelConfig(), "npu").names
    plain = ("patch_embedding", "delta_rule", "causal_convolution")
    assert {names.pop(operation) for operation in plain} == {"reference"}
    assert set(names.values()) == {"npu"}


def test_ascend_kernels_do_not_run_elsewhere() -> None:
    with pytest.raises(KernelError, match=r"kernels.attention: 'npu' runs on npu, not on cpu"):
        resolve(KernelConfig(attention="npu"), "cpu")


def test_nothing_of_the_vendor_is_imported_before_a_kernel_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_npu", None)
    for name in plugins.available(plugins.KERNELS):
        plugins.load(plugins.KERNELS, name)
    resolve(KernelConfig(), "cpu")


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_no_padding_is_a_segment_of_one_token(padding: int, torch_npu: Recorded) -> None:
    model = _model({}, resolve(KernelConfig(), "npu"))
    layout = replace(LAYOUT, window=4)
    batch = _batch(layout, padding)
    assert 1 not in batch.segments.lengths
    with torch.no_grad():
        padded, bare = model.logits(batch), model.logits(_batch(layout, 0))
    torch.testing.assert_close(padded[: len(bare)], bare, atol=1e-5, rtol=1e-5)


def test_a_segment_of_one_token_is_refused_before_it_crashes(torch_npu: Recorded) -> None:
    streams = [torch.randn(3, 2, 4) for _ in range(3)]
    with pytest.raises(ValueError, match="a segment of one token crashes npu_fusion_attention"):
        load_attention()(*streams, Segments((0, 1, 3)), causal=True)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("count", "calls"), [(1024, 1), (1025, 2), (2500, 3)])
def test_more_segments_than_a_call_takes_go_through_in_several(
    count: int, calls: int, causal: bool, torch_npu: Recorded
) -> None:
    """A tower's windows pass 1,024 in a pack of 16,384 vision tokens."""
    segments = Segments.of(2 + at % 3 for at in range(count))
    query, key, value = (torch.randn(segments.cu_seqlens[-1], heads, 4, requires_grad=True) for heads in (4, 2, 2))
    results = []
    for kernel in (load_attention(), attention_reference):
        attended = kernel(query, key, value, segments, causal=causal)
        results.append((attended, *torch.autograd.grad(attended.square().sum(), (query, key, value))))
    assert torch_npu.calls == ["npu_fusion_attention"] * calls
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 257, 4), "at most 256 heads, not 257"),
        ((2, 2, 769), "heads of at most 768, not 769"),
        ((1024 * 1024 + 1, 1, 1), "at most 1,048,576 tokens a call, not 1,048,577"),
    ],
)
def test_what_the_attention_kernel_does_not_take_is_refused(
    shape: tuple[int, int, int], message: str, torch_npu: Recorded
) -> None:
    stream = torch.zeros(shape)
    with pytest.raises(ValueError, match=rf"{message}; set kernels.attention: reference"):
        load_attention()(stream, stream, stream, Segments((0, len(stream))), causal=True)


@pytest.mark.parametrize("size", [7, 1024])
def test_heads_beyond_the_limits_of_the_rotary_kernel_are_refused(size: int, torch_npu: Recorded) -> None:
    with pytest.raises(ValueError, match=r"set kernels.rotary: reference"):
        load_rotary()(torch.randn(3, 2, size), torch.randn(3, size), torch.randn(3, size))


def test_a_machine_without_the_vendors_runtime_has_no_npu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_npu", None)
    with pytest.raises(AcceleratorError, match="'npu' is not available on this machine"):
        accelerators.choose("npu")


def test_the_npu_talks_over_hccl() -> None:
    assert accelerators.NPU.backend == "hccl"
