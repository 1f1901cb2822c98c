"""Checkpoints: weights, optimizer state and the place in the run, published whole or not at all.

A checkpoint is a folder `step-<n>`, or `step-<n>-<stage>` at a stage's end, of safetensors files and a
`state.json` that hashes them; nothing is pickled. It is written beside its place, flushed to the disk and
renamed: a crash in the middle leaves the earlier ones as they were. There is no state of a random generator
in it, because training draws
nothing: weights are drawn by name, order comes from the manifest.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mindvl_data.errors import UserError

FORMAT_VERSION = 1
WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
UNFINISHED = ".unfinished-"


class CheckpointError(UserError):
    """A checkpoint that cannot be used; says which, why and how to go on."""


@dataclass(frozen=True)
class Progress:
    """The place in a run.

    Attributes:
        step: optimizer steps taken since the run began.
        stage: index of the stage to go on with; the number of stages once the run is finished.
        stage_step: optimizer steps taken in that stage.
        manifest: id of the manifest that `packs` counts in; empty at a stage's beginning.
        packs: packs of the stage delivered to the loop, over all ranks.
        fingerprints: sha256 of every parameter at the stage's beginning.
    """

    step: int = 0
    stage: int = 0
    stage_step: int = 0
    manifest: str = ""
    packs: int = 0
    fingerprints: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """Its content; `optimizer` is empty at a stage's end, because the next stage begins with none."""

    progress: Progress
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]


class CheckpointFolder:
    """The checkpoints of one run."""

    def __init__(self, path: Path, keep: int) -> None:
        self.path = path
        self._keep = keep

    def save(self, checkpoint: Checkpoint, ended_stage: str = "") -> Path:
        """Publishes a checkpoint, then removes those past the last `keep`; ends of stages stay."""
        self.path.mkdir(parents=True, exist_ok=True)
        name = f"step-{checkpoint.progress.step:08d}" + (f"-{ended_stage}" if ended_stage else "")
        target = self.path / name
        unfinished = self._set_aside(name)
        unfinished.mkdir()
        _write(unfinished, checkpoint)
        os.rename(unfinished, target)
        _sync(self.path)
        self._prune()
        return target

    def latest(self) -> Path | None:
        """The newest published checkpoint."""
        return max(self.path.glob("step-*"), default=None)

    def read_latest(self) -> Checkpoint | None:
        """What the newest published checkpoint holds.

        Raises:
            CheckpointError: it is damaged.
        """
        latest = self.latest()
        return read_checkpoint(latest) if latest else None

    def _set_aside(self, name: str) -> Path:
        """A free path beside the checkpoints that no reader takes for one."""
        path = self.path / f"{UNFINISHED}{name}"
        shutil.rmtree(path, ignore_errors=True)
        return path

    def _prune(self) -> None:
        within_stages = sorted(path for path in self.path.glob("step-*") if path.name.count("-") == 1)
        for path in within_stages[: -self._keep]:
            # Renamed first: a crash while files go must not leave half a checkpoint under a good name.
            doomed = self._set_aside(path.name)
            os.rename(path, doomed)
            shutil.rmtree(doomed)


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint and checks its hashes.

    Raises:
        CheckpointError: a file is missing or altered.
    """
    try:
        state = json.loads((path / STATE).read_text())
        if state["format_version"] != FORMAT_VERSION:
            raise _unusable(path, f"its format is {state['format_version']}, this version reads {FORMAT_VERSION}")
        for name, expected in state["files"].items():
            if _sha256(path / name) != expected:
                raise _unusable(path, f"{name} was altered after it was written")
        tensors = {name: load_file(path / name) for name in state["files"]}
        return Checkpoint(Progress(**state["progress"]), tensors[WEIGHTS], tensors.get(OPTIMIZER, {}))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise _unusable(path, f"{type(error).__name__}: {error}") from error


def _unusable(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path}: {why}; remove this folder to go on from the checkpoint before it")


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    files = {WEIGHTS: checkpoint.weights}
    if checkpoint.optimizer:
        files[OPTIMIZER] = checkpoint.optimizer
    for name, tensors in files.items():
        save_file({key: tensor.detach().cpu() for key, tensor in tensors.items()}, folder / name)
    state: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "progress": asdict(checkpoint.progress),
        "files": {name: _sha256(folder / name) for name in files},
    }
    (folder / STATE).write_text(json.dumps(state, indent=1) + "\n")
    for name in (*files, STATE, "."):
        _sync(folder / name)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
