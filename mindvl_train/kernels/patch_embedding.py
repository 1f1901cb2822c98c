"""The first layer of the vision tower: a matrix product over flattened patches, or the convolution it stands for.

Which is faster depends on the hardware and its software's version; they are equal.
"""

import torch.nn.functional as F
from torch import Tensor

from mindvl_train.kernels.registry import KernelSpec


def reference(patches: Tensor, weight: Tensor, kernel: tuple[int, int, int, int]) -> Tensor:
    """A matrix product.

    Args:
        patches: [N, channels · frames · patch²].
        weight: [D, channels · frames · patch²].
        kernel: channels, frames, patch, patch.

    Returns:
        [N, D].
    """
    return F.linear(patches, weight)


def conv3d(patches: Tensor, weight: Tensor, kernel: tuple[int, int, int, int]) -> Tensor:
    """The convolution as it was published: its stride is its kernel, so every patch is one output.

    Args and returns are those of `reference`.
    """
    return F.conv3d(patches.view(-1, *kernel), weight.view(-1, *kernel)).view(len(patches), -1)


REFERENCE = KernelSpec(devices=frozenset(), load=lambda: reference)
CONV3D = KernelSpec(devices=frozenset(), load=lambda: conv3d)
