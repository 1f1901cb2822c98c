"""Global batches that somebody chose: each of one manifest, which goes on where it stood."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from mindvl_data.manifest import Manifest, ManifestError
from mindvl_data.stream.course import Slot, check_fit


@dataclass(frozen=True)
class ChosenBatches:
    """Global batches, one behind another, each of one of several manifests.

    Attributes:
        manifests: what is chosen from.
        done: packs of each that came before.
        choices: of every batch, the number of its manifest.
        global_batch: packs of a batch.
    """

    manifests: tuple[Manifest, ...]
    done: tuple[int, ...]
    choices: tuple[int, ...]
    global_batch: int

    def __post_init__(self) -> None:
        check_fit(self.manifests)
        if len({each.seq_len for each in self.manifests}) > 1:
            lengths = ", ".join(f"{each.where} ({each.seq_len})" for each in self.manifests)
            raise ManifestError(f"batches chosen among sets need one seq_len: {lengths}")

    @cached_property
    def name(self) -> str:
        """A hash of all that decides what stands at a position."""
        said = [[each.id for each in self.manifests], self.done, self.choices, self.global_batch]
        return hashlib.sha256(json.dumps(["chosen 1", said]).encode()).hexdigest()

    @property
    def end(self) -> int:
        """Packs in all."""
        return len(self.choices) * self.global_batch

    @cached_property
    def _starts(self) -> Sequence[int]:
        """Of every batch, how many packs of its manifest came before it."""
        done, starts = list(self.done), []
        for choice in self.choices:
            starts.append(done[choice])
            done[choice] += self.global_batch
        return starts

    @property
    def after(self) -> tuple[int, ...]:
        """`done` once all batches are consumed."""
        counts = [self.choices.count(number) for number in range(len(self.manifests))]
        return tuple(done + count * self.global_batch for done, count in zip(self.done, counts, strict=True))

    def at(self, n: int) -> Slot:
        """The pack at position n; a manifest that ends begins its next epoch."""
        batch, inside = divmod(n, self.global_batch)
        choice = self.choices[batch]
        epoch, place = divmod(self._starts[batch] + inside, self.manifests[choice].num_packs)
        return Slot(epoch, place, manifest=choice)

    def left(self, n: int) -> int:
        """Packs from n to the end."""
        return self.end - n

    def longest(self) -> int:
        """The most packs between two borders."""
        return self.end
