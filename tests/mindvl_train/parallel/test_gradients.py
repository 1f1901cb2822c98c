"""Every mesh computes what one process computes: the same loss, the same gradient of every weight."""

from typing import Any

import numpy as np
import pytest
import torch

from mindvl_data.shards import Pack
from mindvl_train.parallel.data import EXPERT_DIMENSIONS
from mindvl_train.parallel.mesh import Sizes
from tests.mindvl_train.parallel.one_step import Case, in_one_process, on_a_mesh
from tests.mindvl_train.parallel.pool import Pool
from tests.mindvl_train.synthetic import (
    QWEN3_5,
    QWEN3_VISION,
    SHARED_EXPERT,
    image_sample,
    mixed_packs,
    pack_of,
    text_sample,
)

LIMIT = 1e-5


def assert_same_step(pool: Pool, case: Case, sizes: Sizes) -> None:
    loss, gradients = pool.run(sizes.ranks, on_a_mesh, case, sizes)
    expected_loss, expected = in_one_process(case)
    assert loss == pytest.approx(expected_loss, rel=LIMIT)
    assert gradients.keys() == expected.keys()
    off = {
        name: float((gradients[name] - gradient).norm() / gradient.norm().clamp(min=1e-30))
        for name, gradient in expected.items()
        if not torch.equal(gradients[name], gradient)
    }
    assert {name: each for name, each in off.items() if not each <= LIMIT} == {}


def text_only_on_some_ranks() -> list[Pack]:
    """Of four packs two have no picture, and one of them is mostly padding."""
    rng = np.random.default_rng(5)
    with_image = [pack_of([image_sample(rng, (4, 4), 6), text_sample(rng, 9)], 24, index) for index in (0, 1)]
    return [with_image[0], pack_of([text_sample(rng, 24)], 24, 2), with_image[1], pack_of([text_sample(rng, 5)], 24, 3)]


def equal_lengths() -> list[Pack]:
    """Packs of segments as long as each other, and one that is a single segment."""
    rng = np.random.default_rng(6)
    packs = [pack_of([text_sample(rng, 8) for _ in range(3)], 24, index) for index in range(3)]
    return [*packs, pack_of([text_sample(rng, 24)], 24, 3)]


def short_segments() -> list[Pack]:
    """Segments of fewer tokens than a short convolution sees, and one that is longer than a chunk of the delta rule."""
    rng = np.random.default_rng(8)
    short = [pack_of([text_sample(rng, length) for length in (1, 2, 3, 1, 9)], 80, index) for index in range(3)]
    return [*short, pack_of([text_sample(rng, 72), image_sample(rng, (2, 4), 3)], 80, 3)]


PACKS = {
    "mixed": mixed_packs(4, 24),
    "text-only ranks": text_only_on_some_ranks(),
    "equal lengths": equal_lengths(),
    "short segments": short_segments(),
}


@pytest.mark.parametrize("packs", ["mixed", "text-only ranks", "equal lengths"])
@pytest.mark.parametrize("sizes", [Sizes(shard=2), Sizes(shard=4), Sizes(replicate=2, shard=2)], ids=str)
def test_sharded_data_parallel(pool: Pool, packs: str, sizes: Sizes) -> None:
    assert_same_step(pool, Case(PACKS[packs]), sizes)


@pytest.mark.parametrize("weights", ["sample", "square_root"])
def test_every_weighting_of_the_loss(pool: Pool, weights: str) -> None:
    case = Case(text_only_on_some_ranks(), layout={"loss_weight": weights})
    assert_same_step(pool, case, Sizes(shard=2))


CASES: dict[str, dict[str, Any]] = {
    "accumulated": {"micro_batch": 1},
    "micro-batches": {"micro_batch": 2},
    "checkpointed": {"settings": {"activation_checkpointing": True}},
    "only the projector": {"train": ("projector.*",)},
    "tied embeddings": {"decoder": {"tie_word_embeddings": True}},
}


@pytest.mark.parametrize("changes", CASES)
def test_ways_of_carrying_a_step_out(pool: Pool, changes: str) -> None:
    case = Case(mixed_packs(8, 24), **CASES[changes])
    assert_same_step(pool, case, Sizes(replicate=2, shard=2))


MOE = {
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "num_shared_experts": 1,
    "dense_layers": (0,),
    "scoring": "sigmoid",
    "balance_speed": 1e-3,
}
LATENT = {"q_lora_rank": 12, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
AUXILIARY = {**MOE, "scoring": "softmax", "balance_speed": None, "num_shared_experts": 0, "aux_loss_coef": 0.1}
DECODERS: dict[str, dict[str, Any]] = {
    "dense": {},
    "experts": {"moe": MOE},
    "auxiliary loss": {"moe": AUXILIARY},
    "experts, latent attention": {"moe": MOE, "latent": LATENT, "qkv_bias": False, "qk_norm": False},
}
DIVIDED = [
    ("dense", Sizes(context=2)),
    ("dense", Sizes(context=4)),
    ("dense", Sizes(tensor=2)),
    ("dense", Sizes(context=2, tensor=2)),
    ("dense", Sizes(shard=2, context=2)),
    ("dense", Sizes(shard=2, tensor=2)),
    ("dense", Sizes(replicate=2, context=2)),
    ("experts", Sizes(shard=2)),
    ("experts", Sizes(shard=2, expert=2)),
    ("experts", Sizes(shard=4, expert=2)),
    ("experts", Sizes(shard=4, expert=4)),
    ("experts", Sizes(replicate=2, shard=2, expert=2)),
    ("experts", Sizes(context=2, expert=2)),
    ("experts", Sizes(tensor=2, expert=2)),
    ("auxiliary loss", Sizes(shard=2)),
    ("auxiliary loss", Sizes(context=2, tensor=2, expert=2)),
    ("experts, latent attention", Sizes(context=2, tensor=2, expert=4)),
    ("experts, latent attention", Sizes(shard=2, context=2, tensor=2, expert=4)),
]


@pytest.mark.parametrize(("decoder", "sizes"), DIVIDED, ids=str)
def test_every_dimension_and_the_pairs(pool: Pool, decoder: str, sizes: Sizes) -> None:
    case = Case(mixed_packs(4, 24), decoder=DECODERS[decoder])
    assert_same_step(pool, case, sizes)


@pytest.mark.parametrize("packs", ["mixed", "text-only ranks"])
@pytest.mark.parametrize(
    ("decoder", "sizes"),
    [
        ("dense", Sizes(shard=4)),
        ("dense", Sizes(context=2, tensor=2)),
        ("auxiliary loss", Sizes(context=2, tensor=2, expert=2)),
    ],
    ids=str,
)
def test_features_of_inner_layers_travel_to_their_tokens_too(
    pool: Pool, packs: str, decoder: str, sizes: Sizes
) -> None:
    """Qwen3-VL: DeepStack, interpolated positions, interleaved rotary positions on three axes."""
    interleaved = {"mrope_section": (2, 1, 1), "mrope_interleaved": True}
    case = Case(
        PACKS[packs],
        decoder=DECODERS[decoder] | interleaved,
        vision=QWEN3_VISION,
        layout={"position_axes": 3},
        micro_batch=4 if decoder == "auxiliary loss" else 1,
    )
    assert_same_step(pool, case, sizes)


@pytest.mark.parametrize(
    ("experts", "packs", "sizes"),
    [
        (False, "short segments", Sizes(shard=2)),
        (False, "short segments", Sizes(tensor=2)),
        (False, "short segments", Sizes(context=2)),
        (False, "short segments", Sizes(context=4)),
        (False, "mixed", Sizes(context=2, tensor=2)),
        (False, "mixed", Sizes(shard=2, tensor=2)),
        (True, "mixed", Sizes(shard=2, expert=2)),
        (True, "short segments", Sizes(tensor=2, expert=2)),
        (True, "short segments", Sizes(shard=2, context=2, expert=2)),
    ],
    ids=str,
)
def test_layers_that_remember(pool: Pool, experts: bool, packs: str, sizes: Sizes) -> None:
    """Qwen3.5, dense and with a shared expert; less sharp, for what `test_no_leak` says of it."""
    # Four key heads, for four ranks to share.
    delta = QWEN3_5["delta"] | {"num_key_heads": 4, "num_value_heads": 8}
    decoder = QWEN3_5 | {"delta": delta} | ({"moe": SHARED_EXPERT} if experts else {})
    assert_same_step(pool, Case(PACKS[packs], decoder=decoder, layout={"position_axes": 3}, factor=3), sizes)


@pytest.mark.parametrize("sizes", [Sizes(shard=2, expert=2), Sizes(tensor=2, expert=2)], ids=str)
def test_experts_without_tokens(pool: Pool, sizes: Sizes) -> None:
    """Five real tokens a pack go to two experts each: of 32, some are chosen by none."""
    rng = np.random.default_rng(7)
    packs = [pack_of([text_sample(rng, 5)], 24, index) for index in range(2)]
    case = Case(packs, decoder={"moe": {**MOE, "num_experts": 32}})
    _, expected = in_one_process(case)
    stacked = [gradient for gradient in expected.values() if gradient.ndim == EXPERT_DIMENSIONS]
    assert any(bool((gradient.flatten(1) == 0).all(1).any()) for gradient in stacked)
    assert_same_step(pool, case, sizes)


@pytest.mark.parametrize("decoder", ["experts", "remembering"])
def test_weights_used_in_bfloat16_are_close(pool: Pool, decoder: str) -> None:
    """Kept and summed in float32; a step of bfloat16 is 2⁻⁸."""
    layout = {"position_axes": 3 if decoder == "remembering" else 1}
    chosen = QWEN3_5 if decoder == "remembering" else DECODERS[decoder]
    case = Case(mixed_packs(4, 24), decoder=chosen, layout=layout, settings={"precision": "bfloat16"})
    loss, gradients = pool.run(2, on_a_mesh, case, Sizes(shard=2))
    expected_loss, expected = in_one_process(case)
    assert loss == pytest.approx(expected_loss, rel=2e-2)
    assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
    assert gradients.keys() == expected.keys()


@pytest.mark.parametrize("packs", ["text-only ranks", "equal lengths"])
@pytest.mark.parametrize("sizes", [Sizes(context=2, tensor=2), Sizes(shard=2, context=2, expert=2)], ids=str)
def test_what_ranks_that_share_packs_may_meet(pool: Pool, packs: str, sizes: Sizes) -> None:
    assert_same_step(pool, Case(PACKS[packs], decoder=DECODERS["experts"]), sizes)
