"""The loop: losses that do not depend on how a step is cut, freezing, and runs that go on bit for bit."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mindvl_train import trainer
from mindvl_train.config_file import load_config
from mindvl_train.metrics import Record, read_records
from mindvl_train.run_folder import RunFolderError, held
from mindvl_train.saved_weights import open_saved
from mindvl_train.tokenizer_fit import FitError
from mindvl_train.trainer import NonFiniteError, Result, train
from tests.mindvl_train.synthetic import write_run

TIMINGS = ("seconds", "wait_seconds", "tokens_per_second", "loss_tokens_per_second", "memory_gib", "tflops_per_second")


class Stop(Exception):  # noqa: N818 -- no error: it stands for a process that is gone
    """Thrown out of the loop at a chosen record."""


class StopAt:
    """A logger that ends the run right after the record of one step was logged."""

    def __init__(self, event: str, step: int) -> None:
        self.event, self.step = event, step

    def begin(self, step: int, total_tokens: int, done_tokens: int) -> None:
        pass

    def log(self, record: Record) -> None:
        if (record["event"], record["step"]) == (self.event, self.step):
            raise Stop

    def close(self) -> None:
        pass


def _train(path: Path, out: Path, *overrides: str, stop: StopAt | None = None) -> Result:
    return train(load_config(path, overrides), str(path), out, [stop] if stop else [])


def _records(out: Path) -> list[dict[str, Any]]:
    records = read_records(out / "metrics.jsonl")
    return [{key: value for key, value in record.items() if key not in TIMINGS} for record in records]


def _losses(out: Path, event: str = "step") -> list[float]:
    return [record["loss"] for record in _records(out) if record["event"] == event]


@pytest.fixture(scope="module")
def run_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def undisturbed(run_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    _train(run_yaml, out)
    return out


STEPS = 12  # 2 epochs of 7 packs two at a time, then 2 epochs of 6 packs three at a time


def test_a_run_is_its_stages(undisturbed: Path) -> None:
    events = [(record["event"], record["step"]) for record in _records(undisturbed)]
    assert events[:2] == [("run", 0), ("evaluation", 0)]
    assert [step for event, step in events if event == "step"] == list(range(1, STEPS + 1))
    assert [step for event, step in events if event == "evaluation"] == [0, 8, 12]
    assert [step for event, step in events if event == "stage"] == [8, 12]
    names = {path.name for path in (undisturbed / "checkpoints").iterdir()}
    assert {"step-00000008-warmup", "step-00000012-everything"} <= names


@pytest.mark.parametrize(
    ("event", "step"),
    [*(("step", step) for step in range(1, STEPS + 1)), ("evaluation", 8), ("stage", 8), ("run", 0)],
)
def test_a_run_that_ends_anywhere_goes_on_bit_for_bit(
    run_yaml: Path, undisturbed: Path, tmp_path: Path, event: str, step: int
) -> None:
    with pytest.raises(Stop):
        _train(run_yaml, tmp_path, stop=StopAt(event, step))
    _train(run_yaml, tmp_path)
    assert _records(tmp_path) == _records(undisturbed)
    last = "checkpoints/step-00000012-everything/weights"
    ended, expected = open_saved(tmp_path / last), open_saved(undisturbed / last)
    assert all(torch.equal(ended[name], expected[name]) for name in expected)


def test_a_finished_run_does_nothing(run_yaml: Path, undisturbed: Path) -> None:
    before = (undisturbed / "metrics.jsonl").read_bytes()
    result = _train(run_yaml, undisturbed)
    assert result.already_finished
    assert [stage.name for stage in result.stages] == ["warmup", "everything"]
    assert (undisturbed / "metrics.jsonl").read_bytes() == before


def test_a_second_process_on_a_run_says_so(run_yaml: Path, tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(RunFolderError, match="another run is at work there"):
        _train(run_yaml, tmp_path)


def test_how_a_run_is_carried_out_may_change(run_yaml: Path, undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        _train(run_yaml, tmp_path, stop=StopAt("step", 5))
    _train(run_yaml, tmp_path, "loader.workers=3", "checkpoint.every_steps=1", "loader.ahead=7")
    assert _records(tmp_path) == _records(undisturbed)


def test_what_a_run_computes_may_not(run_yaml: Path, undisturbed: Path) -> None:
    with pytest.raises(RunFolderError) as caught:
        _train(run_yaml, undisturbed, "stages.everything.lr={'*': 1}", "seed=12")
    message = str(caught.value)
    assert "seed: was 11, is now 12" in message
    assert "stages.everything.lr.*: was 0.003, is now 1.0" in message
    assert "stages.everything.lr.vision.*: was 0.001, is now null" in message
    assert "another --out" in message


def test_the_order_of_globs_counts(run_yaml: Path, undisturbed: Path) -> None:
    with pytest.raises(RunFolderError, match=r"stages.everything.lr: its keys stand in another order"):
        _train(run_yaml, undisturbed, "stages.everything.lr={'*': 3e-3, 'vision.*': 1e-3}")


def test_the_warmup_moves_the_projector_and_keeps_every_other_byte(run_yaml: Path, tmp_path: Path) -> None:
    result = _train(run_yaml, tmp_path)
    assert result.stages[0].moved == {"projector": 5}
    assert result.stages[0].unchanged == {"vision": 25, "decoder": 31}
    assert set(result.stages[1].moved) == {"vision", "projector", "decoder"}


@pytest.mark.parametrize("loss_weight", ["token", "sample", "square_root"])
def test_a_step_is_the_same_however_it_is_cut_into_micro_batches(
    run_yaml: Path, tmp_path: Path, loss_weight: str
) -> None:
    for micro_batch in (1, 2, 3, 6):
        stage = ["stages.everything.global_batch=6", f"stages.everything.micro_batch={micro_batch}"]
        stage += ["stages.everything.until={packs: 24}", f"loss_weight={loss_weight}"]
        _train(run_yaml, tmp_path / str(micro_batch), *stage)
    whole = _losses(tmp_path / "6")
    for micro_batch in (1, 2, 3):
        assert _losses(tmp_path / str(micro_batch)) == pytest.approx(whole, rel=1e-5)


def test_seeds_and_names_decide_the_first_weights(run_yaml: Path, undisturbed: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)
    _train(run_yaml, tmp_path / "same", "stages.everything.until={packs: 1}", "stages.warmup.until={packs: 1}")
    _train(run_yaml, tmp_path / "other", "seed=12", "stages.warmup.until={packs: 1}")
    assert _losses(tmp_path / "same", "evaluation")[0] == _losses(undisturbed, "evaluation")[0]
    assert _losses(tmp_path / "other", "evaluation")[0] != _losses(undisturbed, "evaluation")[0]


def test_no_state_of_torch_is_touched(run_yaml: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    _train(run_yaml, tmp_path, "stages.everything.until={packs: 1}", "stages.warmup.until={packs: 1}")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_packs(run_yaml: Path, tmp_path: Path) -> None:
    where = r"everything: .* on packs \d, \d, \d of .*second/manifest.json, samples [0-9a-f]{32}, "
    with pytest.raises(NonFiniteError, match=where):
        _train(run_yaml, tmp_path, "stages.everything.lr={'*': 1e30}")


def test_such_a_step_is_left_out_and_counted_where_the_rule_says_so(
    run_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, calls = trainer.clip_gradients, iter(range(100))

    def no_number_at_the_third(parameters: Sequence[torch.Tensor], limit: float) -> float:
        norm = clip(parameters, limit)
        return math.nan if next(calls) == 2 else norm

    monkeypatch.setattr(trainer, "clip_gradients", no_number_at_the_third)
    _train(run_yaml, tmp_path, "non_finite.action=skip")
    records = _records(tmp_path)
    (skipped,) = [record for record in records if record["event"] == "skipped"]
    assert skipped["step"] == 3
    assert "the gradient's norm is nan on packs" in skipped["why"]
    assert [record["skipped"] for record in records if record["event"] == "step"] == [0, 0, *[1] * (STEPS - 2)]


def test_a_run_leaves_out_no_more_steps_than_it_may(run_yaml: Path, tmp_path: Path) -> None:
    rule = ["non_finite={action: skip, at_most: 1}", "stages.warmup.until={packs: 1}"]
    with pytest.raises(NonFiniteError):
        _train(run_yaml, tmp_path, *rule, "stages.everything.lr={'*': 1e30}", "stages.everything.until={packs: 12}")
    assert [record["event"] for record in _records(tmp_path)].count("skipped") == 1


def test_a_run_without_a_held_out_set(run_yaml: Path, tmp_path: Path) -> None:
    result = _train(run_yaml, tmp_path, "holdout=null", "stages.everything.until={packs: 1}")
    assert [stage.holdout_after for stage in result.stages] == [None, None]
    assert all(math.isfinite(stage.last_loss) for stage in result.stages)


def test_a_manifest_that_does_not_fit_leaves_no_run_behind(run_yaml: Path, tmp_path: Path) -> None:
    model = yaml.safe_load(run_yaml.read_text())["model"]
    model["config"]["decoder"]["vocab_size"] = 8
    with pytest.raises(FitError, match="its tokenizer has 50 tokens, the model embeds 8"):
        _train(run_yaml, tmp_path / "run", f"model={json.dumps(model)}")
    assert not (tmp_path / "run").exists()


def test_a_training_run_learns(run_yaml: Path, tmp_path: Path) -> None:
    """Made-up tokens can only be learnt by heart: so it repeats a few packs often."""
    result = _train(run_yaml, tmp_path, "stages.everything.until={epochs: 20}", "stages.everything.lr={'*': 1e-2}")
    assert result.stages[1].last_loss < 0.8 * result.stages[1].first_loss
