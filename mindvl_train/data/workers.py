"""The stream for `torch.utils.data.DataLoader`, its worker processes, and torchdata's `StatefulDataLoader`.

    DataLoader(PackDataset(stream, layout), batch_sampler=StepPlan(stream, micro_batch), collate_fn=as_it_is,
               num_workers=2, multiprocessing_context="spawn")

The main process plans (which packs make which micro-batch: arithmetic), the workers read, decode and hand back
one `Bundle` a micro-batch, in order. A bundle says where the cursor stands once it is consumed, so that the state
{manifest, packs} goes on under any number of workers, ranks or micro-batches.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from mindvl_data.errors import UserError
from mindvl_data.runtime.buffers import Buffers
from mindvl_data.stream import PackStream, Slot
from mindvl_train.data.batch import BatchLayout, collate
from mindvl_train.data.bundle import Bundle, SharedPieces, lay_flat
from mindvl_train.data.steps import Cursor, StepBatches, micro_batches

Anything = TypeVar("Anything")


class WorkerDiedError(UserError):
    """A worker process ended by itself; says how."""


@dataclass(frozen=True)
class Work:
    """One micro-batch to make, and what its `Bundle` says of the cursor."""

    slots: Sequence[Slot]
    packs: int
    ends_step: bool


class StepPlan(Sampler[Any]):
    """The micro-batches of a rank from the stream's cursor on: a `batch_sampler`, without end where the stream is."""

    def __init__(self, stream: PackStream, micro_batch: int, limit: int | None = None) -> None:
        """`limit`: steps at most."""
        self._stream, self._micro_batch, self._limit = stream, micro_batch, limit

    def __iter__(self) -> PlannedWork:
        return PlannedWork(self._stream, self._micro_batch, self._limit)


class PlannedWork:
    """Iterates over `Work`. Its state is the stream's: a step that is not handed out as a whole counts as not begun."""

    def __init__(self, stream: PackStream, micro_batch: int, limit: int | None) -> None:
        self._stream, self._micro_batch, self._limit = stream, micro_batch, limit
        self._state = stream.state_dict()
        self._left: list[Work] = []

    def __iter__(self) -> PlannedWork:
        return self

    def __next__(self) -> Work:
        if not self._left:
            self._left = self._next_step()
        work = self._left.pop(0)
        self._state["packs"] = work.packs
        return work

    def _next_step(self) -> list[Work]:
        n = self._state["packs"]
        step = self._stream.step_at(n)
        if not step.slots or self._limit == 0:
            raise StopIteration
        self._limit = None if self._limit is None else self._limit - 1
        groups = micro_batches(step.slots, self._micro_batch)
        return [*(Work(group, n, False) for group in groups[:-1]), Work(groups[-1], step.after, True)]

    def state_dict(self) -> dict[str, Any]:
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._stream.load_state_dict(state)
        self._state, self._left = dict(state), []


class PackDataset(Dataset[Bundle]):
    """Makes the bundles; every process opens the shards for itself.

    pieces: of shared memory that a worker keeps for bundles on their way: as many as the DataLoader prefetches.
    """

    def __init__(self, stream: PackStream, layout: BatchLayout, pieces: int = 3) -> None:
        self._stream, self._layout, self._limit = stream, layout, pieces
        self._pieces: SharedPieces | None = None

    def __getitems__(self, work: Work) -> Bundle:
        if self._pieces is None and get_worker_info() is not None:
            self._pieces = SharedPieces(self._limit)
        packs = [self._stream.read(slot) for slot in work.slots]
        return lay_flat(collate(packs, self._layout, pixels="levels"), work.packs, work.ends_step, self._pieces)


def as_it_is(bundle: Anything) -> Anything:
    """The `collate_fn`: a bundle is a batch already."""
    return bundle


def steps_from_workers(
    stream: PackStream, layout: BatchLayout, workers: int, ahead: int, micro_batch: int, limit: int
) -> Iterator[StepBatches]:
    """`Loader.steps` by worker processes.

    Raises:
        WorkerDiedError: at once, when one of them ends by itself.
    """
    per_step = -(-stream.packs_per_step // micro_batch)
    # Of a worker, so that `ahead` steps wait in all.
    waiting = -(-per_step * ahead // workers)
    data = DataLoader(
        PackDataset(stream, layout, waiting + 1),
        batch_sampler=StepPlan(stream, micro_batch, limit),
        collate_fn=as_it_is,
        num_workers=workers,
        prefetch_factor=waiting,
        multiprocessing_context="spawn",
    )
    bundles, memory = _alive(iter(data)), Buffers()
    # A piece of shared memory stays mapped as long as it is held: mapping it anew costs more than its copy.
    mapped: deque[Tensor] = deque(maxlen=workers * (waiting + 1))
    while step := list(itertools.islice(bundles, per_step)):
        mapped.extend(bundle.buffer for bundle in step)
        stream.advance(stream.step_at(stream.state_dict()["packs"]))
        yield StepBatches(tuple(bundle.batch(memory) for bundle in step), Cursor(**stream.state_dict()))


def _alive(bundles: Iterator[Bundle]) -> Iterator[Bundle]:
    try:
        yield from bundles
    except (RuntimeError, ConnectionError, EOFError) as error:
        # A connection breaks where a worker dies while a bundle is on its way.
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        cause = error if isinstance(error, RuntimeError) else f"A worker ended with a batch on its way ({error})."
        raise WorkerDiedError(
            f"{cause} Its memory may have run out: fewer `workers`, or fewer steps `ahead`, take less; the run goes on "
            "from its last checkpoint"
        ) from error
