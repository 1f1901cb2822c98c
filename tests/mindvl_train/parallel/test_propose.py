"""Meshes are proposed for any number of ranks, without any of them; and what a rank holds is what it will hold."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mindvl_train.config.schema import TrainConfig
from mindvl_train.dtensor import local
from mindvl_train.kernels.registry import KernelConfig, resolve
from mindvl_train.models.vlm import VLM, VLMConfig
from mindvl_train.parallel.fit import StageShape, limits_of, problems
from mindvl_train.parallel.mesh import Sizes, build_mesh
from mindvl_train.parallel.parallelise import parallelise
from mindvl_train.planning.propose import STATE_BYTES, Load, Proposal, gathered, measure_state, propose
from tests.mindvl_train.parallel.one_step import RUN
from tests.mindvl_train.parallel.pool import Pool
from tests.mindvl_train.synthetic import TINY_MODEL

MOE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "dense_layers": (0,)}
CONFIG = TrainConfig(**RUN)
STAGE = StageShape("sft", global_batch=1024, micro_batch=1, seq_len=4096)


def build(**decoder: Any) -> VLM:
    settings = {**TINY_MODEL, "decoder": {**TINY_MODEL["decoder"], "moe": MOE, **decoder}}
    with torch.device("meta"):
        return VLM(VLMConfig(**settings), resolve(KernelConfig(), "cpu"))


def proposed(ranks: int, memory: float, activations: int = 0) -> list[Proposal]:
    return propose(build, CONFIG, limits_of(build(), [STAGE]), Load(STAGE, activations), ranks, memory)


def state_on_the_first_rank(_: Path, sizes: Sizes) -> int:
    model = parallelise(build(), build_mesh(sizes, torch.device("cpu")), CONFIG)
    return sum(local(parameter).numel() for parameter in model.parameters()) * STATE_BYTES


def test_512_ranks_without_one() -> None:
    found = proposed(512, memory=2**30)
    assert len(found) == 4
    for proposal in found:
        assert not list(problems(proposal.sizes, 512, limits_of(build(), [STAGE])))
    assert [proposal.sent for proposal in found] == sorted(proposal.sent for proposal in found)


def test_less_memory_means_fewer_copies_and_shared_packs() -> None:
    parameters = sum(parameter.numel() for parameter in build().parameters())
    used = gathered(build(), Sizes(replicate=16), "float32")
    whole = proposed(16, memory=parameters * STATE_BYTES * 1.01 + used)
    assert whole[0].sizes.replicate == 16
    tight = proposed(16, memory=parameters * STATE_BYTES / 4 + used)
    assert tight
    assert all(proposal.sizes.replicate <= 8 for proposal in tight)
    less = proposed(16, memory=parameters * STATE_BYTES / 4 + used, activations=parameters * 8)
    assert less
    assert all(proposal.sizes.share >= 2 for proposal in less)
    assert proposed(16, memory=100) == []


@pytest.mark.parametrize("sizes", [Sizes(shard=4, expert=2), Sizes(replicate=2, tensor=2), Sizes(shard=2, context=2)])
def test_what_a_rank_is_said_to_hold_is_what_it_holds(pool: Pool, sizes: Sizes) -> None:
    assert measure_state(build(), CONFIG, sizes) == pool.run(4, state_on_the_first_rank, sizes)
