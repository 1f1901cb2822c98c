"""A run, top to bottom: its stages in their order, from wherever the last checkpoint stands.

A stage is its steps (`trainer.py`), an evaluation and a checkpoint. Weights and the place in the run are all the
state there is; the rest is in the configuration and the manifests.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mindvl_data.errors import UserError
from mindvl_train import plugins
from mindvl_train.config.loading import LoadedConfig
from mindvl_train.config.run_folder import START, claim, held
from mindvl_train.loop.assembly import Assembly, assemble
from mindvl_train.loop.callbacks import Callback
from mindvl_train.loop.losses import LossLog, forget_after, write_last
from mindvl_train.loop.metrics import FILE_NAME, Logger, Record, StageSummary, read_records, summarise
from mindvl_train.loop.optim import build_optimizer, freeze_all_but, optimizer_tensors, prepare_state
from mindvl_train.loop.questions import Question, ask, choose
from mindvl_train.loop.stages import Stage, movement, steps_for
from mindvl_train.loop.trainer import Trainer, loader_of
from mindvl_train.models.initialise import give_weights
from mindvl_train.parallel.context import share_of
from mindvl_train.parallel.data import end_forward
from mindvl_train.parallel.fit import sizes_for
from mindvl_train.parallel.host import together, total
from mindvl_train.parallel.mesh import Mesh, build_mesh, is_first, joined, world_size
from mindvl_train.parallel.parallelise import parallelise
from mindvl_train.weights.average import average_into
from mindvl_train.weights.checkpoint import (
    OPTIMIZER,
    WEIGHTS,
    Checkpoint,
    CheckpointFolder,
    Progress,
    load_tensors,
    names_in,
    newest,
    read_progress,
    read_state,
)
from mindvl_train.weights.fingerprints import fingerprints
from mindvl_train.weights.imported import keep_start


class HoldoutError(UserError):
    """A held-out set that says nothing of a model."""


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
    parts = assemble(loaded, where, folder)
    sizes = sizes_for(parts.config.mesh, world_size(), parts.limits)
    with joined(parts.accelerator) as device, ExitStack() as stack:
        mesh = build_mesh(sizes, device)
        with together():
            if is_first():
                stack.enter_context(held(folder))
                claim(folder, parts.record, _begun_stages(folder))
                if parts.start:
                    keep_start(parts.start, folder / START)
        checkpoints = stack.enter_context(CheckpointFolder(folder / "checkpoints", parts.config.checkpoint.keep))
        return _go_on(parts, mesh, checkpoints, folder, loggers)


def _begun_stages(folder: Path) -> int:
    """How many stages of the run have begun, by its newest checkpoint: the one that it stands in counts."""
    latest = newest(folder / "checkpoints")
    return 1 + int(read_state(latest)["progress"]["stage"]) if latest else 1


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
            Run(parts, mesh, checkpoints, folder, begun, callbacks, latest, progress).to_end()
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


class Run:
    """The model's weights and the place in the run; all other state is in the manifests."""

    def __init__(
        self,
        parts: Assembly,
        mesh: Mesh,
        checkpoints: CheckpointFolder,
        folder: Path,
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
        self.folder = folder
        self.losses = LossLog(folder, mesh.rank) if parts.keeps_losses else None
        if self.losses and is_first():
            forget_after(folder, self.progress.step)
        self.questions = self._questions()
        self.model = parallelise(parts.model, mesh, parts.config)
        give_weights(self.model, parts.config.seed, mesh.device, None if latest else parts.weights)
        if latest:
            self._load_weights(latest)

    def to_end(self) -> None:
        """From where the run stands to its end."""
        if self.latest is None:
            self._log_run()
            self._evaluate(after="")
        for stage in self.parts.stages[self.progress.stage :]:
            self._train(stage)
        if self.parts.average:
            self._average(*self.parts.average)
        self.checkpoints.wait()

    def _train(self, stage: Stage) -> None:
        if self.progress.stage_step == 0:
            self._begin_from(stage.parent)
        trained = freeze_all_but(self.model, stage.config.train)
        optimizer = build_optimizer(trained, stage.config.lr, self.parts.config.optimizer)
        if self.progress.stage_step == 0:
            self.progress = replace(self.progress, fingerprints=fingerprints(self.model))
        elif self.latest:
            load_tensors(self.latest / OPTIMIZER, prepare_state(optimizer, names_in(self.latest / OPTIMIZER)))
        self.latest = None
        trainer = Trainer(self.parts, self.mesh, self.model, optimizer, stage, self.progress, self._log, self.losses)
        for progress in trainer.steps():
            self.progress = progress
            if self._checkpoint_is_due(stage):
                self._save(stage, optimizer)
        self._end_stage(stage, trainer.unreached())

    def _begin_from(self, parent: str | None) -> None:
        """The model holds the weights of the stage that ended last; a branch wants those of another."""
        if self.progress.stage and parent not in (None, self.parts.stages[self.progress.stage - 1].name):
            self._load_weights(self.checkpoints.end_of(str(parent)))

    def _end_stage(self, stage: Stage, unreached: Sequence[str]) -> None:
        self._evaluate(after=stage.name)
        moved = asdict(movement(self.progress.fingerprints or {}, self.model, unreached))
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
        self.progress = Progress(
            self.progress.step, self.progress.stage + 1, skipped=self.progress.skipped, visits=self.progress.visits
        )
        self._flush_losses()
        # The next stage builds its own optimizer: at a boundary only weights carry over.
        data = self.parts.data_of(stage, parents or ())
        self.checkpoints.save(Checkpoint(self.progress, self._weights(), {}, parents or {}, data), stage)
        # A branch may begin from here next.
        self.checkpoints.wait()
        if self.losses and is_first():
            write_last(self.folder)
        self._call({"event": "checkpoint", "step": self.progress.step, "stage": stage})

    def _questions(self) -> list[Question]:
        """What is asked at checkpoints: of a model in one piece, the only one that can be continued token by token."""
        config, holdout = self.parts.config, self.parts.holdout
        asked = holdout and config.answers.samples and self.mesh.sizes.ranks == 1
        asked = asked and hasattr(self.parts.model, "next_token")
        return choose(holdout, config.answers, config.loader) if holdout and asked else []

    def _ask(self, after: str) -> None:
        if not self.questions:
            return
        parts, limit = self.parts, self.parts.config.answers.tokens
        said = ask(self.model, self.questions, parts.layout, self.mesh.device, parts.record["special_ids"], limit)
        self._log({"event": "answers", "step": self.progress.step, "stage": after, "answers": said})

    @torch.no_grad()
    def _evaluate(self, after: str) -> None:
        """The mean loss on the held-out set: every pack once."""
        holdout = self.parts.holdout
        if holdout is None:
            return
        loss, weight = 0.0, 0.0
        loader = loader_of(holdout, self.parts, self.mesh, self.mesh.sizes.data, micro_batch=1)
        for step in loader.steps(steps_for(holdout.num_packs, holdout.num_packs, self.mesh.sizes.data)):
            for batch in (share_of(batch, self.mesh) for batch in step.batches):
                loss += self.model(batch.to(self.mesh.device)).item()
                weight += batch.total_weight
        end_forward(self.model)
        learnt = total(weight)
        if not learnt:
            raise HoldoutError(
                f"holdout: no token of {holdout.path} has a loss, so nothing can be scored; name another set, or none"
            )
        mean = total(loss) / learnt
        self._log({"event": "evaluation", "step": self.progress.step, "stage": after, "loss": mean})
        self._ask(after)

    def _checkpoint_is_due(self, stage: Stage) -> bool:
        step = self.progress.stage_step
        return step % self.parts.config.checkpoint.every_steps == 0 and step < stage.total_steps

    def _save(self, stage: Stage, optimizer: torch.optim.Optimizer) -> None:
        self._ask(stage.name)
        self._flush_losses()
        data = self.parts.data_of(stage.name)
        self.checkpoints.save(Checkpoint(self.progress, self._weights(), optimizer_tensors(optimizer), data=data))
        self._call({"event": "checkpoint", "step": self.progress.step, "stage": stage.name})

    def _flush_losses(self) -> None:
        if self.losses:
            self.losses.flush(self.progress.step)

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
                "kinds": self.parts.kinds,
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
