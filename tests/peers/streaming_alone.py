"""MosaicML streaming without torchvision, which it imports for data sets that are not used here.

torchvision would bring a torch of its own.
"""

import sys
import types
from importlib.machinery import ModuleSpec

for name in ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional"):
    module = types.ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    sys.modules[name] = module
sys.modules["torchvision.datasets"].VisionDataset = object  # type: ignore[attr-defined]
sys.modules["torchvision.transforms.functional"].to_tensor = None  # type: ignore[attr-defined]

import streaming  # type: ignore[import-not-found]  # noqa: E402

__all__ = ["streaming"]
