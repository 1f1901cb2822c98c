"""On the meta device: as much arithmetic as by the reference, and as much kept as by it with values."""

import pytest
import torch
from torch import Tensor, nn

from mindvl_train.kernels import attention, causal_convolution, delta_rule
from mindvl_train.kernels.registry import Attention, CausalConvolution, DeltaRule
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


class Remembers(nn.Module):
    """Projections, the convolution and the delta rule over them."""

    def __init__(self, rule: DeltaRule, convolution: CausalConvolution, device: str) -> None:
        super().__init__()
        self.projection = nn.Linear(32, 32, device=device)
        self.filters = nn.Parameter(torch.zeros(32, 4, device=device))
        self.rule, self.convolution = rule, convolution

    def forward(self, hidden: Tensor) -> Tensor:
        mixed = self.convolution(self.projection(hidden), self.filters, SEGMENTS)
        query, key, value = mixed.split([8, 8, 16], dim=1)
        heads = [query.unflatten(1, (2, 4)), key.unflatten(1, (2, 4)), value.unflatten(1, (4, 4))]
        return self.rule(*heads, mixed[:, :4], mixed[:, 4:8], SEGMENTS).sum()


def test_the_delta_rule_costs_what_the_reference_costs_and_keeps_less() -> None:
    hidden = torch.empty(SEGMENTS.cu_seqlens[-1], 32, device="meta", requires_grad=True)
    kernels = [delta_rule.META.load(), causal_convolution.META.load()]
    references = [delta_rule.reference, causal_convolution.reference]
    fused, plain = (measure(Remembers(*each, "meta"), hidden) for each in (kernels, references))
    assert fused.flops == plain.flops
    assert fused.kept < plain.kept / 4
