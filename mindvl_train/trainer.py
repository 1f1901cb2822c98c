"""The training loop, top to bottom.

A run is its stages in their order; a stage is steps; a step is micro-batches. Everything that decides a loss
comes from the configuration, the manifests and the last checkpoint, so that a run that was killed goes on bit
for bit.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mindvl_data.errors import UserError
from mindvl_data.manifest import Manifest
from mindvl_data.stream import PackStream
from mindvl_train import plugins
from mindvl_train.assembly import Assembly, assemble
from mindvl_train.batch import Batch
from mindvl_train.checkpoint import Checkpoint, CheckpointFolder, Progress
from mindvl_train.config import LoadedConfig
from mindvl_train.loader import Loader, StepBatches
from mindvl_train.metrics import FILE_NAME, Logger, Record, StageSummary, read_records, summarise
from mindvl_train.models.initialise import give_weights
from mindvl_train.optim import (
    build_optimizer,
    freeze_all_but,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rates,
)
from mindvl_train.run_folder import claim, held
from mindvl_train.stages import Stage, fingerprints, movement


class NonFiniteError(UserError):
    """A loss or gradient that is not a number; names the packs of the step."""


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        already_finished: an earlier start had finished it, and this one did nothing.
        checkpoint: the last one.
        stages: a summary of each stage.
    """

    already_finished: bool
    checkpoint: Path
    stages: list[StageSummary]


def train(loaded: LoadedConfig, where: str, folder: Path, loggers: Sequence[Logger] = ()) -> Result:
    """Trains what the configuration says, from the last checkpoint in `folder` if there is one.

    Args:
        loaded: the run's configuration.
        where: its file, for messages.
        folder: where checkpoints and metrics go.
        loggers: receive the run's records, besides those that the configuration names.

    Raises:
        UserError: what is wrong, where, and what to do.
    """
    parts = assemble(loaded, where)
    with held(folder):
        claim(folder, parts.record)
        return _go_on(parts, folder, loggers)


def _go_on(parts: Assembly, folder: Path, loggers: Sequence[Logger]) -> Result:
    """From where the folder's last checkpoint stands to the end of the run."""
    checkpoints = CheckpointFolder(folder / "checkpoints", parts.config.checkpoint.keep)
    restored = checkpoints.read_latest()
    finished = restored is not None and restored.progress.stage == len(parts.stages)
    if not finished:
        named = [plugins.load(plugins.LOGGERS, name)(folder) for name in ("jsonl", *parts.config.loggers)]
        with _begun([*named, *loggers], parts, restored) as begun:
            Trainer(parts, checkpoints, begun, restored).run()
    return Result(finished, checkpoints.latest() or folder, summarise(read_records(folder / FILE_NAME)))


@contextmanager
def _begun(loggers: Sequence[Logger], parts: Assembly, restored: Checkpoint | None) -> Iterator[Sequence[Logger]]:
    """The loggers, told where the run stands; closed however it ends."""
    progress = restored.progress if restored else Progress()
    done_tokens = parts.tokens_before(progress.stage, progress.stage_step)
    with ExitStack() as stack:
        for logger in loggers:
            logger.begin(progress.step if restored else -1, parts.total_tokens, done_tokens)
            stack.callback(logger.close)
        yield loggers


class Trainer:
    """The model's weights and the place in the run; all other state is in the manifests."""

    def __init__(
        self,
        parts: Assembly,
        checkpoints: CheckpointFolder,
        loggers: Sequence[Logger],
        restored: Checkpoint | None,
    ) -> None:
        self.parts = parts
        self.checkpoints = checkpoints
        self.loggers = loggers
        self.restored = restored
        self.progress = restored.progress if restored else Progress()
        weights = restored.weights if restored else parts.weights
        self.model = give_weights(parts.model, parts.config.seed, parts.device, weights)

    def run(self) -> None:
        """From where the run stands to its end."""
        if self.restored is None:
            self._log_run()
            self._evaluate(after="")
        for stage in self.parts.stages[self.progress.stage :]:
            self._run_stage(stage)

    def _run_stage(self, stage: Stage) -> None:
        trained = freeze_all_but(self.model, stage.config.train)
        optimizer = build_optimizer(trained, stage.config.lr, self.parts.config.optimizer)
        if self.progress.stage_step == 0:
            self.progress = replace(self.progress, fingerprints=fingerprints(self.model))
        elif self.restored:
            load_optimizer_tensors(optimizer, self.restored.optimizer)
        self.restored = None
        waiting_since = time.perf_counter()
        for batches in self._loader(stage).steps(stage.total_steps - self.progress.stage_step):
            self._take_step(stage, optimizer, batches, waiting_since)
            if self._checkpoint_is_due(stage):
                self._save(optimizer)
            waiting_since = time.perf_counter()
        self._end_stage(stage)

    def _take_step(
        self, stage: Stage, optimizer: torch.optim.Optimizer, batches: StepBatches, waiting_since: float
    ) -> None:
        begun = time.perf_counter()
        rates = set_learning_rates(optimizer, stage.factor(self.progress.stage_step))
        loss = self._accumulate(batches.batches)
        norm = nn.utils.clip_grad_norm_(
            [parameter for group in optimizer.param_groups for parameter in group["params"]],
            self.parts.config.optimizer.clip_grad_norm,
        ).item()
        if not math.isfinite(loss + norm):
            raise NonFiniteError(_describe_non_finite(stage, batches, loss, norm))
        optimizer.step()
        self.parts.after_step(self.model)
        optimizer.zero_grad(set_to_none=True)
        self.progress = replace(
            self.progress,
            step=self.progress.step + 1,
            stage_step=self.progress.stage_step + 1,
            manifest=batches.cursor.manifest,
            packs=batches.cursor.packs,
        )
        ended = time.perf_counter()
        self._log(
            {
                "event": "step",
                "step": self.progress.step,
                "stage": stage.name,
                "stage_step": self.progress.stage_step,
                "stage_steps": stage.total_steps,
                "loss": loss,
                "grad_norm": norm,
                "lr": rates,
                **_counts(batches.batches, seconds=ended - waiting_since),
                "wait_seconds": begun - waiting_since,
            }
        )

    def _accumulate(self, batches: Sequence[Batch]) -> float:
        """Gradients and loss of one step: weighted sums over all its micro-batches, divided once by all
        weights.

        The result is the same for every split of the step into micro-batches. A process group would add the
        weights of all ranks here, before the first forward pass, and the losses after the last.
        """
        divisor = sum(batch.total_weight for batch in batches)
        total = torch.zeros((), device=self.parts.device)
        for batch in batches:
            loss: Tensor = self.model(batch.to(self.parts.device)) / divisor
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total.item()

    def _end_stage(self, stage: Stage) -> None:
        self._evaluate(after=stage.name)
        moved = movement(self.progress.fingerprints or {}, self.model)
        self._log({"event": "stage", "step": self.progress.step, "stage": stage.name, **asdict(moved)})
        self.progress = Progress(step=self.progress.step, stage=self.progress.stage + 1)
        # The next stage builds its own optimizer: at a boundary only weights carry over.
        self._save(optimizer=None, ended_stage=stage.name)

    @torch.no_grad()
    def _evaluate(self, after: str) -> None:
        """The mean loss on the held-out set: every pack once."""
        holdout = self.parts.holdout
        if holdout is None:
            return
        loss, weight = 0.0, 0.0
        for step in self._packs_of(holdout, global_batch=1, micro_batch=1).steps(holdout.num_packs):
            for batch in step.batches:
                loss += self.model(batch.to(self.parts.device)).item()
                weight += batch.total_weight
        self._log({"event": "evaluation", "step": self.progress.step, "stage": after, "loss": loss / weight})

    def _loader(self, stage: Stage) -> Loader:
        loader = self._packs_of(stage.manifest, stage.config.global_batch, stage.config.micro_batch)
        if self.progress.stage_step:
            loader.stream.load_state_dict({"manifest": self.progress.manifest, "packs": self.progress.packs})
        return loader

    def _packs_of(self, manifest: Manifest, global_batch: int, micro_batch: int) -> Loader:
        settings = self.parts.config.loader
        stream = PackStream(manifest, global_batch=global_batch, epochs=None)
        return Loader(stream, global_batch, micro_batch, self.parts.layout, settings.workers, settings.ahead)

    def _checkpoint_is_due(self, stage: Stage) -> bool:
        step = self.progress.stage_step
        return step % self.parts.config.checkpoint.every_steps == 0 and step < stage.total_steps

    def _save(self, optimizer: torch.optim.Optimizer | None, ended_stage: str = "") -> None:
        checkpoint = Checkpoint(
            progress=self.progress,
            weights=dict(self.model.named_parameters()),
            optimizer=optimizer_tensors(optimizer) if optimizer else {},
        )
        self.checkpoints.save(checkpoint, ended_stage)

    def _log_run(self) -> None:
        self._log(
            {
                "event": "run",
                "step": 0,
                "device": str(self.parts.device),
                "kernels": self.parts.kernel_names,
                "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
            }
        )

    def _log(self, record: Record) -> None:
        for logger in self.loggers:
            logger.log(record)


def _counts(batches: Sequence[Batch], seconds: float) -> dict[str, float]:
    """What a step consumed, and how fast; `tokens` are without padding."""
    tokens = sum(batch.num_tokens for batch in batches)
    delivered = sum(len(batch.ids) for batch in batches)
    loss_tokens = sum(len(batch.targets) for batch in batches)
    return {
        "tokens": tokens,
        "padding": delivered - tokens,
        "padding_share": 1.0 - tokens / delivered,
        "loss_tokens": loss_tokens,
        "images": sum(batch.num_images for batch in batches),
        "patches": sum(len(batch.patches) for batch in batches),
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "loss_tokens_per_second": loss_tokens / seconds,
    }


def _describe_non_finite(stage: Stage, batches: StepBatches, loss: float, norm: float) -> str:
    packs = ", ".join(str(pack) for batch in batches.batches for pack in batch.packs)
    return (
        f"{stage.name}: the loss is {loss} and the gradient's norm {norm} on packs {packs} of "
        f"{stage.manifest.path}; look at them with `python -m mindvl_data show MANIFEST --pack N`, "
        "or lower the learning rate"
    )
