"""A build that is killed at any moment, run again, gives the bytes of one that was not."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mindvl_data.build import BuildReport
from tests.conftest import QUICKSTART
from tests.end_to_end.test_quickstart import SETS, tree

COMMAND = [sys.executable, "-m", "mindvl_data", "build", str(QUICKSTART / "recipe.yaml"), "--workers", "2", "--out"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_killed_build_goes_on_to_the_same_bytes(quickstart: BuildReport, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(3):
        process = subprocess.Popen(
            [*COMMAND, str(tmp_path / "out")],
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(rng.uniform(0.3, 4))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for name in SETS:
            folder = tmp_path / "out" / name
            assert not folder.exists() or (folder / "manifest.json.sha256").exists(), "nothing half-written is visible"
    subprocess.run([*COMMAND, str(tmp_path / "out")], check=True, capture_output=True)
    assert tree(tmp_path / "out") == tree(quickstart.out)
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_ctrl_c_stops_with_one_message_and_the_next_build_goes_on(quickstart: BuildReport, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, str(tmp_path / "out")], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    while not (tmp_path / "out" / "samples").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode in (0, 130)
    assert "Traceback" not in message
    if process.returncode:
        assert "Stopped" in message
    subprocess.run([*COMMAND, str(tmp_path / "out")], check=True, capture_output=True)
    assert tree(tmp_path / "out") == tree(quickstart.out)
