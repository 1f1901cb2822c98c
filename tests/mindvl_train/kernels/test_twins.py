"""Kernels that run anywhere equal their reference, in values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_train.kernels import cross_entropy, grouped_gemm, moe, patch_embedding


def test_cross_entropy_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK", 4)
    generator = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(size, 6, generator=generator, requires_grad=True) for size in (11, 9))
    targets = torch.arange(11) % 9
    expected, found = cross_entropy.reference(hidden, head, targets), cross_entropy.chunked(hidden, head, targets)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn(11, generator=generator)
    for ours, theirs in zip(
        torch.autograd.grad(found, (hidden, head), upstream),
        torch.autograd.grad(expected, (hidden, head), upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_cross_entropy_in_chunks_of_nothing() -> None:
    hidden, head = torch.randn(0, 6, requires_grad=True), torch.randn(9, 6, requires_grad=True)
    loss = cross_entropy.chunked(hidden, head, torch.empty(0, dtype=torch.int64))
    loss.sum().backward()
    assert loss.shape == (0,)
    assert not head.grad.any()


def test_patch_embedding_as_a_convolution() -> None:
    patches, weight = torch.randn(5, 24), torch.randn(7, 24)
    kernel = (3, 2, 2, 2)
    torch.testing.assert_close(
        patch_embedding.conv3d(patches, weight, kernel), patch_embedding.reference(patches, weight, kernel)
    )


@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(0, 9), top=st.integers(1, 3), experts=st.integers(3, 6), seed=st.integers(0, 99))
def test_permuted_tokens_meet_their_experts_and_come_back(tokens: int, top: int, experts: int, seed: int) -> None:
    """Through permute, grouped product and unpermute: the weighted sum of every token's experts."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, 4, generator=generator)
    weight = torch.randn(experts, 4, 5, generator=generator)
    chosen = torch.rand(tokens, experts, generator=generator).argsort(dim=1)[:, :top]
    weights = torch.rand(tokens, top, generator=generator)
    permuted, places = moe.permute_reference(hidden, chosen)
    counts = torch.bincount(chosen.flatten(), minlength=experts)
    found = moe.unpermute_reference(grouped_gemm.reference(permuted, weight, counts), places, weights)
    expected = torch.einsum("td,tkdn,tk->tn", hidden, weight[chosen], weights)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("tokens", "into", "out"), [(5, 64, 32), (5, 46, 32), (5, 64, 30), (0, 46, 30)])
def test_the_grouped_product_of_cuda_takes_every_width(tokens: int, into: int, out: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, into, generator=generator).bfloat16().requires_grad_()
    weight = torch.randn(4, out, into, generator=generator).bfloat16().requires_grad_()
    counts = torch.tensor([tokens, 0, 0, 0])
    products = [each(hidden, weight.transpose(1, 2), counts) for each in (grouped_gemm.grouped, grouped_gemm.reference)]
    gradients = [torch.autograd.grad(product.float().square().sum(), (hidden, weight)) for product in products]
    torch.testing.assert_close(products[0], products[1], atol=0.1, rtol=0.05)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=8, rtol=0.1)
