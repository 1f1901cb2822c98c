"""Images as the levels 0..255 of their patches, and the patches on the device.

A patch of levels takes an eighth of the bytes of the float32 patch that it becomes (one byte a value, and the
one frame once): that is what waits in queues, crosses processes and goes to the device; there it is normalised.
"""

import torch
from torch import Tensor

from mindvl_data import vision
from mindvl_data.vision.video.rule import TEMPORAL_PATCH

CHANNELS = 3


def normalise(levels: Tensor, normalisation: vision.Normalisation = vision.CLIP) -> Tensor:
    """[N, patch² · 3] of `vision.uint8_patches` → [N, 3 · 2 · patch²] float32, as `vision.decode` does to 1e-6:
    × 1/255, mean and deviation, the one frame doubled."""
    mean, deviation = torch.tensor(normalisation, dtype=torch.float32, device=levels.device)
    values = levels.view(len(levels), -1, CHANNELS).to(torch.float32)
    scaled = torch.addcmul(-mean / deviation, values, 1.0 / (255.0 * deviation)).transpose(1, 2)
    return scaled[:, :, None].expand(-1, -1, TEMPORAL_PATCH, -1).reshape(len(levels), -1)
