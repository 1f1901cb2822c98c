"""A short convolution over the stream, a filter a channel, and SiLU: what stands before the delta rule's heads."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mindvl_train.kernels.meta import keeping
from mindvl_train.kernels.registry import CausalConvolution, KernelSpec
from mindvl_train.kernels.segments import KEPT, Segments, boundaries

# What causal-conv1d takes.
CUDA_WIDTHS, CUDA_CHANNELS = (2, 3, 4), 8


def reference(stream: Tensor, weight: Tensor, segments: Segments) -> Tensor:
    """A token and those before it in its segment, in float32; before a segment's first token there are zeros.

    Args:
        stream: [T, C].
        weight: [C, W]; the last is a token's own.
        segments: the boundaries; their lengths add up to T.

    Returns:
        [T, C] in the type of `stream`.
    """
    places = segments.places(stream.device).unsqueeze(-1)
    wide, filters = stream.float(), weight.float()
    summed = wide * filters[:, -1]
    for back in range(1, weight.shape[1]):
        earlier = F.pad(wide, (0, 0, back, 0))[: len(wide)]
        summed = summed + earlier.masked_fill(places < back, 0.0) * filters[:, -1 - back]
    return F.silu(summed).to(stream.dtype)


def load_cuda() -> CausalConvolution:
    """`causal_conv1d_fn`, told by the segment of every token, which it takes for channels that lie side by side."""
    from causal_conv1d import causal_conv1d_fn

    @lru_cache(KEPT)
    def owners(segments: Segments, device: torch.device) -> Tensor:
        """On the device once a batch, not once a layer."""
        return segments.owners(device).to(torch.int32).unsqueeze(0)

    def convolve(stream: Tensor, weight: Tensor, segments: Segments) -> Tensor:
        channels, width = weight.shape
        if width not in CUDA_WIDTHS or channels % CUDA_CHANNELS:
            raise ValueError(
                f"causal-conv1d takes filters of 2 to 4 tokens over a multiple of {CUDA_CHANNELS} channels, not of "
                f"{width} over {channels}; set kernels.causal_convolution: reference"
            )
        convolved: Tensor = causal_conv1d_fn(
            stream.contiguous().t().unsqueeze(0), weight, seq_idx=owners(segments, stream.device), activation="silu"
        )
        return convolved.squeeze(0).t()

    return convolve


def load_npu() -> CausalConvolution:
    """`causal_conv1d` of flash-linear-attention, which has a backend for Ascend; told by the boundaries."""
    from fla.modules.causal_conv1d import causal_conv1d

    def convolve(stream: Tensor, weight: Tensor, segments: Segments) -> Tensor:
        ends, host = boundaries(segments, stream.device)
        convolved: Tensor = causal_conv1d(
            stream.unsqueeze(0), weight, activation="silu", cu_seqlens=ends, cu_seqlens_cpu=host
        )[0]
        return convolved.squeeze(0)

    return convolve


REFERENCE = KernelSpec(devices=frozenset(), load=lambda: reference)
CUDA = KernelSpec(
    devices=frozenset({"cuda"}),
    load=load_cuda,
    precisions=frozenset({"bfloat16"}),
    package="causal_conv1d",
    install="mindvl[delta]",
)
META = KernelSpec(devices=frozenset({"meta"}), load=lambda: keeping(reference, lambda stream, weight, _: [stream]))
NPU = KernelSpec(
    devices=frozenset({"npu"}),
    load=load_npu,
    precisions=frozenset({"bfloat16"}),
    package="fla",
    install="fla-core[npu]",
)
