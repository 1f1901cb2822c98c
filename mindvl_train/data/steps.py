"""The steps of a loader: which packs make which micro-batch, and where the cursor stands once they are consumed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mindvl_data.stream import PackStream, Slot, Step
from mindvl_train.data.batch import Batch


@dataclass(frozen=True)
class Cursor:
    """Where a loader stands: `packs` delivered to the loop over all ranks, never those made ahead."""

    manifest: str
    packs: int


@dataclass(frozen=True)
class StepBatches:
    """All micro-batches of one optimizer step, and the cursor once they are consumed."""

    batches: tuple[Batch, ...]
    cursor: Cursor


def planned(stream: PackStream, limit: int) -> Iterator[Step]:
    """At most `limit` steps of a stream from its cursor on, which does not move."""
    n = stream.state_dict()["packs"]
    for _ in range(limit):
        step = stream.step_at(n)
        if not step.slots:
            return
        yield step
        n = step.after


def micro_batches(slots: Sequence[Slot], size: int) -> list[Sequence[Slot]]:
    """A step's slots, `size` at a time."""
    return [slots[start : start + size] for start in range(0, len(slots), size)]
