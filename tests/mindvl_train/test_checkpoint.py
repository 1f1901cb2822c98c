"""Checkpoints appear whole, and what is damaged is named."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mindvl_train import checkpoint as module
from mindvl_train.checkpoint import Checkpoint, CheckpointError, CheckpointFolder, Progress, read_checkpoint


def _checkpoint(step: int) -> Checkpoint:
    return Checkpoint(
        progress=Progress(step=step, stage=1, stage_step=step, manifest="abc", packs=7, fingerprints={"w": "f"}),
        weights={"w": torch.full((3, 2), float(step)), "half": torch.ones(2, dtype=torch.bfloat16)},
        optimizer={"exp_avg/w": torch.full((3, 2), 0.5), "step/w": torch.tensor(float(step))},
    )


def test_what_is_read_is_what_was_saved(tmp_path: Path) -> None:
    path = CheckpointFolder(tmp_path, keep=2).save(_checkpoint(5))
    read = read_checkpoint(path)
    assert read.progress == _checkpoint(5).progress
    for saved, loaded in ((_checkpoint(5).weights, read.weights), (_checkpoint(5).optimizer, read.optimizer)):
        assert saved.keys() == loaded.keys()
        assert all(torch.equal(saved[name], loaded[name]) for name in saved)


def test_the_last_k_stay_and_the_ends_of_stages(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in (1, 2, 3):
        folder.save(_checkpoint(step))
    folder.save(_checkpoint(4), ended_stage="warm-up")
    folder.save(_checkpoint(5))
    assert sorted(os.listdir(tmp_path)) == ["step-00000003", "step-00000004-warm-up", "step-00000005"]
    assert folder.latest() == tmp_path / "step-00000005"


@pytest.mark.parametrize("moment", ["save_file", "_sha256", "_sync"])
def test_a_crash_while_saving_leaves_the_last_good_one(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(_checkpoint(1))

    def crash(*_: object) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(module, moment, crash)
        with pytest.raises(RuntimeError, match="power cut"):
            folder.save(_checkpoint(2))
    latest = folder.latest()
    assert latest is not None
    assert read_checkpoint(latest).progress.step == 1
    folder.save(_checkpoint(2))
    assert os.listdir(tmp_path) == ["step-00000002"]


def test_a_process_killed_in_mid_save_leaves_the_last_good_one(tmp_path: Path) -> None:
    """SIGKILL between the first file and the second: no handler runs, nothing is cleaned up."""
    code = """
import os, signal, sys, torch
from pathlib import Path
from mindvl_train import checkpoint as module
from tests.mindvl_train.test_checkpoint import _checkpoint
folder = module.CheckpointFolder(Path(sys.argv[1]), keep=1)
folder.save(_checkpoint(1))
save = module.save_file
def save_then_die(tensors, path):
    save(tensors, path)
    os.kill(os.getpid(), signal.SIGKILL)
module.save_file = save_then_die
folder.save(_checkpoint(2))
"""
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert killed.returncode == -9
    assert len(os.listdir(tmp_path)) == 2
    folder = CheckpointFolder(tmp_path, keep=1)
    latest = folder.latest()
    assert latest is not None
    assert read_checkpoint(latest).progress.step == 1


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors"])
def test_a_flipped_bit_is_noticed(tmp_path: Path, name: str) -> None:
    path = CheckpointFolder(tmp_path, keep=1).save(_checkpoint(1))
    data = bytearray((path / name).read_bytes())
    data[-1] ^= 1
    (path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=f"step-00000001: {name} was altered .* remove this folder to go on"):
        read_checkpoint(path)


def test_a_missing_file_and_an_unreadable_state_are_named(tmp_path: Path) -> None:
    path = CheckpointFolder(tmp_path, keep=1).save(_checkpoint(1))
    (path / "weights.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"FileNotFoundError.*weights.safetensors"):
        read_checkpoint(path)
    (path / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match="step-00000001: JSONDecodeError"):
        read_checkpoint(path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = CheckpointFolder(tmp_path, keep=1).save(_checkpoint(1))
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(state | {"format_version": 9}))
    with pytest.raises(CheckpointError, match="its format is 9, this version reads 1"):
        read_checkpoint(path)
