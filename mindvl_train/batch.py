"""Packs → the tensors of one micro-batch: one stream of segments and one stream of patches.

Several packs become one longer stream; nothing tells them apart afterwards but the segments' boundaries,
which is all that attention looks at.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mindvl_data import vision
from mindvl_data.errors import UserError
from mindvl_data.shards import Pack, PackImage
from mindvl_train.kernels.segments import Segments

# A patch as `vision.decode` makes it.
CHANNELS = 3
TEMPORAL_PATCH = 2


class BatchError(UserError):
    """Packs that do not make a batch; says which pack and what to do."""


@dataclass(frozen=True)
class Batch:
    """What a model's `forward` takes. T tokens, N patches, P image placeholders, L targets.

    Attributes:
        ids: [T] int64.
        positions: [T] int64, restarting at 0 in every segment.
        segments: boundaries in the token stream; a pack's padding is a segment.
        patches: [N, channels · frames · patch²] float32; N is never 0.
        patch_positions: [N, 2] int64, row and column in the image.
        image_segments: boundaries in the patch stream, one segment an image frame.
        placeholders: [P] int64, the tokens whose embeddings the image features replace, in the features'
            order.
        num_masked_features: features at the end of the stream that belong to no placeholder.
        predictors: [L] int64, for every target the token that predicts it.
        targets: [L] int64, token ids.
        weights: [L] float32, each target's weight in the loss.
        total_weight: the sum of `weights`, on the host.
        num_tokens: tokens that are not padding.
        num_images: images that belong to a token.
        packs: the packs' places in the manifest, for messages.
    """

    ids: Tensor
    positions: Tensor
    segments: Segments
    patches: Tensor
    patch_positions: Tensor
    image_segments: Segments
    placeholders: Tensor
    num_masked_features: int
    predictors: Tensor
    targets: Tensor
    weights: Tensor
    total_weight: float
    num_tokens: int
    num_images: int
    packs: tuple[int, ...]

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on `device`."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved)


# What a target weighs, from the number of targets in its segment. Per token, long answers dominate; per
# sample, every sample counts the same; the square root lies between (InternVL 2.5, arXiv 2412.05271).
LOSS_WEIGHTS: dict[str, Callable[[NDArray[np.int64]], NDArray[np.float64]]] = {
    "token": lambda targets: np.ones(len(targets)),
    "sample": lambda targets: 1.0 / targets,
    "square_root": lambda targets: 1.0 / np.sqrt(targets),
}


@dataclass(frozen=True)
class BatchLayout:
    """What the model and the manifest say about a batch.

    Attributes:
        patch: side of a patch in pixels.
        merge: patches on a side of the square that becomes one token.
        image_pad: the id of the image placeholder.
        loss_weight: a name in `LOSS_WEIGHTS`.
    """

    patch: int
    merge: int
    image_pad: int
    loss_weight: str = "token"


def collate(packs: Sequence[Pack], layout: BatchLayout) -> Batch:
    """Joins packs into one batch and decodes their images.

    Raises:
        BatchError: an image cannot be decoded, or a pack's images and placeholders do not belong together.
    """
    ids = np.concatenate([pack.tokens for pack in packs]).astype(np.int64)
    segments = Segments.of(length for pack in packs for length in np.diff(pack.cu_seqlens).tolist())
    positions = _positions(segments)
    # A segment's first token follows nothing, whatever its mask says.
    targets = np.flatnonzero(np.concatenate([pack.loss_mask for pack in packs]) & (positions > 0))
    weights = _weights(targets, segments, layout.loss_weight)
    grids = [image.grid for pack in packs for image in pack.images]
    masked_grid = (1, layout.merge, layout.merge)
    return Batch(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        segments=segments,
        patches=torch.from_numpy(_patches(packs, layout)),
        patch_positions=torch.from_numpy(_patch_positions(grids or [masked_grid], layout.merge)),
        image_segments=Segments.of(h * w for t, h, w in grids or [masked_grid] for _ in range(t)),
        placeholders=torch.from_numpy(_placeholders(packs, layout)),
        num_masked_features=0 if grids else 1,
        predictors=torch.from_numpy(targets - 1),
        targets=torch.from_numpy(ids[targets]),
        weights=torch.from_numpy(weights.astype(np.float32)),
        total_weight=float(weights.sum()),
        num_tokens=sum(pack.num_tokens for pack in packs),
        num_images=len(grids),
        packs=tuple(pack.index for pack in packs),
    )


def _positions(segments: Segments) -> NDArray[np.int64]:
    starts = np.repeat(np.array(segments.cu_seqlens[:-1], np.int64), segments.lengths)
    return np.arange(len(starts)) - starts


def _weights(targets: NDArray[np.int64], segments: Segments, rule: str) -> NDArray[np.float64]:
    """[L] float64, by the number of targets in each target's segment."""
    segment = np.searchsorted(segments.cu_seqlens, targets, side="right") - 1
    return LOSS_WEIGHTS[rule](np.bincount(segment, minlength=1)[segment])


def _patches(packs: Sequence[Pack], layout: BatchLayout) -> NDArray[np.float32]:
    """[N, patch values]; without any image, zeros for one masked grid of the smallest size."""
    decoded = [_decode(pack, image, layout) for pack in packs for image in pack.images]
    if decoded:
        return np.concatenate(decoded)
    values = CHANNELS * TEMPORAL_PATCH * layout.patch**2
    return np.zeros((layout.merge**2, values), np.float32)


def _decode(pack: Pack, image: PackImage, layout: BatchLayout) -> NDArray[np.float32]:
    frames, height, width = image.grid
    try:
        patches = vision.decode(image.data or b"", height, width, layout.patch, layout.merge)
    except vision.BadImage as error:
        raise BatchError(
            f"pack {pack.index}: the image at token {image.start} cannot be decoded ({error}); "
            "run `python -m mindvl_data verify` on the manifest"
        ) from error
    return np.tile(patches, (frames, 1))


def _patch_positions(grids: Sequence[tuple[int, int, int]], merge: int) -> NDArray[np.int64]:
    """[N, 2]: row and column of every patch, in merge-block order (h / merge, w / merge, merge, merge)."""
    return np.concatenate([np.tile(_frame_positions(h, w, merge), (t, 1)) for t, h, w in grids])


def _frame_positions(height: int, width: int, merge: int) -> NDArray[np.int64]:
    rows_and_columns = np.indices((height, width), dtype=np.int64).reshape(
        2, height // merge, merge, width // merge, merge
    )
    return rows_and_columns.transpose(1, 3, 2, 4, 0).reshape(-1, 2)


def _placeholders(packs: Sequence[Pack], layout: BatchLayout) -> NDArray[np.int64]:
    """[P]: the places of the image placeholders in the joined stream."""
    offsets = np.cumsum([0, *(len(pack.tokens) for pack in packs)])
    places = [_pack_placeholders(pack, layout) for pack in packs]
    return np.concatenate([place + offset for place, offset in zip(places, offsets, strict=False)])


def _pack_placeholders(pack: Pack, layout: BatchLayout) -> NDArray[np.int64]:
    runs = [
        np.arange(image.start, image.start + vision.num_vision_tokens(*image.grid, layout.merge))
        for image in pack.images
    ]
    expected = np.concatenate([np.empty(0, np.int64), *runs])
    found = np.flatnonzero(pack.tokens == layout.image_pad)
    if not np.array_equal(expected, found):
        raise BatchError(
            f"pack {pack.index}: its {len(pack.images)} images cover {len(expected)} tokens, but its "
            f"{len(found)} image placeholders (id {layout.image_pad}) are more, fewer or elsewhere; "
            "run `python -m mindvl_data verify` on the manifest"
        )
    return found
