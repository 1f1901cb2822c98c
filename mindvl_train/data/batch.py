"""Packs → the tensors of one micro-batch: one stream of segments and one stream of patches.

Several packs become one longer stream; nothing tells them apart afterwards but the segments' boundaries,
which is all that attention looks at.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import accumulate
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mindvl_data import vision
from mindvl_data.errors import UserError
from mindvl_data.shards import Pack, PackImage
from mindvl_train.data.patches import Grid, frame_segments, patch_positions, window_order
from mindvl_train.data.positions import multimodal_positions, text_positions
from mindvl_train.data.uint8_patches import normalise
from mindvl_train.kernels.segments import Segments

# A patch as `vision.decode` makes it.
CHANNELS = 3
TEMPORAL_PATCH = 2
AnyNumber = TypeVar("AnyNumber", bound=np.number[Any])
# What `collate` makes of images: patches; levels, an eighth of their bytes, which `Batch.to` normalises on the
# device; or levels of black ones, where nobody looks at them: nothing is read or decoded.
Pixels = Literal["patches", "levels", "black"]


class BatchError(UserError):
    """Packs that do not make a batch; says which pack and what to do."""


@dataclass(frozen=True)
class Batch:
    """What a model's `forward` takes. T tokens, N patches, P image placeholders, L targets.

    Attributes:
        ids: [T] int64.
        positions: [T] int64, or [3, T] in time, height and width; they restart at 0 in every segment.
        segments: boundaries in the token stream; a pack's padding is a segment, but for a
            single token of it.
        real: [R] int64, the tokens that are not padding.
        patches: [N, channels · frames · patch²] float32, window after window; N is never 0. Of a batch of
            `levels`, until `to`, [N, frames · patch² · channels] uint8 (see `vision.media_levels`), where all frames
            of a patch are alike one of them.
        patch_positions: [N, 4] int64, row and column in the image, and its rows and columns.
        image_segments: boundaries in the patch stream, one segment an image frame.
        window_segments: one segment a window; the same as `image_segments` for a tower without windows.
        placeholders: [P] int64, the tokens whose embeddings the image features replace, in the features'
            order.
        num_masked_features: features at the end of the stream that belong to no placeholder.
        predictors: [L] int64, for every target the token that predicts it.
        targets: [L] int64, token ids.
        weights: [L] float32, each target's weight in the loss.
        target_samples: [L] int64, the number in `samples` of each target's sample.
        counted: [L] float32, likewise, but for what an epoch's selection has weighed up.
        total_weight: the sum of `counted`, on the host: what the loss is divided by.
        num_tokens: tokens that are not padding.
        num_targets: targets of its packs.
        num_images: images and videos that belong to a token; where a family takes the groups of a video's frames as
            images of their own (Qwen3-VL), each of these.
        num_patches: their patches.
        attention_cost: Σ l² over the segments that are not padding.
        vision_cost: Σ n² over the frames of the images.
        packs: the packs' numbers in the manifest, for messages; of none that only fills the batch.
        samples: the ids of their samples in hexadecimal, likewise.
        sources: of each of them the name of its source.
        normalisation: of levels, which `to` makes patches of.
        feature_order: where ranks share packs (`parallel/context.py`): the order in which features leave.
        features_sent, features_received: how many to and from each of those ranks.
    """

    ids: Tensor
    positions: Tensor
    segments: Segments
    real: Tensor
    patches: Tensor
    patch_positions: Tensor
    image_segments: Segments
    window_segments: Segments
    placeholders: Tensor
    num_masked_features: int
    predictors: Tensor
    targets: Tensor
    weights: Tensor
    counted: Tensor
    target_samples: Tensor
    total_weight: float
    num_tokens: int
    num_targets: int
    num_images: int
    num_patches: int
    attention_cost: int
    vision_cost: int
    packs: tuple[int, ...]
    samples: tuple[str, ...]
    sources: tuple[str, ...]
    normalisation: vision.Normalisation = vision.CLIP
    feature_order: Tensor | None = None
    features_sent: tuple[int, ...] = ()
    features_received: tuple[int, ...] = ()

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on `device`, where levels become patches."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        on_device = replace(self, **moved)
        return replace(on_device, patches=on_device.pixels)

    @property
    def pixels(self) -> Tensor:
        """The patches, of levels too: [N, channels · frames · patch²] float32."""
        return normalise(self.patches, self.normalisation) if self.patches.dtype == torch.uint8 else self.patches


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
        normalisation: of the pixels.
        window: tokens on a side of the vision tower's windows; None: it has none.
        position_axes: 1, or 3 for positions in time, height and width.
        loss_weight: a name in `LOSS_WEIGHTS`.
        source_weights: what a target of a source weighs besides, where that is not 1.
        video_pad: the id of the placeholder of videos; None: the data have none.
        tokens_per_second: positions in time that a second of video takes.
    """

    patch: int
    merge: int
    image_pad: int
    normalisation: vision.Normalisation = vision.CLIP
    window: int | None = None
    position_axes: int = 1
    loss_weight: str = "token"
    source_weights: Mapping[str, float] = field(default_factory=dict)
    video_pad: int | None = None
    tokens_per_second: int = 2


def collate(packs: Sequence[Pack], layout: BatchLayout, pixels: Pixels = "patches") -> Batch:
    """Joins packs into one batch and decodes their images and videos.

    Args:
        packs: one or more.
        layout: how a batch is made.
        pixels: what becomes of the images.

    Raises:
        BatchError: an image or video cannot be decoded, or a pack's images and placeholders do not belong together.
    """
    ids = np.concatenate([pack.tokens for pack in packs]).astype(np.int64)
    segments = Segments.of(length for pack in packs for length in _lengths(pack))
    # A segment's first token follows nothing, whatever its mask says.
    targets = np.flatnonzero(np.concatenate([pack.loss_mask for pack in packs]) & (text_positions(segments) > 0))
    counted = _weights(targets, segments, layout.loss_weight, _factors(packs, layout.source_weights))
    if any(pack.loss_weights is not None for pack in packs):
        counted = counted * _of_turns(packs)[targets]
    samples = _target_samples(packs, targets, segments)
    weights = counted * _selected(packs)[samples] if any(pack.weights for pack in packs) else counted
    images = _images(packs, layout, pixels)
    return Batch(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(_positions(packs, segments, layout)),
        segments=segments,
        real=torch.from_numpy(_real(packs)),
        patches=torch.from_numpy(images.patches),
        patch_positions=torch.from_numpy(images.positions),
        image_segments=images.frames,
        window_segments=images.windows,
        placeholders=torch.from_numpy(images.placeholders),
        num_masked_features=images.num_masked_features,
        predictors=torch.from_numpy(targets - 1),
        targets=torch.from_numpy(ids[targets]),
        weights=torch.from_numpy(weights.astype(np.float32)),
        counted=torch.from_numpy(counted.astype(np.float32)),
        target_samples=torch.from_numpy(samples),
        total_weight=float(counted.sum()),
        num_tokens=sum(pack.num_tokens for pack in packs),
        num_targets=len(targets),
        num_images=sum(len(pack.images) for pack in packs),
        num_patches=sum(pack.num_patches for pack in packs),
        attention_cost=sum(pack.attention_cost for pack in packs),
        vision_cost=sum(pack.vision_cost for pack in packs),
        packs=tuple(pack.index for pack in packs if pack.num_tokens),
        samples=tuple(sample.hex() for pack in packs for sample in pack.sample_ids),
        sources=tuple(source for pack in packs for source in pack.sources),
        normalisation=layout.normalisation,
    )


def _lengths(pack: Pack) -> list[int]:
    """Of a pack's segments. Padding of one token joins the segment before it: causal attention hides it from
    every real token, and a segment of one token crashes the fused kernel of Ascend."""
    lengths: list[int] = np.diff(pack.cu_seqlens).tolist()
    if pack.seq_len - pack.num_tokens == 1:
        lengths[-2:] = [sum(lengths[-2:])]
    return lengths


def _positions(packs: Sequence[Pack], segments: Segments, layout: BatchLayout) -> NDArray[np.int64]:
    if layout.position_axes == 1:
        return text_positions(segments)
    offsets = _offsets(packs)
    starts = [image.start + offset for pack, offset in zip(packs, offsets, strict=True) for image in pack.images]
    images = [image for pack in packs for image in pack.images]
    # An image, and a video whose times stand in the text, know no seconds.
    intervals = [layout.tokens_per_second * image.seconds_per_grid or 1.0 for image in images]
    return multimodal_positions(segments, starts, [image.grid for image in images], layout.merge, intervals)


def _offsets(packs: Sequence[Pack]) -> list[int]:
    """Where every pack begins in the joined stream."""
    return list(accumulate((len(pack.tokens) for pack in packs[:-1]), initial=0))


def _real(packs: Sequence[Pack]) -> NDArray[np.int64]:
    return np.concatenate(
        [np.arange(pack.num_tokens) + offset for pack, offset in zip(packs, _offsets(packs), strict=True)]
    )


def _factors(packs: Sequence[Pack], source_weights: Mapping[str, float]) -> NDArray[np.float64]:
    """[segments] float64: the weight of each segment's source; 1 for padding."""
    factors = []
    for pack in packs:
        of_pack = [source_weights.get(source, 1.0) for source in pack.sources]
        factors += of_pack + [1.0] * (len(_lengths(pack)) - len(of_pack))
    return np.array(factors)


def _of_turns(packs: Sequence[Pack]) -> NDArray[np.float64]:
    """[T] float64: what a loss token weighs by the turn that it is of."""
    ones = [np.ones(len(pack.tokens)) if pack.loss_weights is None else pack.loss_weights for pack in packs]
    return np.concatenate(ones).astype(np.float64)


def _selected(packs: Sequence[Pack]) -> NDArray[np.float64]:
    """[samples] float64: what an epoch's selection weighs each of them."""
    return np.concatenate([np.array(pack.weights or (1.0,) * len(pack.sources)) for pack in packs])


def _target_samples(packs: Sequence[Pack], targets: NDArray[np.int64], segments: Segments) -> NDArray[np.int64]:
    """[L] int64, the number of each target's sample among those of all packs; padding has neither."""
    real = [[True] * len(pack.sources) + [False] * (len(_lengths(pack)) - len(pack.sources)) for pack in packs]
    number = np.cumsum(np.concatenate(real)) - 1
    segment = np.searchsorted(segments.cu_seqlens, targets, side="right") - 1
    return np.asarray(number[segment], np.int64)


def _weights(
    targets: NDArray[np.int64], segments: Segments, rule: str, factors: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[L] float64, by the number of targets in each target's segment, times the factor of the segment."""
    segment = np.searchsorted(segments.cu_seqlens, targets, side="right") - 1
    return LOSS_WEIGHTS[rule](np.bincount(segment, minlength=1)[segment]) * factors[segment]


@dataclass(frozen=True)
class _Images:
    """What a batch says of its images, under the names and shapes of `Batch`."""

    patches: NDArray[Any]
    positions: NDArray[np.int64]
    frames: Segments
    windows: Segments
    placeholders: NDArray[np.int64]
    num_masked_features: int


def _images(packs: Sequence[Pack], layout: BatchLayout, pixels: Pixels) -> _Images:
    """The patches of all images and videos; without any, zeros for one masked grid of the smallest size."""
    decoded = _alike_in_frames([patches for pack in packs for patches in _decoded(pack, layout, pixels)])
    grids = [image.grid for pack in packs for image in pack.images] or [(1, layout.merge, layout.merge)]
    values = CHANNELS * TEMPORAL_PATCH * layout.patch**2
    images = _Images(
        patches=np.concatenate(decoded) if decoded else np.zeros((layout.merge**2, values), np.float32),
        positions=patch_positions(grids, layout.merge),
        frames=frame_segments(grids),
        windows=frame_segments(grids),
        placeholders=_placeholders(packs, layout),
        num_masked_features=0 if decoded else 1,
    )
    return images if layout.window is None else _by_windows(images, grids, layout.merge, layout.window)


def _by_windows(images: _Images, grids: Sequence[Grid], merge: int, window: int) -> _Images:
    """The same with patches and placeholders in the order of the windows; frames keep their places."""
    order, windows = window_order(grids, merge, window)
    placeholders = images.placeholders
    return replace(
        images,
        patches=_in_order(images.patches, order),
        positions=_in_order(images.positions, order),
        windows=windows,
        placeholders=placeholders[order] if len(placeholders) else placeholders,
    )


def _in_order(stream: NDArray[AnyNumber], order: NDArray[np.int64]) -> NDArray[AnyNumber]:
    """[N, ...] by merge blocks of N / len(order) patches."""
    return stream.reshape(len(order), -1, stream.shape[-1])[order].reshape(stream.shape)


def _decoded(pack: Pack, layout: BatchLayout, pixels: Pixels) -> Iterator[NDArray[Any]]:
    """The patches of every image and video of a pack, in order."""
    if pixels == "black":
        for image in pack.images:
            frames = TEMPORAL_PATCH if image.is_video else 1
            yield np.zeros((image.num_patches, frames * layout.patch**2 * CHANNELS), np.uint8)
        return
    done = 0
    try:
        for patches in _decoder(layout, pixels)(pack.images):
            done += 1
            yield patches
    except vision.BadImage as error:
        image = pack.images[done]
        raise BatchError(
            f"pack {pack.index}: the {'video' if image.is_video else 'image'} at token {image.start} cannot be decoded "
            f"({error}); run `python -m mindvl_data verify` on the manifest"
        ) from error


def _decoder(layout: BatchLayout, pixels: Pixels) -> Callable[[Sequence[PackImage]], Iterator[NDArray[Any]]]:
    if pixels == "levels":
        return partial(vision.media_levels, patch=layout.patch, merge=layout.merge)
    return partial(vision.media_patches, patch=layout.patch, merge=layout.merge, normalisation=layout.normalisation)


def _alike_in_frames(decoded: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Levels of images say their one frame twice where others are of videos, which have two."""
    width = max((patches.shape[1] for patches in decoded), default=0)
    return [np.tile(patches, (1, width // patches.shape[1])) for patches in decoded]


def _placeholders(packs: Sequence[Pack], layout: BatchLayout) -> NDArray[np.int64]:
    """[P]: the places of the image placeholders in the joined stream."""
    places = [_pack_placeholders(pack, layout) for pack in packs]
    return np.concatenate([place + offset for place, offset in zip(places, _offsets(packs), strict=True)])


def _pack_placeholders(pack: Pack, layout: BatchLayout) -> NDArray[np.int64]:
    runs = [
        np.arange(image.start, image.start + vision.num_vision_tokens(*image.grid, layout.merge))
        for image in pack.images
    ]
    expected = np.concatenate([np.empty(0, np.int64), *runs])
    pads = [layout.image_pad] if layout.video_pad is None else [layout.image_pad, layout.video_pad]
    found = np.flatnonzero(np.isin(pack.tokens, pads))
    if not np.array_equal(expected, found):
        raise BatchError(
            f"pack {pack.index}: its {len(pack.images)} images cover {len(expected)} tokens, but its "
            f"{len(found)} image placeholders (id {' or '.join(map(str, pads))}) are more, fewer or elsewhere; "
            "run `python -m mindvl_data verify` on the manifest"
        )
    return found
