"""Images as the levels 0..255 of their patches, and the patches on the device.

A patch of levels takes an eighth of the bytes of the float32 patch that it becomes (one byte a value, and an
image's one frame once), a quarter where there are videos: that is what waits in queues, crosses processes and goes to
the device; there it is normalised.
"""

from math import isqrt

import torch
from torch import Tensor

from mindvl_data import vision
from mindvl_data.vision.video.rule import TEMPORAL_PATCH

CHANNELS = 3


def normalise(levels: Tensor, normalisation: vision.Normalisation = vision.CLIP) -> Tensor:
    """Levels as patches, as `vision.media_patches` makes them, to 1e-6: × 1/255, mean and deviation.

    Args:
        levels: [N, frames · patch² · 3] uint8 of `vision.media_levels`; one frame stands for both.
        normalisation: of the pixels.

    Returns:
        [N, 3 · 2 · patch²] float32.
    """
    mean, deviation = torch.tensor(normalisation, dtype=torch.float32, device=levels.device)
    pixels = levels.shape[1] // CHANNELS
    # A patch is a square, and twice a square is none.
    frames = 1 if isqrt(pixels) ** 2 == pixels else TEMPORAL_PATCH
    values = levels.view(len(levels), frames, -1, CHANNELS).to(torch.float32)
    scaled = torch.addcmul(-mean / deviation, values, 1.0 / (255.0 * deviation)).permute(0, 3, 1, 2)
    return scaled.expand(-1, -1, TEMPORAL_PATCH, -1).reshape(len(levels), -1)
