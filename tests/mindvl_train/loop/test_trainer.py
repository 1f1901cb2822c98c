"""The step: losses that do not depend on how it is cut, and what becomes of one that is no number."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from mindvl_train.loop import trainer
from mindvl_train.loop.run import HoldoutError
from mindvl_train.loop.trainer import NonFiniteError
from tests.mindvl_train.short_runs import losses_of, records_of, run_of
from tests.mindvl_train.synthetic import (
    MOE,
    TINY_MODEL,
    mixed_packs,
    pack_of,
    text_sample,
    write_data_set,
    write_run,
)

STEPS = 12  # 2 epochs of 7 packs two at a time, then 2 epochs of 6 packs three at a time


@pytest.fixture(scope="module")
def run_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("loss_weight", ["token", "sample", "square_root"])
def test_a_step_is_the_same_however_it_is_cut_into_micro_batches(
    run_yaml: Path, tmp_path: Path, loss_weight: str
) -> None:
    for micro_batch in (1, 2, 3, 6):
        stage = ["stages.everything.global_batch=6", f"stages.everything.micro_batch={micro_batch}"]
        stage += ["stages.everything.until={packs: 24}", f"loss_weight={loss_weight}"]
        run_of(run_yaml, tmp_path / str(micro_batch), *stage)
    whole = losses_of(tmp_path / "6")
    for micro_batch in (1, 2, 3):
        assert losses_of(tmp_path / str(micro_batch)) == pytest.approx(whole, rel=1e-5)


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_packs(run_yaml: Path, tmp_path: Path) -> None:
    where = r"everything: .* on packs \d, \d, \d of .*second/manifest.json, samples [0-9a-f]{32}, "
    with pytest.raises(NonFiniteError, match=where):
        run_of(run_yaml, tmp_path, "stages.everything.lr={'*': 1e30}")


def test_such_a_step_is_left_out_and_counted_where_the_rule_says_so(
    run_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, calls = trainer.clip_gradients, iter(range(100))

    def no_number_at_the_third(parameters: Sequence[torch.Tensor], limit: float) -> float:
        norm = clip(parameters, limit)
        return math.nan if next(calls) == 2 else norm

    monkeypatch.setattr(trainer, "clip_gradients", no_number_at_the_third)
    run_of(run_yaml, tmp_path, "non_finite.action=skip")
    records = records_of(tmp_path)
    (skipped,) = [record for record in records if record["event"] == "skipped"]
    assert skipped["step"] == 3
    assert "the gradient's norm is nan on packs" in skipped["why"]
    assert [record["skipped"] for record in records if record["event"] == "step"] == [0, 0, *[1] * (STEPS - 2)]


def test_a_step_that_is_left_out_moves_nothing(run_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bias that balances experts neither, which no gradient moves."""
    monkeypatch.setattr(trainer, "clip_gradients", lambda parameters, limit: math.nan)
    model = {"name": "vlm", "config": TINY_MODEL | {"decoder": TINY_MODEL["decoder"] | {"moe": MOE}}}
    rule = "non_finite={action: skip, at_most: 100}"
    result = run_of(run_yaml, tmp_path, rule, f"model={json.dumps(model)}")
    assert [stage.moved for stage in result.stages] == [{}, {}]


def test_a_run_leaves_out_no_more_steps_than_it_may(run_yaml: Path, tmp_path: Path) -> None:
    rule = ["non_finite={action: skip, at_most: 1}", "stages.warmup.until={packs: 1}"]
    with pytest.raises(NonFiniteError):
        run_of(run_yaml, tmp_path, *rule, "stages.everything.lr={'*': 1e30}", "stages.everything.until={packs: 12}")
    assert [record["event"] for record in records_of(tmp_path)].count("skipped") == 1


def test_steps_without_a_target_and_parts_without_a_gradient_are_named_and_move_nothing(tmp_path: Path) -> None:
    """Text alone, with decay; the third of four packs has no loss."""
    run_yaml = write_run(tmp_path, holdout=None)
    rng = np.random.default_rng(0)
    packs = [pack_of([text_sample(rng, 24)], 0, index) for index in range(4)]
    packs[2] = packs[2].without_loss()
    write_data_set(tmp_path / "data" / "text", packs)
    sets = ["stages.warmup.until={packs: 1}", "stages.everything.manifest=text/manifest.json"]
    sets += ["stages.everything.until={packs: 4}", "stages.everything.global_batch=1"]
    sets += ["stages.everything.micro_batch=1", "optimizer.weight_decay=0.1"]
    result = run_of(run_yaml, tmp_path / "run", *sets)
    records = records_of(tmp_path / "run")
    (skipped,) = [record for record in records if record["event"] == "skipped"]
    assert "nothing to learn on packs 2 of" in skipped["why"]
    assert [record["loss"] is None for record in records if record["event"] == "step"][1:] == [
        False,
        False,
        True,
        False,
    ]
    assert result.stages[1].unreached == {"vision": 25, "projector": 5}
    assert set(result.stages[1].moved) == {"decoder"}


def test_a_held_out_set_without_a_target_is_refused(run_yaml: Path, tmp_path: Path) -> None:
    write_data_set(tmp_path / "never", [pack.without_loss() for pack in mixed_packs(2, 24)])
    with pytest.raises(HoldoutError, match=r"no token of .*never.* has a loss"):
        run_of(run_yaml, tmp_path / "run", f"holdout={tmp_path}/never/manifest.json")


def test_a_run_that_stopped_on_no_number_goes_on_once_it_may_skip(
    run_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, calls = trainer.clip_gradients, iter(range(100))
    broken = {2, 3}

    def no_number(parameters: Sequence[torch.Tensor], limit: float) -> float:
        norm = clip(parameters, limit)
        return math.nan if next(calls) in broken else norm

    monkeypatch.setattr(trainer, "clip_gradients", no_number)
    with pytest.raises(NonFiniteError, match=r"[Tt]he same command goes on with non_finite.action: skip"):
        run_of(run_yaml, tmp_path)
    assert not run_of(run_yaml, tmp_path, "non_finite.action=skip").already_finished
