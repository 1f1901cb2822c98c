"""Each expert's matrix times its own run of tokens."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mindvl_train.kernels.registry import GroupedGEMM, KernelSpec

# Numbers of 16 bits in the 16 bytes that CUDA's grouped product aligns rows to.
WIDTH = 8
# The codes of npu_grouped_matmul.
NPU_ONE_OUTPUT, NPU_STACKED_OUTPUT = 2, 3
NPU_BY_ROWS, NPU_BY_SUMMED = 0, 2
NPU_COUNTS = 1


def reference(tokens: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """One product an expert.

    Args:
        tokens: [M, D], sorted by expert.
        weight: [E, D, N].
        counts: [E] int64, tokens of each expert; they add up to M, and some may be 0.

    Returns:
        [M, N].
    """
    runs = torch.split(tokens, counts.tolist())
    return torch.cat([run @ matrix for run, matrix in zip(runs, weight, strict=True)])


def grouped(tokens: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """`torch.nn.functional.grouped_mm`: one kernel on CUDA, told by the ends of the runs on the device.

    It wants rows of whole 16 bytes: other widths are padded with zeros, which add nothing.

    Args and returns are those of `reference`.
    """
    if not len(tokens):
        return reference(tokens, weight, counts)
    ends = counts.cumsum(0).to(torch.int32)
    rows, columns = (-size % WIDTH for size in weight.shape[1:])
    if not rows and not columns:
        return F.grouped_mm(tokens, weight, offs=ends)
    padded = F.grouped_mm(F.pad(tokens, (0, rows)), F.pad(weight, (0, columns, 0, rows)), offs=ends)
    return padded[:, : weight.shape[2]]


def load_npu() -> GroupedGEMM:
    """`npu_grouped_matmul`, which knows no gradients."""
    import torch_npu

    def run_by_run(tokens: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
        """[M, D] · [E, D, N], by runs of tokens."""
        product: Tensor = torch_npu.npu_grouped_matmul(
            [tokens],
            [weight],
            bias=None,
            group_list=counts,
            split_item=NPU_ONE_OUTPUT,
            group_type=NPU_BY_ROWS,
            group_list_type=NPU_COUNTS,
        )[0]
        return product

    def weight_gradient(tokens: Tensor, gradient: Tensor, counts: Tensor) -> Tensor:
        """[M, D]ᵀ · [M, N] → [E, D, N], by runs of the summed dimension."""
        product: Tensor = torch_npu.npu_grouped_matmul(
            [tokens.t()],
            [gradient],
            bias=None,
            group_list=counts,
            split_item=NPU_STACKED_OUTPUT,
            group_type=NPU_BY_SUMMED,
            group_list_type=NPU_COUNTS,
        )[0]
        return product

    class NPUGroupedGEMM(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, tokens: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
            ctx.save_for_backward(tokens, weight, counts)
            return run_by_run(tokens, weight, counts)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
            tokens, weight, counts = ctx.saved_tensors
            gradient = gradients[0].contiguous()
            tokens_gradient = run_by_run(gradient, weight.transpose(1, 2), counts)
            return tokens_gradient, weight_gradient(tokens, gradient, counts), None

    def multiply(tokens: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
        product: Tensor = NPUGroupedGEMM.apply(tokens, weight, counts)
        return product

    return multiply


def without_values(tokens: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """On the meta device, where nobody knows the counts: as much arithmetic, of the right shape.

    Args and returns are those of `reference`.
    """
    return tokens @ weight[0]


REFERENCE = KernelSpec(devices=frozenset(), load=lambda: reference)
META = KernelSpec(devices=frozenset({"meta"}), load=lambda: without_values)
CUDA = KernelSpec(devices=frozenset({"cuda"}), load=lambda: grouped, precisions=frozenset({"bfloat16"}))
NPU = KernelSpec(devices=frozenset({"npu"}), load=load_npu)
