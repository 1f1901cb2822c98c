"""On the meta device: as much arithmetic and as much kept as with values, in fewer calls."""

import pytest
import torch
from torch import Tensor, nn

from mindvl_train.kernels import attention
from mindvl_train.kernels.registry import Attention
from mindvl_train.kernels.segments import Segments
from mindvl_train.measure import Measured, measure

SEGMENTS = Segments.of([6, 4, 6, 1, 9, 4, 4])


class Attends(nn.Module):
    """A projection and the attention over it, as a model that `measure` takes."""

    def __init__(self, kernel: Attention, *, causal: bool) -> None:
        super().__init__()
        self.projection = nn.Linear(32, 64, device="meta")
        self.kernel, self.causal = kernel, causal

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = self.projection(hidden).unflatten(-1, (8, 8)).split([4, 2, 2], dim=1)
        attended = self.kernel(query, key, value, SEGMENTS, causal=self.causal)
        assert attended.shape == query.shape
        return attended.sum()


def _measured(kernel: Attention, *, causal: bool) -> Measured:
    hidden = torch.empty(SEGMENTS.cu_seqlens[-1], 32, device="meta", requires_grad=True)
    return measure(Attends(kernel, causal=causal), hidden)


@pytest.mark.parametrize("causal", [True, False])
def test_attention_costs_what_the_reference_costs(causal: bool) -> None:
    assert _measured(attention.without_values, causal=causal) == _measured(attention.reference, causal=causal)
