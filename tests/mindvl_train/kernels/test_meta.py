"""On the meta device: as much arithmetic as by the reference, and as much kept as by it with values."""

import pytest
import torch
from torch import Tensor, nn

from mindvl_train.kernels import attention
from mindvl_train.kernels.registry import Attention
from mindvl_train.kernels.segments import Segments
from mindvl_train.planning.measure import Measured, measure

SEGMENTS = Segments.of([6, 4, 6, 1, 9, 4, 4])


class Attends(nn.Module):
    """A projection and the attention over it, as a model that `measure` takes."""

    def __init__(self, kernel: Attention, device: str, *, causal: bool) -> None:
        super().__init__()
        self.projection = nn.Linear(32, 64, device=device)
        self.kernel, self.causal = kernel, causal

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = self.projection(hidden).unflatten(-1, (8, 8)).split([4, 2, 2], dim=1)
        attended = self.kernel(query, key, value, SEGMENTS, causal=self.causal)
        assert attended.shape == query.shape
        return attended.sum()


def _measured(kernel: Attention, device: str, *, causal: bool) -> Measured:
    hidden = torch.empty(SEGMENTS.cu_seqlens[-1], 32, device=device, requires_grad=True)
    return measure(Attends(kernel, device, causal=causal), hidden)


@pytest.mark.parametrize("causal", [True, False])
def test_attention_costs_what_the_reference_costs(causal: bool) -> None:
    """Without values torch takes attention apart, and keeps the scores of all pairs, which no run does."""
    found = _measured(attention.without_values, "meta", causal=causal)
    assert found.flops == _measured(attention.reference, "meta", causal=causal).flops
    assert found.kept == _measured(attention.reference, "cpu", causal=causal).kept
