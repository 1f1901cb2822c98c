"""Where one sequence ends and the next begins in a stream that holds many."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate


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
