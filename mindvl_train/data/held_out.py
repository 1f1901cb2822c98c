"""A held-out set as single samples: cut out of their packs, and seen at another resolution."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mindvl_data import vision
from mindvl_data.errors import UserError
from mindvl_data.shards import Pack, PackImage


class HeldOutError(UserError):
    """A held-out set that cannot be used this way; says what is needed."""


def samples(pack: Pack) -> Iterator[Pack]:
    """The pack's samples, each as a pack of its own without padding; its costs are left at 0."""
    for index, (start, stop) in enumerate(pairwise(pack.cu_seqlens.tolist()[: len(pack.sources) + 1])):
        images = tuple(
            replace(image, start=image.start - start) for image in pack.images if start <= image.start < stop
        )
        yield Pack(
            index=pack.index,
            tokens=pack.tokens[start:stop],
            loss_mask=pack.loss_mask[start:stop],
            cu_seqlens=np.array([0, stop - start], np.int32),
            num_tokens=stop - start,
            sample_ids=(pack.sample_ids[index],),
            sources=(pack.sources[index],),
            repeats=(pack.repeats[index],),
            images=images,
            num_patches=sum(image.num_patches for image in images),
            attention_cost=0,
            vision_cost=0,
            loss_weights=None if pack.loss_weights is None else pack.loss_weights[start:stop],
        )


def at_resolution(pack: Pack, resolution: vision.Resolution) -> Pack:
    """The same samples with as many placeholders for their images as this resolution makes of them.

    The pack grows or shrinks by their difference; its costs are left at 0. Text is left as it is: coordinates
    written for another resolution stay those. Videos keep their sizes, which follow a rule of their own.

    Raises:
        HeldOutError: the images' bytes are not there.
        BadImage: an image has no readable header or an aspect that the resize rule refuses.
    """
    grids = [_grid(image, resolution) for image in pack.images]
    starts = np.array([image.start for image in pack.images], np.int64)
    old = _lengths([image.grid for image in pack.images], resolution)
    new = _lengths(grids, resolution)
    # Tokens that stand before a place move by what the images before it have grown.
    grown = np.concatenate([[0], np.cumsum(new - old)])
    times = np.ones(len(pack.tokens), np.int64)
    for start, before, after in zip(starts.tolist(), old.tolist(), new.tolist(), strict=True):
        times[start : start + before] = 0
        times[start] = after
    boundaries = np.asarray(pack.cu_seqlens, np.int64)
    images = tuple(
        replace(image, start=image.start + int(shift), grid=grid)
        for image, shift, grid in zip(pack.images, grown, grids, strict=False)
    )
    return replace(
        pack,
        tokens=np.repeat(pack.tokens, times),
        loss_mask=np.repeat(pack.loss_mask, times),
        loss_weights=None if pack.loss_weights is None else np.repeat(pack.loss_weights, times),
        cu_seqlens=(boundaries + grown[np.searchsorted(starts, boundaries)]).astype(np.int32),
        num_tokens=pack.num_tokens + int(grown[-1]),
        images=images,
        num_patches=sum(image.num_patches for image in images),
        attention_cost=0,
        vision_cost=0,
    )


def _lengths(grids: Sequence[tuple[int, int, int]], resolution: vision.Resolution) -> NDArray[np.int64]:
    return np.array([vision.num_vision_tokens(*grid, resolution.merge) for grid in grids], np.int64)


def _grid(image: PackImage, resolution: vision.Resolution) -> tuple[int, int, int]:
    if image.is_video:
        return image.grid
    if image.data is None:
        raise HeldOutError("the held-out set's images were not read: open it with a stream that reads them")
    header = vision.read_header(bytes(image.data))
    return vision.patch_grid(header.width, header.height, resolution)
