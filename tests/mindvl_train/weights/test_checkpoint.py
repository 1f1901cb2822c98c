"""Checkpoints appear whole, and what is damaged is named."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mindvl_train.accelerators import CPU
from mindvl_train.parallel.mesh import joined
from mindvl_train.weights import checkpoint as module
from mindvl_train.weights.checkpoint import (
    OPTIMIZER,
    WEIGHTS,
    Checkpoint,
    CheckpointError,
    CheckpointFolder,
    Progress,
    load_tensors,
    names_in,
    newest,
    read_progress,
)
from mindvl_train.weights.saved import open_saved

SHARD = "shard-00001-model-00001-of-00001.safetensors"


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    with joined(CPU):
        yield


def checkpoint_at(step: int) -> Checkpoint:
    return Checkpoint(
        progress=Progress(step=step, stage=1, stage_step=step, manifest="abc", packs=7, fingerprints={"w": "f"}),
        weights={"w": torch.full((3, 2), float(step)), "half": torch.ones(2, dtype=torch.bfloat16)},
        optimizer={"exp_avg/w": torch.full((3, 2), 0.5), "step/w": torch.tensor(float(step))},
    )


def _save(folder: Path, *steps: int, keep: int = 1) -> Path:
    with CheckpointFolder(folder, keep) as checkpoints:
        for step in steps:
            checkpoints.save(checkpoint_at(step))
        checkpoints.wait()
    latest = newest(folder)
    assert latest is not None
    return latest


def test_what_is_read_is_what_was_saved(tmp_path: Path) -> None:
    path = _save(tmp_path, 5)
    assert read_progress(path) == checkpoint_at(5).progress
    for part, saved in ((WEIGHTS, checkpoint_at(5).weights), (OPTIMIZER, checkpoint_at(5).optimizer)):
        assert names_in(path / part) == set(saved)
        loaded = {name: torch.zeros_like(tensor) for name, tensor in saved.items()}
        load_tensors(path / part, loaded)
        assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    whole = open_saved(path / WEIGHTS)
    assert {name: tensor.tolist() for name, tensor in whole.items()} == {"half": [1.0, 1.0], "w": [[5.0, 5.0]] * 3}


def test_what_is_saved_is_as_it_was_when_it_was_saved(tmp_path: Path) -> None:
    checkpoint = checkpoint_at(1)
    with CheckpointFolder(tmp_path, keep=1) as checkpoints:
        checkpoints.save(checkpoint)
        checkpoint.weights["w"].fill_(9)
    assert open_saved(tmp_path / "step-00000001" / WEIGHTS)["w"].max() == 1.0


def test_the_last_k_stay_and_the_ends_of_stages(tmp_path: Path) -> None:
    _save(tmp_path, 1, 2, 3, keep=2)
    with CheckpointFolder(tmp_path, keep=2) as checkpoints:
        checkpoints.save(checkpoint_at(4), ended_stage="warm-up")
        checkpoints.save(checkpoint_at(5))
        checkpoints.wait()
        assert sorted(os.listdir(tmp_path)) == ["step-00000003", "step-00000004-warm-up", "step-00000005"]
        assert checkpoints.latest() == tmp_path / "step-00000005"
        assert checkpoints.end_of("warm-up") == tmp_path / "step-00000004-warm-up"
        with pytest.raises(CheckpointError, match="the end of stage up is gone"):
            checkpoints.end_of("up")


@pytest.mark.parametrize("moment", ["save", "file_sha256", "sync"])
def test_a_failure_while_saving_leaves_the_last_good_one_and_is_raised(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _save(tmp_path, 1)

    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("disk full")

    with monkeypatch.context() as patch, CheckpointFolder(tmp_path, keep=1) as checkpoints:
        patch.setattr(module, moment, crash)
        checkpoints.save(checkpoint_at(2))
        with pytest.raises(RuntimeError, match="disk full"):
            checkpoints.wait()
        latest = checkpoints.latest()
    assert latest is not None
    assert read_progress(latest).step == 1
    _save(tmp_path, 2)
    assert os.listdir(tmp_path) == ["step-00000002"]


DIE = """
import os, signal, sys
from pathlib import Path
from mindvl_train.weights import checkpoint as module
from mindvl_train.accelerators import CPU
from mindvl_train.parallel.mesh import joined
from tests.mindvl_train.weights.test_checkpoint import checkpoint_at
with joined(CPU), module.CheckpointFolder(Path(sys.argv[1]), keep=1) as folder:
    folder.save(checkpoint_at(1))
    folder.wait()
    moment, calls = sys.argv[2], int(sys.argv[3])
    owner, name = (os, moment[3:]) if moment.startswith("os.") else (module, moment)
    function = getattr(owner, name)
    def die(*arguments, **named):
        global calls
        result = function(*arguments, **named)
        calls -= 1
        if not calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, die)
    folder.save(checkpoint_at(2))
    folder.wait()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "calls", "expected"),
    [("save", 1, 1), ("sync", 5, 1), ("os.rename", 1, 2), ("os.rename", 2, 2)],
)
def test_a_process_killed_in_mid_save_leaves_a_good_one(tmp_path: Path, moment: str, calls: int, expected: int) -> None:
    """SIGKILL after the weights, before the rename, after it, while an old one goes: no handler runs."""
    killed = subprocess.run([sys.executable, "-c", DIE, str(tmp_path), moment, str(calls)], check=False)
    assert killed.returncode == -9
    latest = newest(tmp_path)
    assert latest is not None
    assert read_progress(latest).step == expected
    _save(tmp_path, 3)
    assert os.listdir(tmp_path) == ["step-00000003"]


@pytest.mark.parametrize("part", [WEIGHTS, OPTIMIZER])
def test_a_flipped_bit_is_noticed(tmp_path: Path, part: str) -> None:
    path = _save(tmp_path, 1)
    data = bytearray((path / part / SHARD).read_bytes())
    data[-1] ^= 1
    (path / part / SHARD).write_bytes(data)
    with pytest.raises(CheckpointError, match=f"step-00000001: {part}/{SHARD} was altered .* remove this folder"):
        read_progress(path)


def test_a_missing_file_and_an_unreadable_state_are_named(tmp_path: Path) -> None:
    path = _save(tmp_path, 1)
    (path / WEIGHTS / SHARD).unlink()
    with pytest.raises(CheckpointError, match=rf"FileNotFoundError.*{SHARD}"):
        read_progress(path)
    (path / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match="step-00000001: JSONDecodeError"):
        read_progress(path)
    (path / "state.json").write_text('{"format_version": 9}')
    with pytest.raises(CheckpointError, match="its format is 9, this version reads 2"):
        read_progress(path)
