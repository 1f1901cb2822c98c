"""Packs of one manifest by number, over a few open shards, each checked against its hash when it is first opened."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.manifest import Manifest, ManifestError, open_shard
from mindvl_data.media import Access, MediaError, MediaReader
from mindvl_data.shards import Pack, PackImage, ShardReader
from mindvl_data.stream.epochs import EpochOrder, order_of_epoch

OPEN_SHARDS = 4


class PackReader:
    """The packs of a manifest in the order of any epoch; it travels to another process without what it has open."""

    def __init__(self, manifest: Manifest, access: Access, open_shards: int = OPEN_SHARDS) -> None:
        self._manifest = manifest
        self._open_shards = open_shards
        self._media = MediaReader(manifest.build_folder, access)
        counts = [shard.packs for shard in manifest.shards]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._order: EpochOrder | None = None
        self._open: OrderedDict[int, ShardReader] = OrderedDict()
        self._costs: dict[int, NDArray[np.int64]] = {}

    def number(self, epoch: int, place: int) -> int:
        """The pack that stands at a place of an epoch."""
        if self._order is None or self._order.epoch != epoch:
            step = int(self._manifest.order["step"])
            self._order = order_of_epoch(
                self._manifest.id, epoch, self._manifest.num_packs, step, self._manifest.borders
            )
        return self._order.pack(place)

    def read(self, number: int) -> Pack:
        """A pack with the bytes of all its images. Raises ManifestError."""
        shard, place = self._shard(number)
        return self._with_images(shard[place])

    def segment(self, number: int, inner: int) -> Pack:
        """A segment of a pack as a pack of its own, without padding. Raises ManifestError."""
        shard, place = self._shard(number)
        return self._with_images(shard.segment(place, inner))

    def costs(self, number: int) -> NDArray[np.int64]:
        """What a pack costs, int64 [2]: Σ l² and patches; its tokens and images are not read.

        They stay in memory, 16 bytes a pack: a later epoch, whose steps lie all over the shards, opens none for them.
        """
        index = self._index(number)
        if index not in self._costs:
            self._costs[index] = self._shard(number)[0].costs
        return np.asarray(self._costs[index][number - int(self._starts[index])])

    def _index(self, number: int) -> int:
        """The shard that a pack lies in."""
        return int(np.searchsorted(self._starts, number, side="right")) - 1

    def _shard(self, number: int) -> tuple[ShardReader, int]:
        index = self._index(number)
        if index not in self._open:
            first = int(self._starts[index])
            self._open[index] = open_shard(self._manifest, self._manifest.shards[index], first)
            if len(self._open) > self._open_shards:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(index)
        return self._open[index], number - int(self._starts[index])

    def _with_images(self, pack: Pack) -> Pack:
        if all(image.data is not None for image in pack.images):
            return pack
        images: list[PackImage] = []
        for image in pack.images:
            again = images and image.is_video and image.data is None and _place(image) == _place(images[-1])
            images.append(replace(image, data=images[-1].data) if again else self._with_data(image))
        return replace(pack, images=tuple(images))

    def _with_data(self, image: PackImage) -> PackImage:
        if image.data is not None:
            return image
        read = self._media.view if image.is_video else self._media.read
        try:
            data = read(str(image.uri), image.offset or 0, image.size or 0, image.sha256)
        except MediaError as error:
            raise ManifestError(f"{self._manifest.where}: {error}") from error
        return replace(image, data=data)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}


def _place(image: PackImage) -> tuple[str | None, int | None, int | None]:
    """Where its bytes lie."""
    return image.uri, image.offset, image.size
