"""Averages, as the last stage of a run and of any checkpoints afterwards; branches that they are made of."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from mindvl_train.cli import app
from mindvl_train.config.loading import load_config
from mindvl_train.config.schema import ConfigError
from mindvl_train.loop.metrics import read_records
from mindvl_train.loop.run import Result, train
from mindvl_train.weights.imported import read_imported
from mindvl_train.weights.saved import SavedWeights, open_saved
from tests.mindvl_train.short_runs import Stop, StopAt
from tests.mindvl_train.synthetic import write_run


def write_tree(folder: Path) -> Path:
    """A warm-up, two branches from it at two sequence lengths, and their average."""
    path = write_run(folder)
    run: dict[str, Any] = yaml.safe_load(path.read_text())
    common = {"lr": {"*": 1e-2}, "until": {"packs": 6}, "global_batch": 2, "from": "warmup"}
    run["stages"] = {
        "warmup": run["stages"]["warmup"],
        "sft-24": {"manifest": "first/manifest.json", **common},
        "sft-32": {"manifest": "second/manifest.json", **common},
        "final": {"average": {"sft-24": 1, "sft-32": 3}},
    }
    path.write_text(yaml.safe_dump(run, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def grown(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("grown")
    _train(tree, out)
    return out


def _train(path: Path, out: Path, *overrides: str, stop: StopAt | None = None) -> Result:
    return train(load_config(path, overrides), str(path), out, [stop] if stop else [])


def _end(out: Path, stage: str) -> SavedWeights:
    (folder,) = (out / "checkpoints").glob(f"step-????????-{stage}")
    return open_saved(folder / "weights")


def test_a_branch_begins_where_its_parent_ended(tree: Path, grown: Path, tmp_path: Path) -> None:
    """The second branch alone has the losses that it has after the first."""
    run = yaml.safe_load(tree.read_text())
    run["stages"] = {name: run["stages"][name] for name in ("warmup", "sft-32")}
    alone = tmp_path / "alone.yaml"
    alone.write_text(yaml.safe_dump(run, sort_keys=False))
    _train(alone, tmp_path / "alone")
    losses = [
        [
            record["loss"]
            for record in read_records(out / "metrics.jsonl")
            if "loss" in record and record["stage"] == "sft-32"
        ]
        for out in (grown, tmp_path / "alone")
    ]
    assert losses[0] == losses[1]


def test_the_last_stage_is_the_mean_of_the_branches(grown: Path) -> None:
    short, long, final = (_end(grown, stage) for stage in ("sft-24", "sft-32", "final"))
    for name in final:
        torch.testing.assert_close(final[name], 0.25 * short[name] + 0.75 * long[name], rtol=1e-6, atol=1e-7)
    (folder,) = (grown / "checkpoints").glob("*-final")
    assert json.loads((folder / "state.json").read_text())["parents"] == {
        "step-00000011-sft-24": 1.0,
        "step-00000014-sft-32": 3.0,
    }
    assert [r["stage"] for r in read_records(grown / "metrics.jsonl") if r["event"] == "evaluation"][-1] == "final"


@pytest.mark.parametrize(("event", "step"), [("step", 10), ("stage", 11), ("step", 13), ("evaluation", 14)])
def test_the_tree_goes_on_anywhere(tree: Path, grown: Path, tmp_path: Path, event: str, step: int) -> None:
    with pytest.raises(Stop):
        _train(tree, tmp_path, stop=StopAt(event, step))
    _train(tree, tmp_path)
    final, expected = _end(tmp_path, "final"), _end(grown, "final")
    assert all(torch.equal(final[name], expected[name]) for name in expected)
    assert _train(tree, tmp_path).already_finished


def test_checkpoints_average_afterwards_into_a_model_folder(tree: Path, grown: Path, tmp_path: Path) -> None:
    ends = [str(next((grown / "checkpoints").glob(f"*-{stage}"))) for stage in ("sft-24", "sft-32")]
    arguments = ["average", *ends, "--weights", "1,3", "--out", str(tmp_path / "mean"), "--json"]
    said = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)
    assert [parent["share"] for parent in said["parents"]] == [0.25, 0.75]
    assert said["parents"] == json.loads((tmp_path / "mean" / "parents.json").read_text())
    mean, final = read_imported(tmp_path / "mean").tensors, _end(grown, "final")
    assert mean.keys() == final.keys()
    for name in final:
        torch.testing.assert_close(mean[name], final[name], rtol=1e-6, atol=1e-7)
    start = {"name": "vlm", "weights": str(tmp_path / "mean")}
    result = _train(tree, tmp_path / "next", f"model={json.dumps(start)}", "stages.warmup.until={packs: 2}")
    assert result.stages[0].steps == 1


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("1", "1 numbers for 2 checkpoints"),
        ("1,x", "could not convert string to float: 'x'"),
        ("1,-1", "every number must be positive"),
    ],
)
def test_shares_that_are_none(grown: Path, tmp_path: Path, weights: str, message: str) -> None:
    arguments = ["average", str(grown), str(grown), "--weights", weights, "--out", str(tmp_path / "mean")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "mean").exists()


def test_only_weights_of_one_model_average(grown: Path, tmp_path: Path) -> None:
    decoder = yaml.safe_load(write_run(tmp_path).read_text())["model"]["config"]["decoder"] | {"num_hidden_layers": 1}
    other = tmp_path / "other"
    quick = ["stages.warmup.until={packs: 1}", "stages.everything.until={packs: 1}"]
    path = tmp_path / "train.yaml"
    _train(path, other, f"model.config.decoder={json.dumps(decoder)}", *quick)
    result = CliRunner().invoke(app, ["average", str(grown), str(other), "--out", str(tmp_path / "mean")])
    assert result.exit_code == 2
    assert "holds another model than" in result.stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.sft-24.from=sft-32", "sft-24: there is no earlier stage 'sft-32'; earlier are warmup"),
        ("stages.final.average={}", "stages.final.average: Dictionary should have at least 1 item"),
        ("stages.final.average={sft: 1}", "final: there is no earlier stage 'sft'"),
        ("stages.final.lr=1", "stages.final.lr: unknown key; known keys: average"),
        ("stages.warmup.form=x", "stages.warmup.form: unknown key; did you mean 'from'?"),
        ("stages.more/less={average: {warmup: 1}}", "an average stands last"),
    ],
)
def test_a_tree_that_is_none(tree: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(tree, [override])
    assert message in str(caught.value)
