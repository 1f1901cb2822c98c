"""The real thing: `python -m mindvl_train run` killed with SIGKILL and started again by the same command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mindvl_train.loop.metrics import read_records
from tests.mindvl_train.synthetic import write_run

STEPS = 12


def _start(run_yaml: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mindvl_train", "run", str(run_yaml), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)


def _finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()


def _kill_after(process: subprocess.Popen[bytes], out: Path, steps: int) -> None:
    """SIGKILL once the log holds so many steps."""
    log = out / "metrics.jsonl"
    while process.poll() is None:
        if log.exists() and log.read_bytes().count(b'"event": "step"') >= steps:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.0005)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, "the run ended before it was killed"


def _losses(out: Path) -> list[tuple[Any, ...]]:
    records = read_records(out / "metrics.jsonl")
    return [(r["event"], r["step"], r["loss"], r.get("grad_norm")) for r in records if "loss" in r]


@pytest.mark.slow
def test_a_killed_run_has_the_losses_of_an_undisturbed_one(tmp_path: Path) -> None:
    run_yaml = write_run(tmp_path)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    _finish(_start(run_yaml, undisturbed))
    for steps in (1, 5, 9):
        _kill_after(_start(run_yaml, killed), killed, steps)
    _finish(_start(run_yaml, killed))
    assert len(_losses(undisturbed)) == STEPS + 3
    assert _losses(killed) == _losses(undisturbed)
    for line in (killed / "metrics.jsonl").read_text().splitlines():
        json.loads(line)
