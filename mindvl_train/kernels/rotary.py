"""Rotary position embedding (Su et al., arXiv 2104.09864), in the half-split form of Llama and Qwen."""

import torch
from torch import Tensor

from mindvl_train.kernels.registry import KernelSpec, Rotary

# Of Ascend Extension for PyTorch 7.0; 6.0 takes a size of 128 alone.
NPU_SIZE_LIMIT, NPU_HEADS_LIMIT = 896, 1000


def reference(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates dimension i with dimension i + D/2 of every head.

    Args:
        heads: [T, heads, D] queries or keys.
        cos: [T, D] float32, the cosines of the angles, both halves written out.
        sin: [T, D] float32, likewise.

    Returns:
        [T, heads, D] in the type of `heads`.
    """
    wide = heads.float()
    first, second = wide.chunk(2, dim=-1)
    rotated = torch.cat((-second, first), dim=-1)
    return (wide * cos.unsqueeze(1) + rotated * sin.unsqueeze(1)).to(heads.dtype)


def load_npu() -> Rotary:
    """`npu_rotary_mul`, which takes four dimensions; in float32 like the reference."""
    import torch_npu

    def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        count, size = heads.shape[1:]
        if size % 2 or size >= NPU_SIZE_LIMIT or count >= NPU_HEADS_LIMIT:
            raise ValueError(
                f"{count} heads of {size} are more than npu_rotary_mul takes (an even size below {NPU_SIZE_LIMIT}, "
                f"fewer than {NPU_HEADS_LIMIT} heads); set kernels.rotary: reference"
            )
        rotated: Tensor = torch_npu.npu_rotary_mul(
            heads.float().unsqueeze(0), cos[None, :, None], sin[None, :, None], rotary_mode="half"
        )
        return rotated.squeeze(0).to(heads.dtype)

    return rotate


REFERENCE = KernelSpec(devices=frozenset(), load=lambda: reference)
NPU = KernelSpec(devices=frozenset({"npu"}), load=load_npu)
