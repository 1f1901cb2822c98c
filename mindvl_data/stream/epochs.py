"""The order of an epoch: the build's own in epoch 0, whole steps permuted in later ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class EpochOrder:
    """Places → pack numbers of one epoch, held as one number a step and not one a pack.

    steps: int64 [packs // step], the step of the build's order that stands at each place; empty: as built.
    """

    epoch: int
    step: int
    steps: NDArray[np.int64]

    def pack(self, place: int) -> int:
        """The number of the pack at `place`."""
        number, inside = divmod(place, self.step)
        return int(self.steps[number]) * self.step + inside if number < len(self.steps) else place


def order_of_epoch(manifest_id: str, epoch: int, packs: int, step: int, borders: Sequence[int] = ()) -> EpochOrder:
    """An epoch's order, drawn from (id, epoch) by hashing: no generator whose stream may change with a version.

    A last step that is not full stays last, so that no other step is torn: steps that the build made alike in cost stay
    whole.

    Args:
        manifest_id: Of the set.
        epoch: From 0, which is the build's order.
        packs: Of the set.
        step: Packs that stay together.
        borders: Of the windows of a curriculum, in which steps stay.
    """
    full = packs // step
    if epoch == 0 or full < 2:
        return EpochOrder(epoch, step, np.empty(0, np.int64))
    seed = hashlib.sha256(f"{manifest_id}\0{epoch}\0".encode())
    keys = bytearray()
    for number in range(full):
        one = seed.copy()
        one.update(number.to_bytes(8, "little"))
        keys += one.digest()
    # A digest as four big-endian words sorts as its bytes do; lexsort takes the last key first.
    words = np.frombuffer(keys, ">u8").reshape(full, 4)
    windows = np.searchsorted(np.array(borders, np.int64), np.arange(full) * step, side="right")
    return EpochOrder(epoch, step, np.lexsort((*words.T[::-1], windows)).astype(np.int64))


def epoch_order(manifest_id: str, epoch: int, packs: int, step: int, borders: Sequence[int] = ()) -> NDArray[np.int64]:
    """The whole of an epoch's order: places → pack numbers, int64 [packs]."""
    steps = order_of_epoch(manifest_id, epoch, packs, step, borders).steps
    moved = (steps[:, None] * step + np.arange(step)).ravel()
    return np.concatenate([moved, np.arange(len(moved), packs)])
