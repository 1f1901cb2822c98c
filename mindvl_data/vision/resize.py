"""The resize rule: from a picture's size to its grid of patches, for one picture and for a column of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, overload

import numpy as np
from numpy.typing import NDArray

from mindvl_data.vision.aspect import MAX_ASPECT, check_aspect
from mindvl_data.vision.normalisation import CLIP, Normalisation
from mindvl_data.vision.video.rule import QWEN2_VIDEO, QWEN3_VIDEO, VideoRule


@dataclass(frozen=True)
class Resolution:
    """What a family's image processor does to a picture: the rule that a build counts by and a trainer decodes by.

    Attributes:
        patch: side of a patch in pixels.
        merge: patches merged on a side.
        min_pixels, max_pixels: bounds on the resized picture.
        normalisation: of the pixels, in red, green and blue.
        video: the family's rule for clips; None: it has none.
    """

    patch: int = 14
    merge: int = 2
    min_pixels: int = 3136
    max_pixels: int = 1_003_520
    normalisation: Normalisation = CLIP
    video: VideoRule | None = None

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> "Resolution":
        """The inverse of `described`."""
        pixels = {name: tuple(described[name]) for name in Normalisation._fields if name in described}
        sizes = {key: value for key, value in described.items() if key not in pixels and key != "video"}
        video = VideoRule.of(described["video"]) if "video" in described else None
        return cls(**sizes, normalisation=Normalisation(**pixels) if pixels else CLIP, video=video)

    def described(self) -> dict[str, Any]:
        """The rule of pictures for a manifest; without `mean` and `deviation` they are CLIP's.

        That of clips is `video.described()`, under `video`: a set without clips does not have it.
        """
        sizes = {name: getattr(self, name) for name in ("patch", "merge", "min_pixels", "max_pixels")}
        pixels = {name: list(values) for name, values in self.normalisation._asdict().items()}
        return sizes if self.normalisation == CLIP else sizes | pixels


# The rows of the table `mindvl_data.processors`, which plugins extend: what families were published with. The first
# serves Qwen2-VL and Qwen2.5-VL, with an upper bound of ours (1,280 tokens; theirs is 12,845,056
# pixels), the second Qwen3-VL and Qwen3.5.
QWEN2_VL: Final = Resolution(video=QWEN2_VIDEO)
QWEN3_VL: Final = Resolution(
    patch=16,
    min_pixels=65_536,
    max_pixels=16_777_216,
    normalisation=Normalisation((0.5,) * 3, (0.5,) * 3),
    video=QWEN3_VIDEO,
)


def smart_resize(width: int, height: int, resolution: Resolution) -> tuple[int, int]:
    """(width, height) that a picture is resized to, by Qwen2-VL's published function of this name.

    Sides become multiples of patch × merge (halves round to even), their product falls within the bounds.
    Raises BadImage `aspect_ratio` where one side is over 200 times the other.
    """
    check_aspect(width, height)
    factor = resolution.patch * resolution.merge
    new_height = round(height / factor) * factor
    new_width = round(width / factor) * factor
    if new_height * new_width > resolution.max_pixels:
        beta = math.sqrt((height * width) / resolution.max_pixels)
        new_height = max(factor, math.floor(height / beta / factor) * factor)
        new_width = max(factor, math.floor(width / beta / factor) * factor)
    elif new_height * new_width < resolution.min_pixels:
        beta = math.sqrt(resolution.min_pixels / (height * width))
        new_height = math.ceil(height * beta / factor) * factor
        new_width = math.ceil(width * beta / factor) * factor
    return new_width, new_height


def patch_grid(width: int, height: int, resolution: Resolution) -> tuple[int, int, int]:
    """(t, h, w) in patches before the merge; t is 1. Raises BadImage `aspect_ratio`."""
    new_width, new_height = smart_resize(width, height, resolution)
    return 1, new_height // resolution.patch, new_width // resolution.patch


def patch_grids(width: NDArray[np.integer], height: NDArray[np.integer], resolution: Resolution) -> NDArray[np.int16]:
    """`patch_grid` of many: widths and heights [n] → (h, w) [n, 2]; (0, 0) where the aspect is refused.

    Bit for bit the scalar rule while a picture has less than 2**53 pixels (float64 holds the product).
    """
    sides = np.stack([height, width], axis=1).astype(np.float64)
    factor = resolution.patch * resolution.merge
    area = sides.prod(axis=1)
    resized = np.rint(sides / factor) * factor
    pixels = resized.prod(axis=1)
    large, small = pixels > resolution.max_pixels, pixels < resolution.min_pixels
    shrink = np.sqrt(area[large] / resolution.max_pixels)[:, None]
    resized[large] = np.maximum(factor, np.floor(sides[large] / shrink / factor) * factor)
    grow = np.sqrt(resolution.min_pixels / area[small])[:, None]
    resized[small] = np.ceil(sides[small] * grow / factor) * factor
    resized[sides.max(axis=1) / sides.min(axis=1) > MAX_ASPECT] = 0
    return (resized // resolution.patch).astype(np.int16)


@overload
def num_vision_tokens(grid_t: int, grid_h: int, grid_w: int, merge: int) -> int: ...
@overload
def num_vision_tokens(
    grid_t: NDArray[np.integer] | int, grid_h: NDArray[np.integer], grid_w: NDArray[np.integer], merge: int
) -> NDArray[np.int64]: ...
def num_vision_tokens(
    grid_t: NDArray[np.integer] | int,
    grid_h: NDArray[np.integer] | int,
    grid_w: NDArray[np.integer] | int,
    merge: int,
) -> NDArray[np.int64] | int:
    """Placeholders of an image, t·h·w / merge²; vision-start and vision-end are not among them.

    Args:
        grid_t: In patches before the merge, as `grid_h` and `grid_w`: numbers, or arrays of one shape.
        grid_h: Likewise.
        grid_w: Likewise.
        merge: Patches a side that become one token.

    Returns:
        A number, or int64 of that shape.
    """
    if isinstance(grid_h, np.ndarray):
        # A grid column is int16, and its product is not.
        return grid_t * grid_h.astype(np.int64) * grid_w // merge**2
    return int(grid_t) * int(grid_h) * int(grid_w) // merge**2
