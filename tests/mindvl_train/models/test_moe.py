"""Experts: who is routed where, who counts, and how the balance moves."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from mindvl_data.shards import padding_pack
from mindvl_train.config.loading import load_config
from mindvl_train.data.batch import collate
from mindvl_train.loop.run import train
from mindvl_train.models.moe import MixtureOfExperts, MoEConfig, Router, auxiliary_loss, balance, begin_step
from mindvl_train.weights.saved import open_saved
from tests.mindvl_train.synthetic import LAYOUT, MOE, TINY_MODEL, mixed_packs, tiny_model, write_run


def _layer(model: torch.nn.Module) -> MixtureOfExperts:
    return next(module for module in model.modules() if isinstance(module, MixtureOfExperts))


def test_padding_reaches_no_expert_and_counts_in_no_balance() -> None:
    model = tiny_model(moe=MOE)
    (pack,) = mixed_packs(1, 24)
    batch = collate([pack], LAYOUT)
    assert pack.num_tokens < 24
    seen: list[int] = []
    _layer(model).experts.register_forward_hook(lambda module, given, output: seen.append(len(given[0])))
    model(batch)
    assert seen == [2 * pack.num_tokens]
    assert _layer(model).tokens_per_expert.sum() == 2 * pack.num_tokens


def test_what_padding_holds_changes_nothing() -> None:
    model = tiny_model(moe=MOE)
    (pack,) = mixed_packs(1, 24)
    batch = collate([pack], LAYOUT)
    other = replace(batch, ids=batch.ids.clone())
    other.ids[pack.num_tokens :] = 7
    assert model(batch).item() == model(other).item()


def test_an_evaluation_counts_in_no_balance() -> None:
    model = tiny_model(moe=MOE)
    with torch.no_grad():
        model(collate(mixed_packs(1, 24), LAYOUT))
    assert _layer(model).tokens_per_expert.sum() == 0


def test_the_bias_moves_towards_balance_and_by_zero_in_all() -> None:
    layer = _layer(tiny_model(moe=MOE))
    layer.tokens_per_expert.copy_(torch.tensor([10.0, 0, 4, 4, 4, 2]))
    bias = layer.gate.e_score_correction_bias
    assert bias is not None
    before = bias.clone()
    balance(layer)
    moves = 0.01 * torch.tensor([-1.0, 1, 0, 0, 0, 1])
    torch.testing.assert_close(bias - before, moves - moves.mean(), atol=1e-7, rtol=0)
    assert layer.tokens_per_expert.sum() == 0
    bias.requires_grad_(False)
    layer.tokens_per_expert[0] = 5
    balance(layer)
    torch.testing.assert_close(bias - before, moves - moves.mean(), atol=1e-7, rtol=0)


AUXILIARY = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "aux_loss_coef": 0.25}


def test_the_auxiliary_loss_is_transformers_over_real_tokens_of_all_layers() -> None:
    model = tiny_model(moe=AUXILIARY)
    pack, other = mixed_packs(2, 24)
    batch = collate([pack, other], LAYOUT)
    assert len(batch.real) < len(batch.ids)
    logits: list[torch.Tensor] = []
    for router in (module for module in model.modules() if isinstance(module, Router)):
        router.register_forward_hook(
            lambda router, given, output: logits.append(torch.nn.functional.linear(given[0], router.weight))
        )
    model.decoder(model.decoder.embed_tokens(batch.ids), batch.positions, batch.segments, batch.real)
    loss = auxiliary_loss(model)
    assert loss is not None
    # Ours see real tokens alone: transformers' mask is for the rest, which are whatever they are.
    assert len(logits) == 2
    expected = load_balancing_loss_func(tuple(logits), 6, 2)
    torch.testing.assert_close(loss, 0.25 * expected)
    every = [torch.randn(1, len(batch.ids), 6).index_copy(1, batch.real, layer[None]) for layer in logits]
    mask = torch.zeros(1, len(batch.ids)).index_fill(1, batch.real, 1)
    masked = load_balancing_loss_func(tuple(layer[0] for layer in every), 6, 2, mask)
    torch.testing.assert_close(loss, 0.25 * masked)
    assert auxiliary_loss(model) is None, "counted twice"


def test_the_auxiliary_loss_has_a_gradient_and_no_value_and_counts_like_the_targets() -> None:
    batch = collate(mixed_packs(2, 24), LAYOUT)
    plain, balanced = tiny_model(moe=AUXILIARY | {"aux_loss_coef": 0.0}), tiny_model(moe=AUXILIARY)
    losses = [model(batch) for model in (plain, balanced)]
    assert losses[0].item() == losses[1].item()
    for loss in losses:
        loss.backward()
    name = "decoder.layers.0.mlp.gate.weight"
    added = balanced.get_parameter(name).grad - plain.get_parameter(name).grad
    other = tiny_model(moe=AUXILIARY)
    other.logits(batch)
    alone = auxiliary_loss(other)
    assert alone is not None
    (batch.total_weight * alone).backward()
    torch.testing.assert_close(added, other.get_parameter(name).grad, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        balanced(batch)
    assert auxiliary_loss(balanced) is None, "an evaluation balances nothing"


def test_a_sigmoid_router_has_no_auxiliary_loss() -> None:
    with pytest.raises(ValueError, match="aux_loss_coef is of a softmax router"):
        MoEConfig(**MOE | {"aux_loss_coef": 0.1})


def test_experts_outside_the_best_groups_are_not_chosen() -> None:
    config = MoEConfig(**MOE | {"n_group": 3, "topk_group": 1, "num_experts_per_tok": 2})
    router = Router(config, 4)
    with torch.no_grad():
        router.weight.normal_(generator=torch.Generator().manual_seed(0))
        router.e_score_correction_bias.zero_()
        experts, weights = router(torch.randn(50, 4, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(experts[:, 0] // 2, experts[:, 1] // 2), "two groups for one token"
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(50))


def test_experts_without_tokens_have_gradients_of_zero() -> None:
    model = tiny_model(moe=MOE)
    layer = _layer(model)
    with torch.no_grad():
        layer.gate.e_score_correction_bias.copy_(torch.tensor([9.0, 9, 0, 0, 0, 0]))
    model(collate(mixed_packs(2, 24), LAYOUT)).backward()
    gradient = layer.experts.up_proj.grad
    assert gradient is not None
    assert gradient[:2].any()
    assert not gradient[2:].any()


@pytest.mark.parametrize("latent", [False, True])
def test_a_run_of_experts_goes_on_bit_for_bit_with_its_balance(tmp_path: Path, latent: bool) -> None:
    sizes = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 8}
    decoder = TINY_MODEL["decoder"] | {"moe": MOE} | ({"latent": sizes} if latent else {})
    path = write_run(tmp_path, model={"name": "vlm", "config": TINY_MODEL | {"decoder": decoder}})

    def run(name: str, packs: int) -> dict[str, torch.Tensor]:
        until = [f"stages.everything.until={{packs: {packs}}}", "stages.warmup.until={packs: 2}"]
        result = train(load_config(path, until), str(path), tmp_path / name)
        return dict(open_saved(result.checkpoint / "weights"))

    whole = run("whole", 9)
    # A run that ended after its second step, by taking the checkpoint of the end away.
    run("cut", 9)
    ended = tmp_path / "cut" / "checkpoints"
    for folder in sorted(ended.iterdir())[-1:]:
        shutil.rmtree(folder)
    again = run("cut", 9)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    (bias,) = (name for name in whole if name.endswith("e_score_correction_bias"))
    assert whole[bias].any(), "the balance never moved"


def test_a_pack_of_padding_changes_neither_the_loss_nor_the_balance() -> None:
    real, filler = mixed_packs(1, 24)[0], padding_pack(0, 24, 0)
    alone, filled = tiny_model(moe=MOE), tiny_model(moe=MOE)
    losses = [
        sum(model(collate([pack], LAYOUT)) for pack in packs)
        for model, packs in ((alone, [real]), (filled, [real, filler]))
    ]
    assert losses[0].item() == losses[1].item()
    losses[1].backward()
    assert torch.equal(_layer(alone).tokens_per_expert, _layer(filled).tokens_per_expert)


def test_what_a_step_that_was_left_out_counted_is_forgotten() -> None:
    model = tiny_model(moe=MOE)
    model(collate(mixed_packs(1, 24), LAYOUT))
    begin_step(model, [])
    assert _layer(model).tokens_per_expert.sum() == 0


def test_the_auxiliary_loss_of_micro_batches_adds_up_to_that_of_the_whole_batch() -> None:
    packs = mixed_packs(3, 24)
    whole = tiny_model(moe=AUXILIARY)
    whole.logits(collate(packs, LAYOUT))
    expected = auxiliary_loss(whole)
    cut = tiny_model(moe=AUXILIARY)
    batches = [collate([pack], LAYOUT) for pack in packs]
    with torch.no_grad():
        tokens_of = begin_step(cut, [partial(cut.logits, batch) for batch in batches])
    parts = []
    for batch in batches:
        cut.logits(batch)
        parts.append(auxiliary_loss(cut, tokens_of))
    torch.testing.assert_close(sum(parts), expected)
