"""One optimizer step's loss and gradients, by the trainer's own parts, on any mesh or on none."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mindvl_data.shards import Pack
from mindvl_train.config.schema import TrainConfig
from mindvl_train.data.batch import Batch, BatchLayout, collate
from mindvl_train.dtensor import local, place_of
from mindvl_train.kernels.registry import KernelConfig, resolve
from mindvl_train.loop.optim import freeze_all_but
from mindvl_train.models.initialise import give_weights
from mindvl_train.models.vlm import SPEC, VLM, VLMConfig
from mindvl_train.parallel.context import share_of
from mindvl_train.parallel.data import add_copies_up, end_forward
from mindvl_train.parallel.host import total
from mindvl_train.parallel.mesh import Sizes, build_mesh
from mindvl_train.parallel.parallelise import parallelise
from tests.mindvl_train.synthetic import LAYOUT, TINY_MODEL, scale_up

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """A model, the packs of one global batch, and how the step is cut.

    Attributes:
        decoder: changes of the tiny decoder.
        vision: likewise of the tiny tower.
        layout: changes of the batch's layout.
        settings: of the run's YAML.
        train: globs of what trains.
        micro_batch: packs a forward pass.
        factor: by which drawn matrices are made larger.
    """

    packs: Sequence[Pack]
    decoder: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)
    layout: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    train: tuple[str, ...] = ("*",)
    micro_batch: int = 1
    factor: float = 8


Step = tuple[float, dict[str, Tensor]]


def in_one_process(case: Case) -> Step:
    """The loss and all gradients, by one plain forward and backward pass over the whole batch."""
    model = scale_up(give_weights(_on_meta(case), 3, CPU), case.factor)
    freeze_all_but(model, case.train)
    batch = collate(case.packs, _layout(case))
    loss = model(batch) / batch.total_weight
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def on_a_mesh(folder: Path, case: Case, sizes: Sizes) -> Step:
    """The same on this mesh: the job of every rank."""
    mesh = build_mesh(sizes, CPU)
    config = TrainConfig(**RUN, **case.settings)
    model = scale_up(give_weights(parallelise(_on_meta(case), mesh, config), 3, CPU), case.factor)
    freeze_all_but(model, case.train)
    packs = case.packs[mesh.data_rank :: sizes.data]
    groups = [packs[start : start + case.micro_batch] for start in range(0, len(packs), case.micro_batch)]
    batches = [share_of(collate(group, _layout(case)), mesh) for group in groups]
    divisor = total(sum(batch.total_weight for batch in batches))
    SPEC.before_step(model, divisor, [partial(_look, model, batch) for batch in batches])
    loss = 0.0
    for number, batch in enumerate(batches, start=1):
        add_copies_up(model, now=number == len(batches))
        part = model(batch) / divisor
        part.backward()
        loss += part.item()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return total(loss), _whole(gradients)


RUN: dict[str, Any] = {
    "name": "one step",
    "model": {"name": "vlm", "config": TINY_MODEL},
    "stages": {"only": {"manifest": "none", "lr": {"*": 1.0}, "until": {"packs": 1}}},
}


@torch.no_grad()
def _look(model: VLM, batch: Batch) -> None:
    model(batch)
    end_forward(model)


def _layout(case: Case) -> BatchLayout:
    return BatchLayout(**{**vars(LAYOUT), **case.layout})


def _on_meta(case: Case) -> VLM:
    settings = {part: TINY_MODEL[part] | getattr(case, part) for part in TINY_MODEL}
    with torch.device("meta"):
        return VLM(VLMConfig(**settings), resolve(KernelConfig(), "cpu"))


def _whole(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors, put together from the pieces of all ranks: a copy that differs from another would show."""
    pieces = {name: (place_of(each), local(each)) for name, each in gradients.items()}
    heard: list[dict[str, tuple[tuple[slice, ...], Tensor]]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(heard, pieces)
    whole = {name: torch.full(each.shape, torch.nan) for name, each in gradients.items()}
    for rank_pieces in heard:
        for name, (place, piece) in rank_pieces.items():
            known = whole[name][place]
            assert torch.equal(known, piece) or known.isnan().all(), name
            whole[name][place] = piece
    return whole
