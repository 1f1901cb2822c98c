"""The hardware a run trains on: which torch device, and which backend its processes talk over.

An accelerator is an entry point of the group `mindvl_train.accelerators` whose object is an `Accelerator`.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from mindvl_data.errors import UserError
from mindvl_train import plugins

AUTO_ORDER = ("npu", "cuda", "cpu")


class AcceleratorError(UserError):
    """The accelerator that was asked for is not in this machine."""


@dataclass(frozen=True)
class Accelerator:
    """What an entry point of `mindvl_train.accelerators` holds.

    Attributes:
        device_type: torch's name for the device.
        backend: torch.distributed's name for the process group that serves it.
        available: whether this machine has one; imports nothing that may be missing.
    """

    device_type: str
    backend: str
    available: Callable[[], bool]


def _npu_is_available() -> bool:
    """Whether torch_npu imports: it does not where the vendor's runtime (CANN) is missing."""
    if importlib.util.find_spec("torch_npu") is None:
        return False
    try:
        torch_npu = importlib.import_module("torch_npu")
    except ImportError:
        return False
    return bool(torch_npu.npu.is_available())


CPU = Accelerator("cpu", "gloo", lambda: True)
CUDA = Accelerator("cuda", "nccl", torch.cuda.is_available)
NPU = Accelerator("npu", "hccl", _npu_is_available)


def choose(name: str) -> Accelerator:
    """The accelerator called `name`; `auto` takes the first of npu, cuda, cpu that is there.

    Raises:
        PluginError: nobody registers that name.
        AcceleratorError: it is registered, and the machine has none.
    """
    if name == "auto":
        known = plugins.available(plugins.ACCELERATORS)
        candidates: Iterator[Accelerator] = (
            plugins.load(plugins.ACCELERATORS, each) for each in AUTO_ORDER if each in known
        )
        return next(accelerator for accelerator in candidates if accelerator.available())
    accelerator: Accelerator = plugins.load(plugins.ACCELERATORS, name)
    if not accelerator.available():
        raise AcceleratorError(f"accelerator: {name!r} is not available on this machine; set it to auto or cpu")
    return accelerator
