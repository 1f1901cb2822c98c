"""Ctrl-C in the middle of a scan of many files: what was finished is kept, and the next build goes on from there."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.conftest import QUICKSTART

FILES = 16


def write_recipe(folder: Path) -> Path:
    """Many files of text that take a while each."""
    folder.mkdir()
    shutil.copy(QUICKSTART / "tokenizer.json", folder)
    for number in range(FILES):
        rows = (json.dumps({"text": f"file {number} row {row} " + "words " * 5}) for row in range(2000))
        (folder / f"{number:03d}.jsonl").write_text("\n".join(rows))
    recipe = {
        "name": "many",
        "tokenizer": "tokenizer.json",
        "sources": {"many": {"format": "text", "path": "*.jsonl", "kind": "text"}},
        "stages": {"only": {"seq_len": 512, "budget": {"tokens": 20000}, "mixture": {"many": 1.0}}},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def scanned(out: Path) -> set[str]:
    """The files that are scanned whole: their samples table is there, under its own name."""
    return {path.name for path in (out / "samples").glob("many-*.parquet") if path.name.count(".") == 1}


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_keeps_what_is_scanned_and_the_next_build_scans_the_rest(tmp_path: Path, workers: int) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "mindvl_data", "plan", str(write_recipe(tmp_path / "recipe")), "--out", str(out)]
    # Without counting: the scan alone is asked about.
    command += ["--workers", str(workers), "--sample", "100"]
    # As a terminal does it: the signal goes to every process of the group.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while len(scanned(out)) < 3 and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    shown, message = process.communicate(timeout=60)
    before = scanned(out)
    assert process.returncode == 130, message
    assert "Stopped. What was finished is kept: run the same command again to go on." in " ".join(message.split())
    assert "Traceback" not in message + shown
    assert 3 <= len(before) < FILES
    stamps = {name: (out / "samples" / name).stat().st_mtime_ns for name in before}
    again = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(again.stdout)["work"]["scan"] == FILES - len(before)
    assert len(scanned(out)) == FILES
    assert stamps == {name: (out / "samples" / name).stat().st_mtime_ns for name in before}
    assert not list(out.rglob("*.partial"))
