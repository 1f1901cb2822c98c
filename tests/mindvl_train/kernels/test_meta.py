"""On the meta device: as much arithmetic and as much kept as with values, in fewer calls."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mindvl_train.kernels import attention
from mindvl_train.kernels.registry import Attention
from mindvl_train.kernels.segments import Segments
from mindvl_train.plan import _kept_for_backward

SEGMENTS = Segments.of([6, 4, 6, 1, 9, 4, 4])


def _measured(kernel: Attention, *, causal: bool) -> tuple[int, int]:
    """Operations of both passes, and bytes kept between them."""
    projection = torch.nn.Linear(32, 64, device="meta")
    hidden = torch.empty(SEGMENTS.cu_seqlens[-1], 32, device="meta", requires_grad=True)
    counter = FlopCounterMode(display=False)
    with counter, _kept_for_backward(projection) as kept:
        query, key, value = projection(hidden).unflatten(-1, (8, 8)).split([4, 2, 2], dim=1)
        attended = kernel(query, key, value, SEGMENTS, causal=causal)
        assert attended.shape == query.shape
        attended.sum().backward()
    return counter.get_total_flops(), sum(kept.values())


@pytest.mark.parametrize("causal", [True, False])
def test_attention_costs_what_the_reference_costs(causal: bool) -> None:
    assert _measured(attention.without_values, causal=causal) == _measured(attention.reference, causal=causal)
