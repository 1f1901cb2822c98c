"""What a run would take, measured without memory."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from mindvl_data import vision
from mindvl_data.manifest import pack_at, packs_of, read_manifest
from mindvl_data.vision import Resolution
from mindvl_data.vision.resize import QWEN2_VL, QWEN3_VL
from mindvl_train import presets
from mindvl_train.accelerators import CPU
from mindvl_train.cli import app
from mindvl_train.config.loading import load_config
from mindvl_train.data.batch import collate
from mindvl_train.dtensor import local
from mindvl_train.kernels.registry import KernelConfig, resolve
from mindvl_train.loop.assembly import assemble
from mindvl_train.loop.optim import MOMENTS, build_optimizer, freeze_all_but
from mindvl_train.loop.run import train
from mindvl_train.models.initialise import give_weights
from mindvl_train.models.vlm import VLM, VLMConfig, complete
from mindvl_train.parallel.mesh import Sizes, build_mesh, joined
from mindvl_train.parallel.parallelise import parallelise
from mindvl_train.planning import plan
from mindvl_train.planning.plan import Plan, make_plan
from mindvl_train.presets import PresetError, read_preset
from tests.conftest import QUICKSTART
from tests.mindvl_train.synthetic import (
    MOE,
    SPECIAL_IDS,
    TINY_MODEL,
    mixed_packs,
    tiny_model,
    write_data_set,
    write_run,
)

SIZES = {
    "mindvl-671b-a37b": 671_721_323_008,
    "mindvl-8b": 8_869_907_456,
    "open-qwen2vl-2b": 2_209_776_640,
    # Those of the published models to the last parameter.
    "qwen3-vl-2b": 2_127_532_032,
    "qwen3-vl-4b": 4_437_815_808,
    "qwen3-vl-8b": 8_767_123_696,
    "qwen3-vl-32b": 33_357_390_064,
    "qwen3-vl-30b-a3b": 31_070_754_032,
    "qwen3-vl-235b-a22b": 235_670_022_896,
    "qwen3.5-0.8b": 852_985_920,
    "qwen3.5-2b": 2_213_241_664,
    "qwen3.5-4b": 4_539_265_536,
    "qwen3.5-9b": 9_409_813_744,
    "qwen3.5-27b": 27_356_728_560,
    "qwen3.5-35b-a3b": 35_107_181_936,
    "qwen3.5-122b-a10b": 122_562_817_776,
    "qwen3.5-397b-a17b": 396_802_360_816,
    "tiny": 1_558_800,
    "tiny-qwen3.5": 1_407_568,
    "tiny-qwen3-vl": 1_632_176,
    "tiny-moe": 2_138_816,
}


def _plan(path: Path, ranks: int = 1, *overrides: str) -> Plan:
    return make_plan(load_config(path, overrides), str(path), ranks)


def _sized(name: str) -> dict[str, Any]:
    """A preset, over the quickstart's vocabulary where it leaves that to the data."""
    preset = read_preset(name)
    return preset | {"decoder": {"vocab_size": 4096} | preset["decoder"]}


@pytest.mark.parametrize("name", presets.names())
def test_presets_are_models_of_their_size(name: str) -> None:
    with torch.device("meta"):
        model = VLM(VLMConfig(**_sized(name)), resolve(KernelConfig(), "cpu"))
    assert sum(parameter.numel() for parameter in model.parameters()) == SIZES[name]


def test_the_tiny_preset_is_the_quickstarts_model() -> None:
    assert _sized("tiny") == load_config(QUICKSTART / "train.yaml").config.model.config


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(PresetError, match=r"there is no 'mindvl-8'; did you mean 'mindvl-8b'"):
        read_preset("mindvl-8")


def test_a_preset_trains(tmp_path: Path) -> None:
    path = write_run(tmp_path, model={"name": "vlm", "preset": "tiny-moe"})
    until = [f"stages.{stage}.until={{packs: 2}}" for stage in ("warmup", "everything")]
    result = train(load_config(path, until), str(path), tmp_path / "run")
    assert set(result.stages[1].moved) == {"vision", "projector", "decoder"}


@pytest.mark.parametrize("rule", [QWEN2_VL, QWEN3_VL], ids=["patch 14", "patch 16"])
def test_a_tiny_preset_takes_vocabulary_and_patches_from_the_data(tmp_path: Path, rule: Resolution) -> None:
    stated = {"vocab_size": 151_669, "special_ids": SPECIAL_IDS | {"image_pad": 5}}
    manifest = write_data_set(tmp_path / "set", mixed_packs(1, 24), rule, **stated)
    config = VLMConfig(**complete(read_preset("tiny"), read_manifest(manifest)))
    assert config.decoder.vocab_size == 151_669
    assert (config.vision.patch_size, config.vision.mean) == (rule.patch, rule.normalisation.mean)
    # What is stated is not touched.
    stated_config = {"vision": {"patch_size": 14}, "decoder": {"vocab_size": 200_000}}
    kept = complete(stated_config, read_manifest(manifest))
    assert (kept["vision"]["patch_size"], kept["decoder"]["vocab_size"]) == (14, 200_000)


def test_what_trains_and_what_is_sharded(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    whole, shared = _plan(path), _plan(path, 4)
    parameters = sum(parameter.numel() for parameter in tiny_model().parameters())
    projector = sum(parameter.numel() for parameter in tiny_model().projector.parameters())
    assert (whole.parameters, whole.active) == (parameters, parameters)
    warmup, everything = whole.stages
    assert (warmup.trained, everything.trained) == (projector, parameters)
    assert (everything.weights, everything.gradients, everything.optimizer) == tuple(
        4 * parameters * n for n in (1, 1, 2)
    )
    assert shared.stages[1].optimizer == pytest.approx(everything.optimizer / 4, abs=8)
    assert shared.stages[1].activations == everything.activations
    # A frozen tower keeps nothing for gradients that nobody asks for.
    assert warmup.activations < everything.activations
    assert warmup.flops_per_token < everything.flops_per_token


def test_bfloat16_narrows_what_is_used_and_not_what_is_kept(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    wide, narrow = (_plan(path, 2, f"precision={precision}").stages[1] for precision in ("float32", "bfloat16"))
    assert (narrow.weights, narrow.gradients, narrow.optimizer) == (wide.weights, wide.gradients, wide.optimizer)
    assert narrow.gathered == wide.gathered / 2
    assert 0.5 * wide.activations < narrow.activations < 0.7 * wide.activations
    # Nothing is gathered by one rank alone, unless it has to be narrowed.
    assert _plan(path).stages[1].gathered == 0
    assert _plan(path, 1, "precision=bfloat16").stages[1].gathered == narrow.gathered


def test_checkpointed_blocks_and_a_chunked_loss_keep_less(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    kept = _plan(path).stages[1].activations
    assert _plan(path, 1, "activation_checkpointing=true").stages[1].activations < 0.7 * kept
    assert _plan(path, 1, "kernels={cross_entropy: chunked}").stages[1].activations < kept


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_rank_holds_what_was_planned(tmp_path: Path, precision: str) -> None:
    """The trainer's own parts, with weights: bytes of every piece after a step."""
    path = write_run(tmp_path)
    planned = _plan(path, 1, f"precision={precision}").stages[1]
    parts = assemble(load_config(path, [f"precision={precision}"]), str(path))
    with joined(CPU) as device:
        model = parallelise(parts.model, build_mesh(Sizes(), device), parts.config)
        give_weights(model, 1, device)
        config = parts.stages[1].config
        optimizer = build_optimizer(freeze_all_but(model, config.train), config.lr, parts.config.optimizer)
        model(collate(list(packs_of(parts.stages[1].manifest))[:3], parts.layout)).backward()
        optimizer.step()
        weights = list(model.parameters())
        state = [moments[name] for moments in optimizer.state.values() for name in MOMENTS]
        held = [_bytes(each) for each in (weights, [weight.grad for weight in weights], state)]
    assert held == [planned.weights, planned.gradients, planned.optimizer]


def _bytes(tensors: Sequence[torch.Tensor | None]) -> int:
    return sum(local(each).numel() * each.element_size() for each in tensors if each is not None)


def test_operations_are_three_times_two_a_parameter_and_token(tmp_path: Path) -> None:
    """Forward, and backward for inputs and weights: 6 a parameter that multiplies, besides attention."""
    wide = {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 56}
    decoder = TINY_MODEL["decoder"] | wide
    path = write_run(tmp_path, model={"name": "vlm", "config": TINY_MODEL | {"decoder": decoder}})
    stage = _plan(path).stages[1]
    layers = 2 * (256 * (32 + 2 * 16) + 32 * 256 + 3 * 256 * 512)
    assert stage.flops_per_token == pytest.approx(6 * layers, rel=0.1)


def test_the_costliest_pack_is_found_without_reading_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The most patches, then the dearest attention; shards that are not its own may be anything else."""
    read: list[int] = []
    monkeypatch.setattr(plan, "pack_at", lambda manifest, number: read.append(number) or pack_at(manifest, number))
    monkeypatch.setattr(vision, "decode", None)
    monkeypatch.setattr(vision, "uint8_patches", None)
    _plan(write_run(tmp_path))
    for number, name in zip(read, ("first", "second"), strict=True):
        packs = list(packs_of(read_manifest(tmp_path / "data" / name)))
        assert number == max(packs, key=lambda pack: (pack.num_patches, pack.attention_cost, -pack.index)).index


def test_a_token_meets_few_experts(tmp_path: Path) -> None:
    path = write_run(
        tmp_path, model={"name": "vlm", "config": TINY_MODEL | {"decoder": TINY_MODEL["decoder"] | {"moe": MOE}}}
    )
    found = _plan(path)
    expert = 3 * 24 * 8
    assert found.parameters - found.active == 4 * expert


def test_nothing_is_written_and_nothing_allocated_by_the_command(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(app, ["plan", str(path), "--ranks", "2", "--memory", "0.0001", "--json"])
    planned = json.loads(result.stdout)
    assert planned["ranks"] == 2
    assert not any(stage["fits"] for stage in planned["stages"])
    assert sorted(tmp_path.rglob("*")) == before
    text = CliRunner().invoke(app, ["plan", str(path)]).stdout
    assert "active for a token" in text
    assert "on each of 1 ranks of 64 GiB" in text
