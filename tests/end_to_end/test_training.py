"""The quickstart trained for a while: what falls, what moves, what goes on, and nothing leaks."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mindvl_data.pipeline import BuildReport, build
from mindvl_data.recipe import load_recipe
from mindvl_data.shards import Pack
from mindvl_data.stream import PackStream
from mindvl_train.config.loading import load_config
from mindvl_train.data.batch import BatchLayout, collate
from mindvl_train.kernels.registry import KernelConfig, resolve
from mindvl_train.loop.run import train as run_training
from mindvl_train.models.initialise import give_weights
from mindvl_train.models.vlm import VLM, VLMConfig
from tests.conftest import QUICKSTART
from tests.mindvl_train.synthetic import scale_up

pytestmark = pytest.mark.slow


# Of 40, 35, 41 and 20: as many as show that something is learnt.
PACKS = {"warmup": 8, "multitask": 20, "sft-2048": 4, "sft-4096": 4}


def train(data: Path, out: Path) -> dict[str, Any]:
    arguments = ["run", QUICKSTART / "train.yaml", "--set", f"data={data}", "--out", out, "--json"]
    for stage, packs in PACKS.items():
        arguments += ["--set", f"stages.{stage}.until={{packs: {packs}}}"]
    command = [sys.executable, "-m", "mindvl_train", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def stages(quickstart: BuildReport, out: Path) -> dict[str, Any]:
    """The summary of every stage of a whole run, by name."""
    return {stage["name"]: stage for stage in train(quickstart.out, out)["stages"]}


def test_the_loss_falls_in_multitask(stages: dict[str, Any]) -> None:
    assert stages["multitask"]["last_loss"] < 0.8 * stages["multitask"]["first_loss"]


def test_sft_leaves_less_loss_on_what_was_held_out(stages: dict[str, Any]) -> None:
    assert stages["sft-4096"]["holdout_after"] < stages["multitask"]["holdout_before"]


def test_the_warmup_moves_the_projector_and_keeps_every_other_byte(stages: dict[str, Any]) -> None:
    assert set(stages["warmup"]["moved"]) == {"projector"}
    assert set(stages["warmup"]["unchanged"]) == {"vision", "decoder"}


def test_a_second_start_finds_it_finished(quickstart: BuildReport, out: Path, stages: dict[str, Any]) -> None:
    again = train(quickstart.out, out)
    assert again["already_finished"]
    assert {stage["name"]: stage for stage in again["stages"]} == stages


def test_a_real_pack_leaks_nothing(quickstart: BuildReport) -> None:
    stream = PackStream(quickstart.out / "multitask-4096")
    pack = max(stream, key=lambda pack: (min(2, len(pack.images)), -pack.num_patches))
    layout = BatchLayout(14, 2, stream.manifest.tokenizer["special_ids"]["image_pad"])
    model = quickstart_model()
    with torch.no_grad():
        packed = model.logits(collate([pack], layout))
        for start, stop in pairwise(pack.cu_seqlens.tolist()):
            alone = model.logits(collate([cut(pack, start, stop)], layout))
            torch.testing.assert_close(packed[start:stop], alone, atol=1e-5, rtol=1e-5)


def quickstart_model() -> VLM:
    """The quickstart's own, sharpened so that a leak would show."""
    config = VLMConfig(**load_config(QUICKSTART / "train.yaml").config.model.config)
    with torch.device("meta"):
        model = VLM(config, resolve(KernelConfig(), "cpu"))
    give_weights(model, 7, torch.device("cpu"))
    return scale_up(model, 2)


def cut(pack: Pack, start: int, stop: int) -> Pack:
    """The segment of a pack from token `start` to `stop`, as a pack of its own."""
    images = (image for image in pack.images if start <= image.start < stop)
    return replace(
        pack,
        tokens=pack.tokens[start:stop],
        loss_mask=pack.loss_mask[start:stop],
        cu_seqlens=np.array([0, stop - start], np.int32),
        images=tuple(replace(image, start=image.start - start) for image in images),
    )


@pytest.mark.parametrize(("model", "packs", "share"), [("qwen3-vl", 12, 0.8), ("qwen3.5", 6, 0.9)])
def test_the_quickstarts_of_other_models_train(model: str, packs: int, share: float, tmp_path: Path) -> None:
    """Both over one set: they share patches and pixels."""
    build(load_recipe(QUICKSTART / "recipe-qwen3-vl.yaml"), tmp_path / "data")
    path = QUICKSTART / f"train-{model}.yaml"
    changes = [f"data={tmp_path / 'data'}", f"stages.multitask.until={{packs: {packs}}}"]
    result = run_training(load_config(path, changes), str(path), tmp_path / "run")
    (stage,) = result.stages
    assert stage.last_loss < share * stage.first_loss
    assert set(stage.moved) == {"vision", "projector", "decoder"}
