"""Images as the levels 0..255 of their patches, and the patches on the device.

A patch of levels takes an eighth of the bytes of the float32 patch that it becomes (one byte a value, and the
one frame once): that is what waits in queues, crosses processes and goes to the device; there it is normalised.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from mindvl_data import vision
from mindvl_data.vision.pixels import TEMPORAL_PATCH

CHANNELS = 3


def _pillow(picture: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC))


def _torch(picture: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    resized = interpolate(pixels, (size[1], size[0]), mode="bicubic", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


# `pillow` is what the published processor does. `torch` takes less time and differs by a level here and there:
# tests/mindvl_train/data/test_uint8_patches.py holds it to 0.1 of 255 levels on average.
RESIZES: dict[str, Callable[[Image.Image, tuple[int, int]], NDArray[np.uint8]]] = {"pillow": _pillow, "torch": _torch}


def decode_levels(
    data: bytes | memoryview, grid_h: int, grid_w: int, patch: int, merge: int, resize: str = "pillow"
) -> NDArray[np.uint8]:
    """An encoded image as [grid_h · grid_w, patch · patch · 3] uint8, in the order of `vision.decode`; a patch is
    (y, x, channel). Raises BadImage as `vision.decode` does."""
    pixels = RESIZES[resize](vision.load_rgb(data), (grid_w * patch, grid_h * patch))
    # Rows of a patch stay whole: that copies runs of bytes, and the channels are parted on the device.
    rows = pixels.reshape(grid_h // merge, merge, patch, grid_w // merge, merge, patch * CHANNELS)
    return rows.transpose(0, 3, 1, 4, 2, 5).reshape(grid_h * grid_w, -1)


def normalise(levels: Tensor, normalisation: vision.Normalisation = vision.CLIP) -> Tensor:
    """[N, patch² · 3] uint8, as `decode_levels` makes them → [N, 3 · 2 · patch²] float32, as `vision.decode` does
    to 1e-6: × 1/255, mean and deviation, the one frame doubled."""
    mean, deviation = torch.tensor(normalisation, dtype=torch.float32, device=levels.device)
    values = levels.view(len(levels), -1, CHANNELS).to(torch.float32)
    scaled = torch.addcmul(-mean / deviation, values, 1.0 / (255.0 * deviation)).transpose(1, 2)
    return scaled[:, :, None].expand(-1, -1, TEMPORAL_PATCH, -1).reshape(len(levels), -1)
