"""Root-mean-square normalisation (Zhang & Sennrich, arXiv 1910.07467)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mindvl_train.kernels.registry import KernelSpec, RMSNorm


def reference(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalises the last dimension in float32 and scales it, as Qwen's modules do.

    Args:
        hidden: [..., D].
        weight: [D].
        eps: added to the mean square.

    Returns:
        [..., D] in the type of `hidden`.
    """
    wide = hidden.float()
    scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return weight * (wide * scale).to(hidden.dtype)


def fused(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Torch's own, one kernel on CUDA; it scales before it rounds, the reference after.

    Args and returns are those of `reference`.
    """
    return F.rms_norm(hidden, weight.shape, weight.to(hidden.dtype), eps)


def load_npu() -> RMSNorm:
    """`npu_rms_norm`, which wants one type for both and returns the norms as well."""
    import torch_npu

    def normalise(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
        normalised: Tensor = torch_npu.npu_rms_norm(hidden, weight.to(hidden.dtype), epsilon=eps)[0]
        return normalised

    return normalise


REFERENCE = KernelSpec(devices=frozenset(), load=lambda: reference)
CUDA = KernelSpec(devices=frozenset({"cuda"}), load=lambda: fused)
NPU = KernelSpec(devices=frozenset({"npu"}), load=load_npu)
