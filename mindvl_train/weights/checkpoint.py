"""Checkpoints: weights, optimizer state and the place in the run, published whole or not at all.

A checkpoint is a folder `step-<n>`, or `step-<n>-<stage>` at a stage's end: under `weights/` and `optimizer/`
the safetensors files that torch's distributed checkpoint writes, one a rank, and a `state.json` that hashes
them; nothing is pickled, and any mesh reads it. Tensors are copied at once and written by a thread while
training goes on; the folder is flushed to the disk and renamed last: a crash in the middle leaves the earlier
ones as they were. There is no state of a random generator in it, because training draws nothing: weights are
drawn by name, order comes from the manifest.
"""

import json
import math
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from mindvl_data.atomic import sync
from mindvl_data.errors import UserError
from mindvl_data.shards import file_sha256
from mindvl_train.parallel import host
from mindvl_train.parallel.mesh import is_first
from mindvl_train.weights.processing import RECORD, write_processing

FORMAT_VERSION = 2
WEIGHTS = "weights"
OPTIMIZER = "optimizer"
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
        epoch: of a stage that selects, the one to go on with.
        epoch_step: the value of `step` at which it began.
        visits, epoch_visits: losses of samples that all ranks have kept, and those of before that epoch.
        control: of a stage whose sets are chosen step by step, what chose them, see `loop/controllers.py`.
        skipped: of the steps, those without an update because the loss or gradient was no number.
        fingerprints: of every parameter at the stage's beginning.
    """

    step: int = 0
    stage: int = 0
    stage_step: int = 0
    manifest: str = ""
    packs: int = 0
    epoch: int = 0
    epoch_step: int = 0
    visits: int = 0
    epoch_visits: int = 0
    control: Mapping[str, Any] | None = None
    skipped: int = 0
    fingerprints: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """What is saved; `optimizer` is empty at a stage's end, because the next stage begins with none.

    Attributes:
        parents: for an average, the checkpoints it was made of and their weights.
        data: what the model is asked with from here on, see `processing.py`.
    """

    progress: Progress
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    parents: Mapping[str, float] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)


class CheckpointFolder:
    """The checkpoints of one run; every rank has one and calls it alike."""

    def __init__(self, path: Path, keep: int) -> None:
        self.path = path
        self._keep = keep
        # Its own group: the thread must not come between the collectives of training.
        self._group: dist.ProcessGroup = dist.new_group(backend="gloo")  # type: ignore[assignment]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: Future[None] | None = None
        if is_first():
            for left in path.glob(f"{UNFINISHED}*"):
                shutil.rmtree(left)
        dist.barrier()

    def __enter__(self) -> "CheckpointFolder":
        return self

    def __exit__(self, *_: object) -> None:
        """What is being written is finished, whatever else went wrong."""
        self._thread.shutdown()

    def save(self, checkpoint: Checkpoint, ended_stage: str = "") -> None:
        """Copies a checkpoint and returns; a thread publishes it, then removes those past the last `keep`.

        Ends of stages stay. One is written at a time: the next waits for it, and raises what went wrong.
        """
        self.wait()
        name = f"step-{checkpoint.progress.step:08d}" + (f"-{ended_stage}" if ended_stage else "")
        parts = {WEIGHTS: _copied(checkpoint.weights), OPTIMIZER: _copied(checkpoint.optimizer)}
        state = {"progress": asdict(checkpoint.progress), "parents": dict(checkpoint.parents)}
        self._saving = self._thread.submit(self._write, name, parts, state, dict(checkpoint.data))

    def wait(self) -> None:
        """Until what was saved is published."""
        if self._saving is not None:
            saving, self._saving = self._saving, None
            saving.result()

    def latest(self) -> Path | None:
        """The newest published checkpoint, as the first rank sees it."""
        found = newest(self.path)
        name = host.gather_words(found.name if found else "")[0]
        return self.path / name if name else None

    def end_of(self, stage: str) -> Path:
        """The checkpoint at a stage's end.

        Raises:
            CheckpointError: it is gone.
        """
        found = [path for path in self.path.glob(f"step-*-{stage}") if path.name.split("-", 2)[2] == stage]
        if not found:
            raise CheckpointError(f"{self.path}: the end of stage {stage} is gone; begin again in another --out")
        return found[0]

    def _write(
        self, name: str, parts: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any], data: dict[str, Any]
    ) -> None:
        """On every rank, in its thread."""
        unfinished = self._set_aside(name)
        for part, tensors in parts.items():
            if is_first():
                (unfinished / part).mkdir(parents=True)
            dist.barrier(self._group)
            if tensors:
                writer = HuggingFaceStorageWriter(str(unfinished / part), save_distributed=True)
                save(dict(tensors), storage_writer=writer, process_group=self._group)
        # Every rank hashes and flushes a part of what all have written.
        files = sorted(unfinished.glob("*/*.safetensors"))[dist.get_rank() :: dist.get_world_size()]
        hashes = {str(file.relative_to(unfinished)): file_sha256(file) for file in files}
        for file in files:
            sync(file)
        heard = host.gather_words(json.dumps(hashes), self._group)
        if is_first():
            written = {file: digest for words in heard for file, digest in json.loads(words).items()}
            write_processing(unfinished, data)
            self._publish(unfinished, name, state | {"files": dict(sorted(written.items()))})
        dist.barrier(self._group)

    def _publish(self, unfinished: Path, name: str, state: dict[str, Any]) -> None:
        (unfinished / STATE).write_text(json.dumps({"format_version": FORMAT_VERSION} | state, indent=1) + "\n")
        for part in (WEIGHTS, OPTIMIZER, RECORD, STATE, "."):
            if (unfinished / part).exists():
                sync(unfinished / part)
        os.rename(unfinished, self.path / name)
        sync(self.path)
        self._prune()

    def _set_aside(self, name: str) -> Path:
        """A free path beside the checkpoints that no reader takes for one."""
        path = self.path / f"{UNFINISHED}{name}"
        if is_first():
            shutil.rmtree(path, ignore_errors=True)
        return path

    def _prune(self) -> None:
        within_stages = sorted(path for path in self.path.glob("step-*") if path.name.count("-") == 1)
        for path in within_stages[: -self._keep]:
            # Renamed first: a crash while files go must not leave half a checkpoint under a good name.
            doomed = self._set_aside(path.name)
            os.rename(path, doomed)
            shutil.rmtree(doomed)


def newest(folder: Path) -> Path | None:
    """The newest published checkpoint of a folder.

    An average takes no step, so two ends of stages may have the same one: the later stage counts.
    """
    found = sorted(folder.glob("step-*"))
    last = [path for path in found if path.name.split("-")[1] == found[-1].name.split("-")[1]]
    return max(last, key=_stage_of) if last else None


def _stage_of(path: Path) -> float:
    """How many stages had ended; what cannot be read counts as the newest, so that it is named and not passed
    over."""
    try:
        return float(read_state(path)["progress"]["stage"])
    except (CheckpointError, KeyError, TypeError):
        return math.inf


def read_progress(path: Path) -> Progress:
    """The place in the run that a checkpoint stands for, once its files are checked against their hashes.

    Every rank checks its share of them.

    Raises:
        CheckpointError: a file is missing or altered; ElsewhereError: another rank found it.
    """
    state: dict[str, Any] = {}
    problem: CheckpointError | None = None
    try:
        state = read_state(path)
        for name in sorted(state["files"])[dist.get_rank() :: dist.get_world_size()]:
            if file_sha256(path / name) != state["files"][name]:
                raise _unusable(path, f"{name} was altered after it was written")
    except CheckpointError as error:
        problem = error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        problem = _unusable(path, f"{type(error).__name__}: {error}")
    host.agree(problem)
    return Progress(**state["progress"])


def read_state(path: Path) -> dict[str, Any]:
    """A checkpoint's `state.json`.

    Raises:
        CheckpointError: it is none of this version.
    """
    try:
        state: dict[str, Any] = json.loads((path / STATE).read_text())
        found = state["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unusable(path, f"{type(error).__name__}: {error}") from error
    if found != FORMAT_VERSION:
        raise _unusable(path, f"its format is {found}, this version reads {FORMAT_VERSION}")
    return state


def load_tensors(folder: Path, into: Mapping[str, Tensor]) -> None:
    """Fills tensors from `weights/` or `optimizer/` of a checkpoint, whatever mesh wrote it.

    Args:
        folder: one of the two.
        into: by name, all in the checkpoint; a rank fills its pieces.
    """
    load(dict(into), storage_reader=HuggingFaceStorageReader(str(folder)))


def names_in(folder: Path) -> set[str]:
    """The tensors that `weights/` or `optimizer/` of a checkpoint holds."""
    return set(HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata)


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the host, so that training may change them."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def _unusable(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path}: {why}; remove this folder to go on from the checkpoint before it")
