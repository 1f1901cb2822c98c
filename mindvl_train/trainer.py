"""The training loop, top to bottom.

A run is its stages in their order; a stage is steps; a step is micro-batches. Everything that decides a loss
comes from the configuration, the manifests and the last checkpoint, so that a run that was killed goes on bit
for bit.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mindvl_data.errors import UserError
from mindvl_data.manifest import Manifest
from mindvl_data.stream import PackStream
from mindvl_train import plugins
from mindvl_train.assembly import Assembly, assemble
from mindvl_train.average import average_into
from mindvl_train.batch import Batch
from mindvl_train.callbacks import Callback
from mindvl_train.checkpoint import (
    OPTIMIZER,
    WEIGHTS,
    Checkpoint,
    CheckpointFolder,
    Progress,
    load_tensors,
    names_in,
    read_progress,
)
from mindvl_train.config_file import LoadedConfig
from mindvl_train.fingerprints import fingerprints
from mindvl_train.flops import passes
from mindvl_train.loader import Loader, StepBatches
from mindvl_train.metrics import FILE_NAME, Logger, Record, StageSummary, read_records, summarise
from mindvl_train.models.initialise import give_weights
from mindvl_train.optim import (
    build_optimizer,
    freeze_all_but,
    optimizer_tensors,
    prepare_state,
    set_learning_rates,
)
from mindvl_train.parallel.context import share_of
from mindvl_train.parallel.data import add_copies_up, clip_gradients, end_forward
from mindvl_train.parallel.fit import sizes_for
from mindvl_train.parallel.host import together, total
from mindvl_train.parallel.mesh import Mesh, build_mesh, is_first, joined, world_size
from mindvl_train.parallel.parallelise import parallelise
from mindvl_train.rank_step import describe_non_finite, everyone, rank_step, step_record
from mindvl_train.run_folder import claim, held
from mindvl_train.stages import Stage, movement, steps_for


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

    Every rank of the run calls it; alone, without torchrun, a process is the only rank.

    Args:
        loaded: the run's configuration.
        where: its file, for messages.
        folder: where checkpoints and metrics go.
        loggers: receive the run's records on the first rank, besides those that the configuration names.

    Raises:
        UserError: what is wrong, where, and what to do.
    """
    parts = assemble(loaded, where)
    sizes = sizes_for(parts.config.mesh, world_size(), parts.limits)
    with joined(parts.accelerator) as device, ExitStack() as stack:
        mesh = build_mesh(sizes, device)
        with together():
            if is_first():
                stack.enter_context(held(folder))
                claim(folder, parts.record)
        checkpoints = stack.enter_context(CheckpointFolder(folder / "checkpoints", parts.config.checkpoint.keep))
        return _go_on(parts, mesh, checkpoints, folder, loggers)


def _go_on(
    parts: Assembly, mesh: Mesh, checkpoints: CheckpointFolder, folder: Path, loggers: Sequence[Logger]
) -> Result:
    """From where the folder's last checkpoint stands to the end of the run."""
    latest = checkpoints.latest()
    progress = read_progress(latest) if latest else None
    finished = progress is not None and progress.stage == parts.last_stage
    if not finished:
        names = ("jsonl", *parts.config.loggers)
        named = [plugins.load(plugins.LOGGERS, name)(folder) for name in names] if is_first() else []
        callbacks = [plugins.load(plugins.CALLBACKS, name)(folder) for name in parts.config.callbacks]
        with _begun([*named, *loggers] if is_first() else [], parts, progress) as begun:
            Trainer(parts, mesh, checkpoints, begun, callbacks, latest, progress).run()
    return Result(finished, checkpoints.latest() or folder, summarise(read_records(folder / FILE_NAME)))


@contextmanager
def _begun(loggers: Sequence[Logger], parts: Assembly, restored: Progress | None) -> Iterator[Sequence[Logger]]:
    """The loggers, told where the run stands; closed however it ends."""
    progress = restored or Progress()
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
        mesh: Mesh,
        checkpoints: CheckpointFolder,
        loggers: Sequence[Logger],
        callbacks: Sequence[Callback],
        latest: Path | None,
        restored: Progress | None,
    ) -> None:
        self.parts = parts
        self.mesh = mesh
        self.checkpoints = checkpoints
        self.loggers = loggers
        self.callbacks = callbacks
        self.latest = latest
        self.progress = restored or Progress()
        self.model = parallelise(parts.model, mesh, parts.config)
        give_weights(self.model, parts.config.seed, mesh.device, None if latest else parts.weights)
        if latest:
            self._load_weights(latest)

    def run(self) -> None:
        """From where the run stands to its end."""
        if self.latest is None:
            self._log_run()
            self._evaluate(after="")
        for stage in self.parts.stages[self.progress.stage :]:
            self._run_stage(stage)
        if self.parts.average:
            self._average(*self.parts.average)
        self.checkpoints.wait()

    def _run_stage(self, stage: Stage) -> None:
        if self.progress.stage_step == 0:
            self._begin_from(stage.parent)
        trained = freeze_all_but(self.model, stage.config.train)
        optimizer = build_optimizer(trained, stage.config.lr, self.parts.config.optimizer)
        if self.progress.stage_step == 0:
            self.progress = replace(self.progress, fingerprints=fingerprints(self.model))
        elif self.latest:
            load_tensors(self.latest / OPTIMIZER, prepare_state(optimizer, names_in(self.latest / OPTIMIZER)))
        self.latest = None
        waiting_since = time.perf_counter()
        for batches in self._loader(stage).steps(stage.total_steps - self.progress.stage_step):
            self._take_step(stage, optimizer, batches, waiting_since)
            if self._checkpoint_is_due(stage):
                self._save(stage, optimizer)
            waiting_since = time.perf_counter()
        self._end_stage(stage)

    def _take_step(
        self, stage: Stage, optimizer: torch.optim.Optimizer, batches: StepBatches, waiting_since: float
    ) -> None:
        waited = time.perf_counter() - waiting_since
        rates = set_learning_rates(optimizer, stage.factor(self.progress.stage_step))
        shares = [share_of(batch, self.mesh) for batch in batches.batches]
        losses = self._accumulate(shares)
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = clip_gradients(trained, self.parts.config.optimizer.clip_grad_norm)
        rows = everyone(rank_step(shares, losses, waited, self.mesh.device, self._flops(shares)))
        loss = sum(row.loss for row in rows)
        self._advance(batches, skipped=not math.isfinite(loss + norm))
        if math.isfinite(loss + norm):
            optimizer.step()
        else:
            self._refuse_or_skip(stage, batches, losses, norm)
        noted = self.parts.after_step(self.model)
        peak = self.parts.config.peak_tflops
        optimizer.zero_grad(set_to_none=True)
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
                **step_record(rows, self.mesh.sizes.share, time.perf_counter() - waiting_since, peak),
                **noted,
                "skipped": self.progress.skipped,
            }
        )

    def _flops(self, batches: Sequence[Batch]) -> float:
        count, times = self.parts.flops, passes([n for n, p in self.model.named_parameters() if p.requires_grad])
        return sum(count(batch, times, self.mesh.sizes.share) for batch in batches) if count else 0.0

    def _accumulate(self, batches: Sequence[Batch]) -> list[float]:
        """Gradients and losses of one step: weighted sums over its micro-batches, divided once by the weights of
        all micro-batches of all ranks.

        Their sum over ranks is the same for every split of the step.
        """
        divisor = total(sum(batch.total_weight for batch in batches))
        losses = []
        for number, batch in enumerate(batches, start=1):
            # Copies of the sharded model add their gradients up once a step.
            add_copies_up(self.model, now=number == len(batches))
            loss: Tensor = self.model(batch.to(self.mesh.device)) / divisor
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return torch.stack(losses).tolist()

    def _refuse_or_skip(self, stage: Stage, batches: StepBatches, losses: Sequence[float], norm: float) -> None:
        rule = self.parts.config.non_finite
        described = describe_non_finite(stage, batches.batches, losses, norm)
        if rule.action == "stop" or self.progress.skipped > rule.at_most:
            raise NonFiniteError(described)
        self._log({"event": "skipped", "step": self.progress.step, "stage": stage.name, "why": described})

    def _advance(self, batches: StepBatches, *, skipped: bool) -> None:
        self.progress = replace(
            self.progress,
            step=self.progress.step + 1,
            stage_step=self.progress.stage_step + 1,
            manifest=batches.cursor.manifest,
            packs=batches.cursor.packs,
            skipped=self.progress.skipped + skipped,
        )

    def _begin_from(self, parent: str | None) -> None:
        """The model holds the weights of the stage that ended last; a branch wants those of another."""
        if self.progress.stage and parent not in (None, self.parts.stages[self.progress.stage - 1].name):
            self._load_weights(self.checkpoints.end_of(str(parent)))

    def _end_stage(self, stage: Stage) -> None:
        self._evaluate(after=stage.name)
        moved = asdict(movement(self.progress.fingerprints or {}, self.model))
        self._log({"event": "stage", "step": self.progress.step, "stage": stage.name, "parent": stage.parent, **moved})
        self._publish_end(stage.name)

    def _average(self, name: str, shares: Mapping[str, float]) -> None:
        """The run's last stage: the mean of the weights at other stages' ends."""
        if self.progress.stage == self.parts.last_stage:
            return
        parents = {self.checkpoints.end_of(stage).name: share for stage, share in shares.items()}
        average_into(self._weights(), {self.checkpoints.path / parent: share for parent, share in parents.items()})
        self._evaluate(after=name)
        self._log({"event": "average", "step": self.progress.step, "stage": name, "parents": parents})
        self._publish_end(name, parents)

    def _publish_end(self, stage: str, parents: Mapping[str, float] | None = None) -> None:
        self.progress = Progress(self.progress.step, self.progress.stage + 1, skipped=self.progress.skipped)
        # The next stage builds its own optimizer: at a boundary only weights carry over.
        self.checkpoints.save(Checkpoint(self.progress, self._weights(), {}, parents or {}), stage)
        # A branch may begin from here next.
        self.checkpoints.wait()
        self._call({"event": "checkpoint", "step": self.progress.step, "stage": stage})

    @torch.no_grad()
    def _evaluate(self, after: str) -> None:
        """The mean loss on the held-out set: every pack once."""
        holdout = self.parts.holdout
        if holdout is None:
            return
        loss, weight = 0.0, 0.0
        loader = self._packs_of(holdout, self.mesh.sizes.data, micro_batch=1)
        for step in loader.steps(steps_for(holdout.num_packs, holdout.num_packs, self.mesh.sizes.data)):
            for batch in (share_of(batch, self.mesh) for batch in step.batches):
                loss += self.model(batch.to(self.mesh.device)).item()
                weight += batch.total_weight
        end_forward(self.model)
        mean = total(loss) / total(weight)
        self._log({"event": "evaluation", "step": self.progress.step, "stage": after, "loss": mean})

    def _loader(self, stage: Stage) -> Loader:
        loader = self._packs_of(stage.manifest, stage.config.global_batch, stage.config.micro_batch)
        if self.progress.stage_step:
            loader.stream.load_state_dict({"manifest": self.progress.manifest, "packs": self.progress.packs})
        return loader

    def _packs_of(self, manifest: Manifest, global_batch: int, micro_batch: int) -> Loader:
        settings, ranks = self.parts.config.loader, self.mesh.sizes.data
        stream = PackStream(manifest, self.mesh.data_rank, ranks, global_batch, epochs=None, deal="cost")
        layout = self.parts.layout
        return Loader(stream, global_batch // ranks, micro_batch, layout, settings.workers, settings.ahead)

    def _checkpoint_is_due(self, stage: Stage) -> bool:
        step = self.progress.stage_step
        return step % self.parts.config.checkpoint.every_steps == 0 and step < stage.total_steps

    def _save(self, stage: Stage, optimizer: torch.optim.Optimizer) -> None:
        self.checkpoints.save(Checkpoint(self.progress, self._weights(), optimizer_tensors(optimizer)))
        self._call({"event": "checkpoint", "step": self.progress.step, "stage": stage.name})

    def _weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self.model.named_parameters()}

    def _load_weights(self, checkpoint: Path) -> None:
        load_tensors(checkpoint / WEIGHTS, self._weights())

    def _log_run(self) -> None:
        self._log(
            {
                "event": "run",
                "step": 0,
                "device": str(self.mesh.device),
                "ranks": self.mesh.sizes.ranks,
                "mesh": str(self.mesh.sizes),
                "kernels": self.parts.kernel_names,
                "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
            }
        )

    def _log(self, record: Record) -> None:
        for logger in self.loggers:
            logger.log(record)
        self._call(record)

    def _call(self, record: Record) -> None:
        for callback in self.callbacks:
            callback(record, self.model)
