"""Where one sequence ends and the next begins in a stream that holds many."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

# Boundaries kept on a device, those of a few batches.
KEPT = 16


@dataclass(frozen=True)
class Segments:
    """Boundaries of the segments of a packed stream, held on the host.

    Kernels take the boundaries as Python integers: a tensor on the device would cost a synchronisation in
    every layer, and the fused kernels of Ascend want a host list.

    Attributes:
        cu_seqlens: 0, the end of the first segment, …, the length of the stream.
    """

    cu_seqlens: tuple[int, ...]

    @classmethod
    def of(cls, lengths: Iterable[int]) -> "Segments":
        """The segments with these lengths, one after another."""
        return cls((0, *accumulate(lengths)))

    @property
    def lengths(self) -> list[int]:
        """Tokens in each segment."""
        return [stop - start for start, stop in zip(self.cu_seqlens, self.cu_seqlens[1:], strict=False)]

    def within(self, start: int, stop: int) -> "Segments":
        """Those of a run of the stream, and of its segments at the edges what lies in it."""
        return Segments((0, *(end - start for end in self.cu_seqlens if start < end < stop), stop - start))

    def owners(self, device: torch.device) -> Tensor:
        """[T] int64: the number of every token's segment."""
        lengths = torch.tensor(self.lengths, dtype=torch.int64, device=device)
        numbers = torch.arange(len(self.lengths), device=device)
        return torch.repeat_interleave(numbers, lengths, output_size=self.cu_seqlens[-1])

    def places(self, device: torch.device) -> Tensor:
        """[T] int64: how many tokens of its segment stand before every token."""
        starts = torch.tensor(self.cu_seqlens[:-1], dtype=torch.int64, device=device)
        return torch.arange(self.cu_seqlens[-1], device=device) - starts[self.owners(device)]


@lru_cache(KEPT)
def boundaries(segments: Segments, device: torch.device) -> tuple[Tensor, Tensor]:
    """`cu_seqlens` [N + 1] int64, on the device and on the host: once a batch and not once a layer."""
    host = torch.tensor(segments.cu_seqlens, dtype=torch.int64)
    return host.to(device), host
