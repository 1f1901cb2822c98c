"""The command line: one message an error, nothing but JSON with --json, a frozen set of options."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mindvl_train.cli import app
from tests.mindvl_train.synthetic import write_run

SHARD = "shard-00001-model-00001-of-00001.safetensors"
QUICK = ["--set", "stages.warmup.until={packs: 2}", "--set", "stages.everything.until={packs: 3}"]


@pytest.fixture(scope="module")
def run_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


OPTIONS = {
    "run": {"train_yaml", "--set", "--out", "--json", "--debug"},
    "plan": {"train_yaml", "--set", "--ranks", "--memory", "--json", "--debug"},
    "sweep": {"train_yaml", "--mixtures", "--set", "--out", "--json", "--debug"},
    "average": {"folders", "--out", "--weights", "--json", "--debug"},
    "report": {"folder", "--out", "--tokenizer", "--debug"},
    "schema": {"--reference"},
    "import": {"folder", "--out", "--vision", "--seed", "--dtype", "--json", "--debug"},
    "export": {"folder", "--out", "--dtype", "--tokenizer", "--json", "--debug"},
    "evaluate": {"source", "manifest", "--media-root", "--allow", "--accelerator", "--json", "--debug"},
    "generate": {"source", "prompt", "--image", "--video", "--tokenizer", "--limit", "--accelerator", "--debug"},
    "resolve": {
        *("source", "--eval", "--min-pixels", "--max-pixels", "--generate"),
        *("--plot", "--write", "--accelerator", "--json", "--debug"),
        "--media-root",
        "--allow",
    },
}


def test_the_options_are_these_and_no_others() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert {
        name: {option for parameter in command.params for option in parameter.opts}
        for name, command in commands.items()
    } == OPTIONS


def test_a_run_says_what_it_did(run_yaml: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["run", str(run_yaml), "--out", str(tmp_path), *QUICK])
    assert result.exit_code == 0, result.output
    for part in (
        "held-out loss before the first stage",
        "tokens/s",
        "loss tokens/s",
        "padding",
        "lr vision.* 1.00e-03 * 3.00e-03",
        "warmup: projector (5 tensors) moved; vision (25 tensors), decoder (31 tensors) unchanged",
        "nothing is pretrained here: vision and decoder stood as drawn, so little falls",
        "step-00000002-everything",
    ):
        assert part in result.output
    assert not re.search(r"\x1b\[", result.output), "colours in a pipe"


def test_json_is_all_that_is_printed(run_yaml: Path, tmp_path: Path) -> None:
    arguments = ["run", str(run_yaml), "--out", str(tmp_path), "--json", *QUICK]
    result = CliRunner().invoke(app, arguments)
    summary = json.loads(result.stdout)
    assert [stage["name"] for stage in summary["stages"]] == ["warmup", "everything"]
    assert not summary["already_finished"]
    assert json.loads(CliRunner().invoke(app, arguments).stdout)["already_finished"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.warmup.lrr=1", "unknown key; did you mean 'lr'?"),
        ("data=/nowhere", "stages.warmup.manifest: /nowhere/first/manifest.json does not exist; build it with"),
        ("model.name=vml", "did you mean 'vlm'?"),
        ("model.config.decoder.vocab_sise=1", "model.config.decoder.vocab_sise: unknown key"),
        (
            "stages.warmup.schedule.name=linear",
            "schedules plugin is called 'linear'; there are: constant, cosine, wsd",
        ),
    ],
)
def test_an_error_is_one_message_and_exit_code_2(run_yaml: Path, tmp_path: Path, override: str, message: str) -> None:
    result = CliRunner().invoke(app, ["run", str(run_yaml), "--out", str(tmp_path / "run"), "--set", override])
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_debug_shows_the_traceback(run_yaml: Path) -> None:
    result = CliRunner().invoke(app, ["run", str(run_yaml), "--set", "data=/nowhere", "--debug"])
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert "MissingManifestError" in result.stderr


def test_a_shard_that_was_altered_is_named(tmp_path: Path) -> None:
    run_yaml = write_run(tmp_path)
    shard = tmp_path / "data" / "first" / "shard-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-8] + b"tampered")
    result = CliRunner().invoke(app, ["run", str(run_yaml), "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "shard-00000.arrow: altered" in result.stderr


def test_a_damaged_checkpoint_is_named(run_yaml: Path, tmp_path: Path) -> None:
    arguments = ["run", str(run_yaml), "--out", str(tmp_path), *QUICK]
    CliRunner().invoke(app, arguments)
    weights = tmp_path / "checkpoints" / "step-00000002-everything" / "weights" / SHARD
    weights.write_bytes(weights.read_bytes()[:-4])
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert f"weights/{SHARD} was altered after it was written" in result.stderr


def test_the_trainer_imports_neither_polars_nor_a_step_of_the_engine() -> None:
    code = "import sys, mindvl_train.loop.run, mindvl_train.cli; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    steps = {f"mindvl_data.{step}" for step in ("recipe", "scan", "filters", "count", "mix", "pack", "write", "build")}
    assert not steps & set(modules)
    assert "polars" not in modules
