"""One stage of a run, step by step: micro-batches, their gradients, the optimizer, and what is said of it.

Everything that decides a loss comes from the configuration, the manifest and the place in the run, so that a run
that was killed goes on bit for bit.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from mindvl_data.errors import UserError
from mindvl_data.manifest import Manifest
from mindvl_data.stream import ChosenBatches, Mixture, PackStream, SelectedEpoch
from mindvl_train.data.batch import Batch
from mindvl_train.data.loader import Loader
from mindvl_train.data.steps import StepBatches
from mindvl_train.dtensor import local
from mindvl_train.loop.assembly import Assembly
from mindvl_train.loop.control import Control
from mindvl_train.loop.controllers import Controller
from mindvl_train.loop.losses import LossLog, of_step, summed
from mindvl_train.loop.metrics import Record
from mindvl_train.loop.optim import named, set_learning_rates
from mindvl_train.loop.planner import Planner
from mindvl_train.loop.selections import Selection
from mindvl_train.loop.stages import Stage
from mindvl_train.loop.step import (
    describe_non_finite,
    describe_without_targets,
    everyone,
    rank_step,
    source_losses,
    step_record,
)
from mindvl_train.models.flops import passes
from mindvl_train.parallel.context import share_of
from mindvl_train.parallel.data import add_copies_up, clip_gradients, end_forward
from mindvl_train.parallel.host import gather, total
from mindvl_train.parallel.mesh import Mesh
from mindvl_train.weights.checkpoint import Progress


class NonFiniteError(UserError):
    """A loss or gradient that is not a number; names the packs of the step."""


class Trainer:
    """Takes the steps of one stage.

    Args:
        parts: of the run.
        mesh: of its ranks.
        model: what of it trains has been chosen.
        optimizer: over that.
        stage: to train.
        progress: where the run stands, in this stage.
        log: hears of every step.
        losses: keeps the loss of every sample; None: nobody wants it.
    """

    def __init__(
        self,
        parts: Assembly,
        mesh: Mesh,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        stage: Stage,
        progress: Progress,
        log: Callable[[Record], None],
        losses: LossLog | None = None,
    ) -> None:
        self.parts = parts
        self.mesh = mesh
        self.model = model
        self.optimizer = optimizer
        self.stage = stage
        self.progress = progress
        self.log = log
        self.losses = losses
        self._sums: list[Tensor | None] = []
        self._epoch_steps = 1
        self._control: Control | None = None

    def steps(self) -> Iterator[Progress]:
        """Takes those that are left; where the run stands after each."""
        config = self.stage.config
        if self.stage.selection:
            yield from self._selected_epochs(self.stage.selection)
            return
        if self.stage.controller:
            yield from self._chosen_steps(self.stage.controller)
            return
        loader = loader_of(self.stage.streamed, self.parts, self.mesh, config.global_batch, config.micro_batch)
        if self.progress.stage_step:
            loader.stream.load_state_dict({"manifest": self.progress.manifest, "packs": self.progress.packs})
        yield from self._steps_of(loader, self.stage.total_steps - self.progress.stage_step)

    def _steps_of(self, loader: Loader, limit: int) -> Iterator[Progress]:
        waiting_since = time.perf_counter()
        for batches in loader.steps(limit):
            self._take_step(batches, waiting_since)
            yield self.progress
            waiting_since = time.perf_counter()

    def _selected_epochs(self, selection: Selection) -> Iterator[Progress]:
        """Epochs of what the losses select, each planned anew; one that was begun is planned from the losses that it
        began with."""
        assert self.losses
        config, planner = self.stage.config, Planner(self.stage, selection, self.losses)
        for epoch in range(self.progress.epoch, config.until.epochs or 0):
            begun = bool(self.progress.manifest) and self.progress.epoch == epoch
            if not begun:
                self.losses.flush(self.progress.step)
                self.progress = replace(self.progress, epoch=epoch, epoch_step=self.progress.step, manifest="", packs=0)
                self.progress = replace(self.progress, epoch_visits=self.progress.visits)
            selected = planner.plan(epoch, self.progress.epoch_step, self.progress.epoch_visits)
            self._epoch_steps = -(-selected.num_packs // config.global_batch)
            loader = loader_of(selected, self.parts, self.mesh, config.global_batch, config.micro_batch)
            if begun:
                loader.stream.load_state_dict({"manifest": self.progress.manifest, "packs": self.progress.packs})
            else:
                # Of the step that comes: a run that goes on from here says it again.
                where = {"event": "epoch", "step": self.progress.step + 1, "stage": self.stage.name, "epoch": epoch}
                self.log({**where, **planner.described(selected)})
            yield from self._steps_of(loader, self._epoch_steps)

    def _chosen_steps(self, controller: Controller) -> Iterator[Progress]:
        """Steps each of one set, some at a time: their sets are chosen from the losses of those before."""
        config, stage = self.stage.config, self.stage
        assert config.control
        self._control = Control(controller, config.control, stage, self.progress.control)
        while (left := stage.total_steps - self.progress.stage_step) > 0:
            done = self._control.begin(self.progress.stage_step)
            loader = loader_of(self._control.batches, self.parts, self.mesh, config.global_batch, config.micro_batch)
            if done:
                loader.stream.load_state_dict({"manifest": self.progress.manifest, "packs": self.progress.packs})
            else:
                where = {"event": "mixture", "step": self.progress.step + 1, "stage": stage.name}
                self.log({**where, "shares": self._control.shares})
            yield from self._steps_of(loader, left)

    def _schedule_step(self) -> int:
        """The step that the schedule is asked for: with a selection the place in the epoch, as if it had all packs."""
        if not self.stage.selection:
            return self.progress.stage_step
        done = (self.progress.step - self.progress.epoch_step) / self._epoch_steps
        return int((self.progress.epoch + done) * self.stage.total_steps / (self.stage.config.until.epochs or 1))

    def _take_step(self, batches: StepBatches, waiting_since: float) -> None:
        waited = time.perf_counter() - waiting_since
        rates = set_learning_rates(self.optimizer, self.stage.factor(self._schedule_step()))
        shares = [share_of(batch, self.mesh) for batch in batches.batches]
        weight = total(sum(batch.total_weight for batch in shares))
        self._sums = []
        losses, norm = self._gradients(shares, weight) if weight else ([math.nan] * len(shares), 0.0)
        flops = self._flops(shares) if weight else 0.0
        rows = everyone(rank_step(shares, losses, waited, self.mesh.device, flops))
        loss = sum(row.loss for row in rows)
        finite = math.isfinite(loss + norm)
        self._advance(batches, skipped=bool(weight) and not finite)
        chosen = self._note_choice(loss)
        if finite:
            self._leave_unreached()
            self.optimizer.step()
        elif weight:
            self._refuse_or_skip(batches, losses, norm)
        else:
            why = describe_without_targets(self.stage, batches.batches)
            self.log({"event": "skipped", "step": self.progress.step, "stage": self.stage.name, "why": why})
        # A step that is left out moves nothing, the balance of experts neither.
        noted = self.parts.after_step(self.model) if finite else {}
        self.optimizer.zero_grad(set_to_none=True)
        by_source = self._note_losses(shares)
        seconds = time.perf_counter() - waiting_since
        self.log(
            {
                "event": "step",
                "step": self.progress.step,
                "stage": self.stage.name,
                "stage_step": self.progress.stage_step,
                "stage_steps": self.stage.total_steps,
                "loss": loss,
                "grad_norm": norm,
                "lr": rates,
                **step_record(rows, self.mesh.sizes.share, seconds, self.parts.config.peak_tflops),
                **noted,
                "sources": by_source,
                **chosen,
                "skipped": self.progress.skipped,
            }
        )

    def _note_choice(self, loss: float) -> dict[str, str]:
        """Tells who chooses the sets what the step's was worth; for the log, which one it was."""
        if self._control is None:
            return {}
        name = self._control.note(loss)
        self.progress = replace(self.progress, control=self._control.state_dict())
        return {"set": name}

    def _note_losses(self, batches: Sequence[Batch]) -> dict[str, dict[str, float]]:
        """Keeps what the step says of every sample; of every source the mean loss over all ranks."""
        seen = of_step(batches, self._sums)
        kept = self.losses.note(self.progress.step, seen) if self.losses and seen else 0
        by_source, visits = source_losses(seen.by_source() if seen else {}, kept)
        self.progress = replace(self.progress, visits=self.progress.visits + visits)
        return by_source

    def _gradients(self, batches: Sequence[Batch], weight: float) -> tuple[list[float], float]:
        """The losses of the micro-batches, and the norm that the step's gradients had before they were clipped."""
        losses = self._accumulate(batches, weight)
        return losses, clip_gradients([p for _, p in named(self.optimizer)], self.parts.config.optimizer.clip_grad_norm)

    def unreached(self) -> list[str]:
        """The parameters that train and that no gradient has reached in this stage, such as the vision tower's in a
        stage without pictures."""
        return [name for name, parameter in named(self.optimizer) if not self.optimizer.state.get(parameter)]

    def _leave_unreached(self) -> None:
        """AdamW would decay even what learns nothing: it does not see what no gradient has reached yet."""
        waiting = [p for _, p in named(self.optimizer) if p.grad is not None and not self.optimizer.state.get(p)]
        if not waiting or self.parts.config.optimizer.decay_unreached:
            return
        gradients = [parameter.grad for parameter in waiting if parameter.grad is not None]
        largest = torch.stack([_largest(local(gradient)) for gradient in gradients]).tolist()
        for parameter, rows in zip(waiting, zip(*gather(largest), strict=True), strict=True):
            if not any(rows):
                parameter.grad = None

    def _accumulate(self, batches: Sequence[Batch], divisor: float) -> list[float]:
        """Gradients and losses of one step: weighted sums over its micro-batches, divided once by the weights of
        all micro-batches of all ranks.

        Their sum over ranks is the same for every split of the step.
        """
        self.parts.before_step(self.model, divisor, [partial(self._look, batch) for batch in batches])
        losses = []
        for number, batch in enumerate(batches, start=1):
            # Copies of the sharded model add their gradients up once a step.
            add_copies_up(self.model, now=number == len(batches))
            loss: Tensor = self.model(batch.to(self.mesh.device)) / divisor
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            self._sums.append(summed(self.model, batch))
        return torch.stack(losses).tolist()

    @torch.no_grad()
    def _look(self, batch: Batch) -> None:
        """A forward pass without targets: what of the loss they are is not asked."""
        none = {
            name: getattr(batch, name)[:0] for name in ("predictors", "targets", "weights", "counted", "target_samples")
        }
        self.model(replace(batch, **none).to(self.mesh.device))
        end_forward(self.model)

    def _flops(self, batches: Sequence[Batch]) -> float:
        count, times = self.parts.flops, passes([n for n, p in self.model.named_parameters() if p.requires_grad])
        return sum(count(batch, times, self.mesh.sizes.share) for batch in batches) if count else 0.0

    def _refuse_or_skip(self, batches: StepBatches, losses: Sequence[float], norm: float) -> None:
        rule = self.parts.config.non_finite
        described = describe_non_finite(self.stage, batches.batches, losses, norm)
        if rule.action == "stop" or self.progress.skipped > rule.at_most:
            raise NonFiniteError(described)
        self.log({"event": "skipped", "step": self.progress.step, "stage": self.stage.name, "why": described})

    def _advance(self, batches: StepBatches, *, skipped: bool) -> None:
        self.progress = replace(
            self.progress,
            step=self.progress.step + 1,
            stage_step=self.progress.stage_step + 1,
            manifest=batches.cursor.manifest,
            packs=batches.cursor.packs,
            skipped=self.progress.skipped + skipped,
        )


def _largest(gradient: Tensor) -> Tensor:
    """The largest absolute value; 0 of nothing."""
    return gradient.detach().abs().amax() if gradient.numel() else gradient.new_zeros(())


def loader_of(
    of: Manifest | Mixture | SelectedEpoch | ChosenBatches,
    parts: Assembly,
    mesh: Mesh,
    global_batch: int,
    micro_batch: int,
) -> Loader:
    """This rank's batches of one set or several, without end, or of what was selected or chosen."""
    settings, ranks = parts.config.loader, mesh.sizes.data
    stream = PackStream(
        *(of, mesh.data_rank, ranks, global_batch),
        epochs=None,
        deal="cost",
        media_root=settings.media_root,
        allow=settings.allow,
    )
    packs = global_batch // ranks
    weights = {name: weight for each in stream.manifests for name, weight in each.source_weights.items()}
    layout = replace(parts.layout, source_weights=weights)
    return Loader(stream, packs, micro_batch, layout, settings.workers, settings.ahead, settings.kind)
