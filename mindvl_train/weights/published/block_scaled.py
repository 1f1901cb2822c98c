"""Weights published in FP8, a scale for every square block of them (DeepSeek-V3, arXiv 2412.19437, 3.3)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mindvl_train.weights.published.family import Json, PublishedError
from mindvl_train.weights.tensor_files import TensorFiles

SCALE = "_scale_inv"
FP8 = "F8_E4M3"


@dataclass(frozen=True, kw_only=True)
class BlockScaledFiles(TensorFiles):
    """The tensors as they were meant, a tensor at a time; the scales themselves are hidden.

    Attributes:
        scales: by the name of the tensor they belong to and `_scale_inv`.
        block: rows and columns that share a scale.
        dtype: what the products are rounded to.
    """

    scales: TensorFiles
    block: tuple[int, int]
    dtype: torch.dtype

    def __getitem__(self, name: str) -> Tensor:
        stored = super().__getitem__(name)
        if name + SCALE not in self.scales:
            return stored
        return unscale(stored, self.scales[name + SCALE], self.block, self.dtype)


def open_block_scaled(stored: TensorFiles, config: Json, dtype: torch.dtype) -> BlockScaledFiles:
    """Published tensors and their scales, told apart and held against each other.

    Args:
        stored: all tensors of the folder.
        config: its `quantization_config`.
        dtype: what to round to.

    Raises:
        PublishedError: another kind of quantisation, or scales that do not fit, with their shapes.
    """
    block = config.get("weight_block_size")
    if config.get("quant_method") != "fp8" or not block:
        raise PublishedError(
            f"config.json: the weights are quantised by {config.get('quant_method')!r}; float weights and FP8 with "
            "weight_block_size are read; convert them first"
        )
    rows, columns = block
    names = {name for name in stored if not name.endswith(SCALE)}
    problems = []
    for name in sorted(names):
        if stored.dtypes[name] != FP8:
            continue
        expected = tuple(-(-size // length) for size, length in zip(stored.shapes[name], block, strict=False))
        found = stored.shapes.get(name + SCALE)
        if found != expected:
            problems.append(f"{name}{SCALE} is {list(found) if found else 'missing'}, expected {list(expected)}")
    if problems:
        raise PublishedError("\n".join(["the scales do not fit the FP8 weights:", *problems[:20]]))
    return BlockScaledFiles(
        files={name: stored.files[name] for name in names},
        shapes={name: stored.shapes[name] for name in names},
        dtypes={name: stored.dtypes[name] for name in names},
        stored=stored.stored,
        scales=stored,
        block=(rows, columns),
        dtype=dtype,
    )


def unscale(stored: Tensor, scales: Tensor, block: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Every block times its scale, in float32, rounded once; a band of blocks at a time is held in float32.

    Args:
        stored: [M, N] FP8.
        scales: [⌈M / rows⌉, ⌈N / columns⌉] float32.
        block: rows and columns of a block; those at the edges are smaller.
        dtype: of the result.

    Returns:
        [M, N].
    """
    rows, columns = block
    meant = torch.empty(stored.shape, dtype=dtype)
    for band, target, scale in zip(torch.split(stored, rows), torch.split(meant, rows), scales.float(), strict=True):
        target.copy_(band.float() * scale.repeat_interleave(columns)[: stored.shape[1]])
    return meant
