"""The gated activation of the feed-forward layers (Shazeer, arXiv 2002.05202)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mindvl_train.kernels.registry import KernelSpec, SwiGLU


def reference(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up, both [..., I]."""
    return F.silu(gate) * up


def load_npu() -> SwiGLU:
    """`npu_swiglu`, which takes both side by side."""
    import torch_npu

    def gated(gate: Tensor, up: Tensor) -> Tensor:
        activated: Tensor = torch_npu.npu_swiglu(torch.cat((gate, up), dim=-1), dim=-1)
        return activated

    return gated


REFERENCE = KernelSpec(devices=frozenset(), load=lambda: reference)
NPU = KernelSpec(devices=frozenset({"npu"}), load=load_npu)
