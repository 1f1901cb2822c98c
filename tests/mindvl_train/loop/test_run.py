"""Runs: their stages, what may change between two starts, and that they go on bit for bit."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from mindvl_data.manifest import read_manifest
from mindvl_train.config.loading import load_config
from mindvl_train.config.run_folder import RunFolderError, held
from mindvl_train.loop.tokenizer_fit import FitError
from mindvl_train.weights.saved import open_saved
from tests.mindvl_train.short_runs import Stop, StopAt, losses_of, records_of, run_of
from tests.mindvl_train.synthetic import write_run


@pytest.fixture(scope="module")
def run_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def undisturbed(run_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    run_of(run_yaml, out)
    return out


STEPS = 12  # 2 epochs of 7 packs two at a time, then 2 epochs of 6 packs three at a time


def test_a_run_is_its_stages(undisturbed: Path) -> None:
    events = [(record["event"], record["step"]) for record in records_of(undisturbed)]
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
        run_of(run_yaml, tmp_path, stop=StopAt(event, step))
    run_of(run_yaml, tmp_path)
    assert records_of(tmp_path) == records_of(undisturbed)
    last = "checkpoints/step-00000012-everything/weights"
    ended, expected = open_saved(tmp_path / last), open_saved(undisturbed / last)
    assert all(torch.equal(ended[name], expected[name]) for name in expected)


def test_a_finished_run_does_nothing(run_yaml: Path, undisturbed: Path) -> None:
    before = (undisturbed / "metrics.jsonl").read_bytes()
    result = run_of(run_yaml, undisturbed)
    assert result.already_finished
    assert [stage.name for stage in result.stages] == ["warmup", "everything"]
    assert (undisturbed / "metrics.jsonl").read_bytes() == before


def test_a_second_process_on_a_run_says_so(run_yaml: Path, tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(RunFolderError, match="another run is at work there"):
        run_of(run_yaml, tmp_path)


def test_how_a_run_is_carried_out_may_change(run_yaml: Path, undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        run_of(run_yaml, tmp_path, stop=StopAt("step", 5))
    run_of(run_yaml, tmp_path, "loader.workers=3", "checkpoint.every_steps=1", "loader.ahead=7")
    found, expected = ([r for r in records_of(out) if r["event"] != "answers"] for out in (tmp_path, undisturbed))
    assert found == expected
    # They are given at every checkpoint, of which there are more now.
    asked = [record["step"] for record in records_of(tmp_path) if record["event"] == "answers"]
    assert asked == [0, 2, *range(4, 13)]


@pytest.mark.slow
def test_processes_may_decode(run_yaml: Path, undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        run_of(run_yaml, tmp_path, "loader.kind=processes", "holdout=null", stop=StopAt("step", 2))
    assert losses_of(tmp_path) == losses_of(undisturbed)[:2]


def test_what_a_run_computes_may_not(run_yaml: Path, undisturbed: Path) -> None:
    with pytest.raises(RunFolderError) as caught:
        run_of(run_yaml, undisturbed, "stages.everything.lr={'*': 1}", "seed=12")
    message = str(caught.value)
    assert "seed: was 11, is now 12" in message
    assert "stages.everything.lr.*: was 0.003, is now 1.0" in message
    assert "stages.everything.lr.vision.*: was 0.001, is now null" in message
    assert "another --out" in message


def test_the_order_of_globs_counts(run_yaml: Path, undisturbed: Path) -> None:
    with pytest.raises(RunFolderError, match=r"stages.everything.lr: its keys stand in another order"):
        run_of(run_yaml, undisturbed, "stages.everything.lr={'*': 3e-3, 'vision.*': 1e-3}")


def test_the_warmup_moves_the_projector_and_keeps_every_other_byte(run_yaml: Path, tmp_path: Path) -> None:
    result = run_of(run_yaml, tmp_path)
    assert result.stages[0].moved == {"projector": 5}
    assert result.stages[0].unchanged == {"vision": 25, "decoder": 31}
    assert set(result.stages[1].moved) == {"vision", "projector", "decoder"}


def test_seeds_and_names_decide_the_first_weights(run_yaml: Path, undisturbed: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)
    run_of(run_yaml, tmp_path / "same", "stages.everything.until={packs: 1}", "stages.warmup.until={packs: 1}")
    run_of(run_yaml, tmp_path / "other", "seed=12", "stages.warmup.until={packs: 1}")
    assert losses_of(tmp_path / "same", "evaluation")[0] == losses_of(undisturbed, "evaluation")[0]
    assert losses_of(tmp_path / "other", "evaluation")[0] != losses_of(undisturbed, "evaluation")[0]


def test_no_state_of_torch_is_touched(run_yaml: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    run_of(run_yaml, tmp_path, "stages.everything.until={packs: 1}", "stages.warmup.until={packs: 1}")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_without_a_held_out_set(run_yaml: Path, tmp_path: Path) -> None:
    result = run_of(run_yaml, tmp_path, "holdout=null", "stages.everything.until={packs: 1}")
    assert [stage.holdout_after for stage in result.stages] == [None, None]
    assert all(math.isfinite(stage.last_loss) for stage in result.stages)


def test_a_manifest_that_does_not_fit_leaves_no_run_behind(run_yaml: Path, tmp_path: Path) -> None:
    model = yaml.safe_load(run_yaml.read_text())["model"]
    model["config"]["decoder"]["vocab_size"] = 8
    with pytest.raises(FitError, match="its tokenizer has 50 tokens, the model's vocab_size is 8"):
        run_of(run_yaml, tmp_path / "run", f"model={json.dumps(model)}")
    assert not (tmp_path / "run").exists()


def test_a_training_run_learns(run_yaml: Path, tmp_path: Path) -> None:
    """Made-up tokens can only be learnt by heart: so it repeats a few packs often."""
    result = run_of(run_yaml, tmp_path, "stages.everything.until={epochs: 20}", "stages.everything.lr={'*': 1e-2}")
    assert result.stages[1].last_loss < 0.8 * result.stages[1].first_loss


def test_a_finished_run_is_given_a_further_stage_and_no_other_change(
    run_yaml: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    more = 'stages.more={manifest: %s, lr: {"*": 1e-3}, until: {steps: 2}, global_batch: 3}'
    manifest = str(load_config(run_yaml).config.trained_stages["everything"].manifest)
    with pytest.raises(RunFolderError, match="write a further stage behind the last"):
        run_of(run_yaml, out, "stages.everything.until={epochs: 9}")
    result = run_of(run_yaml, out, more % manifest)
    assert not result.already_finished
    assert [stage.name for stage in result.stages] == ["warmup", "everything", "more"]
    events = [(r["event"], r["step"]) for r in records_of(out)]
    before = [(r["event"], r["step"]) for r in records_of(undisturbed)]
    assert events[: len(before)] == before
    assert [step for event, step in events if event == "step"] == list(range(1, STEPS + 3))
    # Now it stands in the run, and may not change.
    with pytest.raises(RunFolderError, match=r"stages\.more"):
        run_of(run_yaml, out, (more % manifest).replace("1e-3", "2e-3"))


def test_a_stage_that_has_not_begun_may_change(run_yaml: Path, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        run_of(run_yaml, tmp_path, stop=StopAt("step", 3))
    with pytest.raises(RunFolderError, match=r"stages\.warmup\.global_batch"):
        run_of(run_yaml, tmp_path, "stages.warmup.global_batch=1")
    result = run_of(run_yaml, tmp_path, "stages.everything.until={steps: 3}")
    assert [stage.steps for stage in result.stages] == [8, 3]


def test_a_preset_with_changes_fits_itself_to_the_set(run_yaml: Path, tmp_path: Path) -> None:
    model = "model={preset: tiny, decoder: {vocab_size: auto, num_hidden_layers: 1}, vision: {patch_size: auto}}"
    run_of(run_yaml, tmp_path, model, "stages.warmup.until={steps: 1}", "stages.everything.until={steps: 1}")
    config = json.loads((tmp_path / "run.json").read_text())["model"]["config"]
    assert config["decoder"]["num_hidden_layers"] == 1
    manifest = read_manifest(run_yaml.parent / "data" / "first")
    assert config["decoder"]["vocab_size"] >= manifest.tokenizer["vocab_size"]
    assert "auto" not in str(config)
