"""The stream itself: this rank's packs from the cursor on."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from mindvl_data.manifest import Manifest, ManifestError
from mindvl_data.media import access_to
from mindvl_data.shards import Pack, padding_pack
from mindvl_data.stream.chosen import ChosenBatches
from mindvl_data.stream.course import AnyManifest, Course, Curriculum, Mixture, Slot, alone, lay_out
from mindvl_data.stream.cursor import Last, Step, next_step
from mindvl_data.stream.dealing import deal
from mindvl_data.stream.reading import PackReader
from mindvl_data.stream.selected import SelectedEpoch, SelectedReader

Deal = Literal["turn", "cost"]


class PackStream:
    """An iterable of the packs of one rank, that goes on exactly from `state_dict()` under any topology.

    manifest: a manifest, its path or URL, a `Mixture` of several, a `Curriculum`, a `SelectedEpoch` (once)
    or `ChosenBatches` (with the `global_batch` that they were chosen with).
    rank, world: of the data-parallel dimension; tensor- and context-parallel peers pass the same rank and get the same
    packs.
    global_batch: packs a step over all ranks (default: one a rank). epochs: None is endless. last: what becomes
    of the last batch of an epoch; with `pad` it is filled by packs of padding alone. deal:
    a rank takes every world-th pack of a batch (`turn`), or as many so that Σ l² and patches of the ranks even
    out (`cost`); the batch, and so the gradient, is the same. Every shard's hash is checked when it is first
    opened. media_root, allow: what else may be opened for images that lie elsewhere (see `access_to`): a manifest
    that came from somebody opens nothing beyond its own folder. Raises ManifestError, and ValueError for arguments
    that cannot work.
    """

    def __init__(
        self,
        manifest: AnyManifest | Mixture | Curriculum | SelectedEpoch | ChosenBatches,
        rank: int = 0,
        world: int = 1,
        global_batch: int | None = None,
        epochs: int | None = 1,
        last: Last = "pad",
        media_root: str | Path | None = None,
        deal: Deal = "turn",
        allow: Sequence[str] = (),
    ) -> None:
        self._selected = manifest if isinstance(manifest, SelectedEpoch) else None
        self.manifests: tuple[Manifest, ...]
        self.course: Course | ChosenBatches
        if isinstance(manifest, SelectedEpoch):
            self.manifests = (manifest.manifest,)
            self.course = alone(manifest.name, manifest.num_packs)
        elif isinstance(manifest, ChosenBatches):
            self.manifests, self.course = manifest.manifests, manifest
        else:
            self.manifests, self.course = lay_out(manifest, epochs)
        self.global_batch = world if global_batch is None else global_batch
        self.skipped = 0
        self._rank, self._world, self._last, self._deal = rank, world, last, deal
        self._n = 0
        self._accesses = tuple(access_to(each.build_folder, media_root, allow) for each in self.manifests)
        self._readers = self._opened()
        self._check()

    def _opened(self) -> tuple[PackReader, ...]:
        if self._selected:
            return (SelectedReader(self._selected, self._accesses[0]),)
        return tuple(PackReader(*each) for each in zip(self.manifests, self._accesses, strict=True))

    def _check(self) -> None:
        if not 0 <= self._rank < self._world:
            raise ValueError(f"rank {self._rank} is not within a world of {self._world}")
        if self.global_batch < 1 or self.global_batch % self._world:
            raise ValueError(f"global_batch {self.global_batch} is no multiple of the world size {self._world}")
        if self._last not in get_args(Last):
            raise ValueError(f"last is {self._last!r}; pad, wrap or drop")
        if self._deal not in get_args(Deal):
            raise ValueError(f"deal is {self._deal!r}; turn or cost")
        named = " and ".join(manifest.where for manifest in self.manifests)
        longest = self.course.longest()
        if self._last == "drop" and longest is not None and self.global_batch > longest:
            raise ValueError(
                f"global_batch {self.global_batch} is larger than the {longest} packs of {named}: last='drop' would "
                "drop everything; use 'pad' or 'wrap'"
            )
        if self._last == "wrap" and len({manifest.seq_len for manifest in self.manifests}) > 1:
            raise ValueError(f"last='wrap' would join packs of different lengths, of {named}; use 'pad' or 'drop'")

    @property
    def manifest(self) -> Manifest:
        """The manifest, or the first of several."""
        return self.manifests[0]

    @property
    def packs_per_step(self) -> int:
        """Packs of this rank in one global batch."""
        return self.global_batch // self._world

    def state_dict(self) -> dict[str, Any]:
        """The whole state: what is streamed (a manifest's id, or a hash of several with their weights), and the
        packs delivered over all ranks, by whole global batches."""
        return {"manifest": self.course.name, "packs": self._n}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`. Raises ManifestError when it belongs to other manifests or weights."""
        if state["manifest"] != self.course.name:
            raise ManifestError(
                f"{' and '.join(manifest.where for manifest in self.manifests)}: the id is {self.course.name}, the "
                f"saved position belongs to {state['manifest']}; give the manifest that the run began with, and of "
                "several the same weights and periods"
            )
        if int(state["packs"]) < 0:
            raise ManifestError(f"a saved position of {state['packs']} packs is none; the state was altered")
        self._n = int(state["packs"])

    def __iter__(self) -> Iterator[Pack]:
        while (step := self.step_at(self._n)).slots:
            for slot in step.slots[:-1]:
                yield self.read(slot)
            pack = self.read(step.slots[-1])
            # The cursor moves when the last pack of the step is handed over, by the whole global batch.
            self.advance(step)
            yield pack
        self.advance(step)

    def advance(self, step: Step) -> None:
        """Moves the cursor behind a step that was consumed; iterating over the stream does it by itself."""
        self._n, self.skipped = step.after, self.skipped + step.skipped

    def step_at(self, n: int) -> Step:
        """This rank's part of the global batch at cursor n; without slots when the stream is over.

        Moves nothing: a loader that works ahead plans by it, and sets the cursor once packs are consumed.
        """
        step = next_step(self.course, n, self.global_batch, self._last)
        if self._deal == "turn" or self._world == 1:
            return replace(step, slots=step.slots[self._rank :: self._world])
        if not step.slots:
            return step
        dealt = deal(np.stack([self._costs(slot) for slot in step.slots]), self._world)
        return replace(step, slots=tuple(step.slots[number] for number in dealt[self._rank]))

    def read(self, slot: Slot) -> Pack:
        """The pack of a slot, with the bytes of its images. Raises ManifestError."""
        reader = self._readers[slot.manifest]
        number = reader.number(slot.epoch, slot.place)
        if slot.fills:
            manifest = self.manifests[slot.manifest]
            return padding_pack(number, manifest.seq_len, manifest.tokenizer["pad_id"])
        return reader.read(number)

    def reopened(self) -> PackStream:
        """The same stream at the same place with files of its own, for another thread to read with."""
        other = copy.copy(self)
        other._readers = other._opened()
        return other

    def _costs(self, slot: Slot) -> np.ndarray[Any, np.dtype[np.int64]]:
        reader = self._readers[slot.manifest]
        costs = reader.costs(reader.number(slot.epoch, slot.place))
        return np.zeros_like(costs) if slot.fills else costs
