"""Packs in order for (rank, world), with the cursor as the loader's whole state.

The order was fixed at build time, so position n alone says what comes next: epoch n // packs, place n % packs
of that epoch's order. Nothing depends on the world size, the workers or the batch size.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mindvl_data.manifest import Manifest, ManifestError, check_shard, read_manifest
from mindvl_data.media import MediaError, MediaReader, source_roots
from mindvl_data.shards import Pack, PackImage, ShardReader

Last = Literal["pad", "wrap", "drop"]
OPEN_SHARDS = 4


@dataclass(frozen=True)
class Slot:
    """One place of a global batch: which pack, and whether it only fills the batch."""

    epoch: int
    place: int
    fills: bool = False


@dataclass(frozen=True)
class Step:
    """One global batch: its slots, the cursor after it and the packs that `drop` skipped before it."""

    slots: tuple[Slot, ...]
    after: int
    skipped: int = 0


def next_step(n: int, packs: int, global_batch: int, last: Last) -> Step:
    """The global batch that starts at cursor `n`; a pure function, the same on every rank.

    `pad` fills the last batch of an epoch with packs without loss, `wrap` takes them from the next epoch,
    `drop` skips what does not fill a batch. `n` counts real packs, so it means the same under any batch size.
    """
    left = packs - n % packs
    if left >= global_batch or last == "wrap":
        places = range(n, n + global_batch)
        return Step(tuple(Slot(p // packs, p % packs) for p in places), n + global_batch)
    if last == "drop":
        after = next_step(n + left, packs, global_batch, last)
        return replace(after, skipped=after.skipped + left)
    real = tuple(Slot(p // packs, p % packs) for p in range(n, n + left))
    fill = replace(real[0], fills=True)
    return Step(real + (fill,) * (global_batch - left), n + left)


def epoch_order(manifest_id: str, epoch: int, packs: int, step: int) -> NDArray[np.int64]:
    """Places → pack numbers, int64 [packs]: the build's order in epoch 0, whole steps permuted later.

    A last step that is not full stays last, so that no other step is torn. Drawn from (id, epoch) by hashing:
    no generator whose stream may change with a version.
    """
    full = packs // step
    if epoch == 0 or full < 2:
        return np.arange(packs)
    seed = f"{manifest_id}\0{epoch}\0".encode()
    keys = [hashlib.sha256(seed + i.to_bytes(8, "little")).digest() for i in range(full)]
    blocks = np.array(sorted(range(full), key=keys.__getitem__), np.int64)
    moved = (blocks[:, None] * step + np.arange(step)).ravel()
    return np.concatenate([moved, np.arange(full * step, packs)])


class PackStream:
    """An iterable of the packs of one rank, that goes on exactly from `state_dict()` under any topology.

    global_batch: packs a step over all ranks (default: one a rank). epochs: None is endless. A pack that
    fills the last batch of an epoch (`last="pad"`) has a loss mask that is false everywhere. Every shard's
    hash is checked when it is first opened. Raises ManifestError.
    """

    def __init__(
        self,
        manifest: Manifest | str | Path,
        rank: int = 0,
        world: int = 1,
        global_batch: int | None = None,
        epochs: int | None = 1,
        last: Last = "pad",
        media_root: str | Path | None = None,
    ) -> None:
        self.manifest = manifest if isinstance(manifest, Manifest) else read_manifest(manifest)
        self.global_batch = world if global_batch is None else global_batch
        self.skipped = 0
        self._rank, self._world, self._epochs, self._last = rank, world, epochs, last
        self._n = 0
        self._packs = _PackReader(self.manifest, media_root)
        self._order: tuple[int, NDArray[np.int64]] = (0, np.arange(self.manifest.num_packs))
        self._check()

    def _check(self) -> None:
        if not 0 <= self._rank < self._world:
            raise ValueError(f"rank {self._rank} is not within a world of {self._world}")
        if self.global_batch < 1 or self.global_batch % self._world:
            raise ValueError(f"global_batch {self.global_batch} is no multiple of the world size {self._world}")
        if self._last not in ("pad", "wrap", "drop"):
            raise ValueError(f"last is {self._last!r}; pad, wrap or drop")
        if self._last == "drop" and self.global_batch > self.manifest.num_packs:
            raise ValueError(
                f"global_batch {self.global_batch} is larger than the {self.manifest.num_packs} packs of "
                f"{self.manifest.path}: last='drop' would drop everything; use 'pad' or 'wrap'"
            )

    def state_dict(self) -> dict[str, Any]:
        """The whole state: the manifest's id and the packs delivered over all ranks."""
        return {"manifest": self.manifest.id, "packs": self._n}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`. Raises ManifestError when it belongs to another manifest."""
        if state["manifest"] != self.manifest.id:
            raise ManifestError(
                f"{self.manifest.path}: its id is {self.manifest.id}, the saved position belongs to "
                f"{state['manifest']}; give the manifest that the run began with"
            )
        self._n = int(state["packs"])

    def __iter__(self) -> Iterator[Pack]:
        while (step := self._next()) is not None:
            mine = step.slots[self._rank :: self._world]
            for slot in mine[:-1]:
                yield self._read(slot)
            pack = self._read(mine[-1])
            # The cursor moves when the last pack of the step is handed over, by the whole global batch.
            self._n, self.skipped = step.after, self.skipped + step.skipped
            yield pack

    def _next(self) -> Step | None:
        packs = self.manifest.num_packs
        end = None if self._epochs is None else self._epochs * packs
        if end is not None and self._n >= end:
            return None
        step = next_step(self._n, packs, self.global_batch, self._last)
        # `drop` may have skipped over the end of the last epoch.
        if end is not None and step.slots[0].epoch * packs >= end:
            self.skipped, self._n = self.skipped + step.skipped, end
            return None
        return step

    def _read(self, slot: Slot) -> Pack:
        if self._order[0] != slot.epoch:
            step = int(self.manifest.order["step"])
            order = epoch_order(self.manifest.id, slot.epoch, self.manifest.num_packs, step)
            self._order = (slot.epoch, order)
        pack = self._packs.read(int(self._order[1][slot.place]))
        return pack.without_loss() if slot.fills else pack


class _PackReader:
    """Packs by number, over a few open shards, each checked against its hash when first opened."""

    def __init__(self, manifest: Manifest, media_root: str | Path | None) -> None:
        self._manifest = manifest
        self._media = MediaReader(
            manifest.path.parent.parent, source_roots(manifest.data["recipe"].get("sources", {})), media_root
        )
        counts = [shard.packs for shard in manifest.shards]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._open: OrderedDict[int, ShardReader] = OrderedDict()
        self._checked: set[int] = set()

    def read(self, number: int) -> Pack:
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        pack = self._shard(shard)[number - int(self._starts[shard])]
        images = tuple(image if image.data is not None else self._fetch(image) for image in pack.images)
        return replace(pack, images=images)

    def _shard(self, number: int) -> ShardReader:
        if number not in self._open:
            info = self._manifest.shards[number]
            path = self._manifest.shard_path(info)
            if number not in self._checked:
                path = check_shard(self._manifest, info)
                self._checked.add(number)
            self._open[number] = ShardReader(path, int(self._starts[number]))
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(number)
        return self._open[number]

    def _fetch(self, image: PackImage) -> PackImage:
        try:
            data = self._media.read(str(image.uri), image.offset or 0, image.size or 0, image.sha256)
        except MediaError as error:
            raise ManifestError(f"{self._manifest.path}: {error}") from error
        return replace(image, data=data)
