"""The command line as a person or a script meets it: options, exit codes, messages."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from mindvl_data.cli import app
from mindvl_data.pipeline import BuildReport
from tests.conftest import QUICKSTART

# Adding an option is a decision: a recipe's key is the rule, an option the exception.
OPTIONS = {
    "build": [
        *["--address", "--debug", "--engine", "--help", "--json", "--no-report", "--out", "--rehash", "--set"],
        *["--workers", "RECIPE"],
    ],
    "check": ["--debug", "--help", "--json", "--out", "--set", "--workers", "RECIPE"],
    "diff": ["--debug", "--help", "--json", "--samples", "A", "B"],
    "init": ["--debug", "--help", "--out", "PATH…"],
    "explain": ["--debug", "--help", "--json", "--pack", "--token", "MANIFEST", "[SAMPLE]"],
    "export": [
        *["--allow", "--debug", "--help", "--json", "--media-root", "--packs", "--to", "DIR", "MANIFEST"],
    ],
    "gc": ["--debug", "--help", "--json", "--sets", "--yes", "BUILD"],
    "peek": ["--debug", "--help", "--json", "--samples", "PATH"],
    "plan": [
        *["--address", "--debug", "--engine", "--forecast", "--help", "--json", "--out", "--sample", "--set"],
        *["--workers", "RECIPE"],
    ],
    "report": ["--compare", "--debug", "--help", "--out", "BUILD"],
    "schema": ["--help", "--reference"],
    "show": ["--allow", "--debug", "--help", "--json", "--media-root", "--pack", "MANIFEST"],
    "verify": [
        *["--address", "--allow", "--debug", "--engine", "--help", "--json", "--media", "--media-root", "--workers"],
        *["MANIFEST"],
    ],
}


def run(*arguments: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mindvl_data", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ | env)


def test_the_options_are_these() -> None:
    command = get_command(app)
    assert hasattr(command, "commands")
    found = {}
    for name, sub in command.commands.items():
        context = sub.make_context(name, [], resilient_parsing=True)
        options = [p.opts[-1] if p.param_type_name == "option" else p.metavar for p in sub.get_params(context)]
        found[name] = sorted({option for option in options if option})
    assert found == OPTIONS


def failed(*arguments: object, code: int = 2, **env: str) -> str:
    """The one message of a command that must fail; nothing on standard output, no traceback. In this process."""
    result = CliRunner().invoke(app, [*map(str, arguments)], env=env)
    assert (result.exit_code, result.stdout) == (code, ""), result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


def test_what_is_wrong_with_a_recipe_is_said_in_one_message(recipe_folder: Path, tmp_path: Path) -> None:
    recipe, out = recipe_folder / "recipe.yaml", ("--out", tmp_path / "out")

    def fails(*overrides: str) -> str:
        flags = [flag for override in overrides for flag in ("--set", override)]
        return failed("build", recipe, *out, *flags)

    assert "none.yaml: no such recipe" in failed("build", tmp_path / "none.yaml")
    assert "did you mean 'stages'" in fails("stagse=1")
    assert "sources.text.path: data/none.jsonl: no such file" in fails("sources.text.path=data/none.jsonl")
    assert "sources.text.format: no mindvl_data.sources plugin is called 'mesages'; did you mean 'messages'" in fails(
        "sources.text.format=mesages"
    )
    assert "chat_template: there is no template" in fails("chat_template=none")
    assert "tokenizer" in fails("tokenizer=none.json")
    assert "filters.0.where: there is no column 'widht'" in fails("filters.0.where=widht > 3")
    assert "is no SQL expression" in fails("filters.0.where=width >")
    assert "not true or false" in fails("filters.0.where=width + 1")
    budget = fails("stages.warmup.budget.tokens=9_000_000")
    assert re.search(r"pass captions .* times, max_epochs is 4\. .* too few\. Add data", budget)
    assert "embed_limit" in fails("embed_limit=1000")
    assert "are longer than" in fails("stages.sft.overlong=error", "stages.sft.seq_len=512", "stages.sft.fit=each")


def test_a_rotten_source_stops_the_build_with_the_worst_reason_first(recipe_folder: Path, tmp_path: Path) -> None:
    for name in ("doc-000.png", "doc-001.png"):
        (recipe_folder / "data" / "documents" / "images" / name).write_bytes(b"no image")
    (recipe_folder / "data" / "documents" / "images" / "doc-002.png").unlink()
    message = failed("build", recipe_folder / "recipe.yaml", "--out", tmp_path / "out")
    assert "sources.documents: 3 of 40 samples are unusable, max_bad allows 1.00%" in message
    assert message.index("2 × unreadable_image") < message.index("1 × missing_image")
    assert "data/documents/documents.json#2" in message
    lenient = ("--set", "sources.documents.max_bad=0.1", "--set", "max_bad=0.1")
    result = run("build", recipe_folder / "recipe.yaml", "--out", tmp_path / "out", *lenient)
    assert result.returncode == 0, result.stderr
    line = next(line for line in result.stdout.splitlines() if "documents" in line)
    assert line.split()[:4] == ["documents", "40", "37", "1"]


def test_sound_is_a_drop_with_its_reason(recipe_folder: Path, tmp_path: Path) -> None:
    with (recipe_folder / "data" / "text.jsonl").open("a") as file:
        block = {"type": "audio", "audio": "a.mp3"}
        file.write(json.dumps({"messages": [{"role": "user", "content": [block]}]}) + "\n")
    result = run("plan", recipe_folder / "recipe.yaml", "--out", tmp_path / "out", "--set", "sources.text.max_bad=0.1")
    assert result.returncode == 0
    assert "1 unsupported_media" in result.stdout


@pytest.fixture
def damaged(quickstart: BuildReport, tmp_path: Path) -> Path:
    return Path(shutil.copytree(quickstart.out / "warmup-2048", tmp_path / "warmup-2048"))


def test_verify_exits_0_or_1_with_what_is_wrong_and_where(quickstart: BuildReport, damaged: Path) -> None:
    assert run("verify", damaged).returncode == 0
    shard = damaged / "shard-00000.arrow"
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    result = run("verify", damaged / "manifest.json")
    assert result.returncode == 1
    assert "shard-00000.arrow: altered since it was written" in result.stdout
    assert json.loads(run("verify", damaged, "--json").stdout)["sound"] is False
    shard.unlink()
    assert "the shard is missing" in run("verify", damaged).stdout
    (damaged / "manifest.json").write_text("{}")
    assert "altered" in failed("verify", damaged, code=1)
    assert "no such file" in failed("verify", damaged / "none", code=1)


def test_show_is_for_a_person_or_a_program(quickstart: BuildReport) -> None:
    folder = quickstart.out / "multitask-4096"
    text = run("show", folder).stdout
    assert "\x1b[" not in text
    assert all(word in text for word in ("captions", "35.0%", "fill", "holdout"))
    data = json.loads(run("show", folder, "--json").stdout)
    assert data["stage"] == "multitask"
    assert "image:" in run("show", folder, "--pack", "0").stdout
    spans = [
        span for s in json.loads(run("show", folder, "--pack", "0", "--json").stdout)["segments"] for span in s["spans"]
    ]
    assert any(span["learnt"] for span in spans)
    assert any(span["grid"] for span in spans)
    assert "there is no pack 999" in failed("show", folder, "--pack", "999")


def test_build_reports_to_a_program_and_debug_shows_the_traceback(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("plan", QUICKSTART / "recipe.yaml", "--out", out, "--json")
    assert [stage["state"] for stage in json.loads(result.stdout)["stages"]] == ["planned"] * 5
    broken = run("build", tmp_path / "none.yaml", "--debug")
    assert "Traceback" in broken.stderr


def test_a_second_build_into_a_folder_says_so(tmp_path: Path) -> None:
    import fcntl

    out = tmp_path / "out"
    out.mkdir()
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another build is at work there" in failed("build", QUICKSTART / "recipe.yaml", "--out", out)
