"""open_clip where torchvision's compiled operators do not fit the torch that is there.

An index serves torchvision built beside a torch for CUDA; beside one for the CPU its operators do not load, and it
fails at its import because two of them are unknown. CLIP needs none: told of, they are enough to import it.
"""

import sys
from functools import cache

import torch


@cache
def told() -> torch.library.Library | None:
    """Tell torch of the operators, once a process, if torchvision needs it to import; what is told must be kept."""
    if sys.modules.get("torchvision") is None:
        sys.modules.pop("torchvision", None)
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
    return None
