"""One training sequence in memory: a pack, its images and what it costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mindvl_data.vision.video.frame import Frame


@dataclass(frozen=True)
class PackImage:
    """One image of a pack: its place among the tokens, its grid in patches before the merge, its bytes.

    Of a clip, or of a pair of its frames, `frames` are the 2 · grid[0] frames that it shows; the last may be there
    twice. seconds_per_grid: from one pair to the next, for families whose positions look at it; else 0.
    """

    start: int
    grid: tuple[int, int, int]
    data: bytes | memoryview | None = None
    uri: str | None = None
    offset: int | None = None
    size: int | None = None
    sha256: bytes | None = None
    frames: tuple[Frame, ...] = ()
    seconds_per_grid: float = 0.0

    @property
    def is_video(self) -> bool:
        return bool(self.frames)

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]


@dataclass(frozen=True)
class Pack:
    """One training sequence of `seq_len` tokens.

    tokens: int32 [seq_len], image placeholders expanded. loss_mask: bool [seq_len], true where the token is
    itself a target (unshifted). cu_seqlens: int32 [segments + 1], 0 … seq_len; padding is one last segment.
    num_tokens: where the padding begins. sample_ids, sources, repeats: one entry a real segment. weights: likewise,
    what a loss token of it weighs besides, where an epoch's selection says so; in no shard. loss_weights: float32
    [seq_len], what each loss token weighs by its turn, 1 elsewhere; None where that is 1 all over the set.
    """

    index: int
    tokens: NDArray[np.int32]
    loss_mask: NDArray[np.bool_]
    cu_seqlens: NDArray[np.int32]
    num_tokens: int
    sample_ids: tuple[bytes, ...]
    sources: tuple[str, ...]
    repeats: tuple[int, ...]
    images: tuple[PackImage, ...]
    num_patches: int
    attention_cost: int
    vision_cost: int
    weights: tuple[float, ...] = ()
    loss_weights: NDArray[np.float32] | None = None

    @property
    def seq_len(self) -> int:
        return len(self.tokens)

    def without_loss(self) -> Pack:
        """The same pack with nothing to learn from: its tokens are read, and none is a target."""
        return replace(self, loss_mask=np.zeros_like(self.loss_mask))


def padding_pack(index: int, seq_len: int, pad_id: int) -> Pack:
    """Nothing but padding: what fills the last batch of an epoch, without a token, an image or a sample that counts.

    Args:
        index: in the manifest, of the pack whose turn it would be.
        seq_len: its tokens.
        pad_id: of each of them.
    """
    return Pack(
        index=index,
        tokens=np.full(seq_len, pad_id, np.int32),
        loss_mask=np.zeros(seq_len, np.bool_),
        cu_seqlens=np.array([0, seq_len], np.int32),
        num_tokens=0,
        sample_ids=(),
        sources=(),
        repeats=(),
        images=(),
        num_patches=0,
        attention_cost=0,
        vision_cost=0,
    )


def attention_cost(cu_seqlens: NDArray[np.int32], num_tokens: int) -> int:
    """Σ l² over the real segments (padding attends to nothing that counts).

    Args:
        cu_seqlens: int32 [segments + 1], padding a segment of its own.
        num_tokens: Where the padding begins.
    """
    lengths = np.diff(cu_seqlens[cu_seqlens <= num_tokens]).astype(np.int64)
    return int((lengths**2).sum())


def vision_cost(images: Iterable[PackImage]) -> int:
    """Σ (grid_h · grid_w)² · grid_t over the images: attention inside the vision tower."""
    return sum((h * w) ** 2 * t for t, h, w in (image.grid for image in images))
