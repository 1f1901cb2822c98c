"""Meshes that cannot work are refused with those that would."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mindvl_train.config.schema import MeshConfig
from mindvl_train.kernels.registry import KernelConfig, resolve
from mindvl_train.models.vlm import VLM, VLMConfig
from mindvl_train.parallel.fit import Limits, MeshError, StageShape, limits_of, meshes, problems, sizes_for
from mindvl_train.parallel.mesh import Sizes
from tests.mindvl_train.synthetic import QWEN3_5, TINY_MODEL

STAGE = StageShape("sft", global_batch=96, micro_batch=1, seq_len=4096)
LIMITS = Limits(heads=8, kv_heads=4, width=64, experts=16, stages=[STAGE])


def test_what_a_model_can_be_divided_by() -> None:
    moe = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "dense_layers": (0,)}
    settings = {**TINY_MODEL, "decoder": {**TINY_MODEL["decoder"], "moe": moe}}
    with torch.device("meta"):
        model = VLM(VLMConfig(**settings), resolve(KernelConfig(), "cpu"))
    assert limits_of(model, []) == Limits(heads=4, kv_heads=2, width=32, experts=6, stages=[])


def test_ranks_share_the_heads_of_delta_layers() -> None:
    settings = {**TINY_MODEL, "decoder": {**TINY_MODEL["decoder"], **QWEN3_5}}
    with torch.device("meta"):
        model = VLM(VLMConfig(**settings), resolve(KernelConfig(), "cpu"))
    limits = limits_of(model, [STAGE])
    assert (limits.heads, limits.kv_heads, limits.state_heads) == (4, 2, 2)
    assert not list(problems(Sizes(tensor=2), 2, limits))
    assert not list(problems(Sizes(context=2), 2, limits))
    with pytest.raises(MeshError, match=r"context · tensor \(4\) does not divide the 2 key heads of delta layers"):
        sizes_for(MeshConfig(context=2, tensor=2), 4, limits)


def test_a_held_out_set_is_divided_like_a_stage() -> None:
    limits = replace(LIMITS, holdout_seq_len=4098)
    assert list(problems(Sizes(context=4), 4, limits)) == [
        "holdout: context · tensor (4) does not divide its packs of 4098 tokens"
    ]
    assert not list(problems(Sizes(context=4), 4, LIMITS))


def test_the_ranks_that_are_left_shard() -> None:
    assert sizes_for(MeshConfig(replicate=2, context=2), 16, LIMITS) == Sizes(replicate=2, shard=4, context=2)
    assert sizes_for(MeshConfig(), 1, LIMITS) == Sizes()


@pytest.mark.parametrize(
    ("config", "ranks", "message"),
    [
        ({"context": 3}, 6, r"context · tensor \(3\) does not divide the 8 attention heads"),
        ({"tensor": 8}, 8, r"tensor 8 does not divide the 4 key-value heads"),
        ({"expert": 3}, 6, r"expert 3 does not divide the 16 experts"),
        ({"expert": 16}, 8, r"expert 16 does not divide shard · context · tensor \(8\)"),
        ({"shard": 4}, 8, r"replicate · shard · context · tensor is 4, the run has 8 ranks"),
        ({}, 64, r"stages.sft: global_batch 96 is no multiple of replicate · shard · micro_batch \(64 · 1\)"),
    ],
)
def test_a_mesh_that_cannot_work_is_refused_and_others_are_named(config: dict, ranks: int, message: str) -> None:
    with pytest.raises(MeshError, match=message) as caught:
        sizes_for(MeshConfig(**config), ranks, LIMITS)
    assert f"With {ranks} ranks these would: " in str(caught.value)


def test_where_no_mesh_works_it_says_what_to_change() -> None:
    with pytest.raises(MeshError, match=r"No mesh of 7 ranks would: .* stages.sft.global_batch"):
        sizes_for(MeshConfig(), 7, LIMITS)


@given(
    ranks=st.integers(1, 96),
    heads=st.sampled_from([4, 8, 12, 40]),
    groups=st.sampled_from([1, 2, 4]),
    experts=st.sampled_from([0, 8, 60]),
    global_batch=st.sampled_from([8, 24, 64]),
)
def test_every_mesh_that_is_named_works(ranks: int, heads: int, groups: int, experts: int, global_batch: int) -> None:
    limits = Limits(heads, heads // groups, 64, experts, [StageShape("s", global_batch, 2, 960)])
    for sizes in meshes(ranks, limits):
        assert sizes.ranks == ranks
        assert not list(problems(sizes, ranks, limits))
        assert sizes_for(MeshConfig(**vars(sizes)), ranks, limits) == sizes
