"""Tokens to their experts and back: sorted by expert, so that every expert sees one contiguous run."""

import torch
from torch import Tensor

from mindvl_train.kernels.registry import KernelSpec, MoEPermute, MoEUnpermute


def permute_reference(tokens: Tensor, experts: Tensor) -> tuple[Tensor, Tensor]:
    """Copies every token to each of its experts' runs; within a run tokens keep their order.

    Args:
        tokens: [T, D].
        experts: [T, K] int64, the experts of each token.

    Returns:
        [T · K, D] sorted by expert, and [T · K] int64: where the copy of token t for its k-th expert, number
        t · K + k, stands.
    """
    order = torch.argsort(experts.flatten(), stable=True)
    places = torch.argsort(order, stable=True)
    return tokens.index_select(0, order // experts.shape[1]), places


def unpermute_reference(permuted: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """The inverse: the weighted sum of every token's copies.

    Args:
        permuted: [T · K, D] in the order of `permute`.
        places: [T · K], from `permute`.
        weights: [T, K], what each expert counts for a token.

    Returns:
        [T, D] in the type of `permuted`.
    """
    copies = permuted.index_select(0, places).view(*weights.shape, permuted.shape[1])
    return (copies * weights.unsqueeze(-1).to(permuted.dtype)).sum(dim=1)


def load_npu_permute() -> MoEPermute:
    """`npu_moe_token_permute`: the same two stable sorts."""
    import torch_npu

    def permute(tokens: Tensor, experts: Tensor) -> tuple[Tensor, Tensor]:
        permuted, places = torch_npu.npu_moe_token_permute(tokens, experts.to(torch.int32))
        return permuted, places

    return permute


def load_npu_unpermute() -> MoEUnpermute:
    """`npu_moe_token_unpermute`, which wants one type for tokens and weights."""
    import torch_npu

    def unpermute(permuted: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        summed: Tensor = torch_npu.npu_moe_token_unpermute(permuted, places, probs=weights.to(permuted.dtype))
        return summed

    return unpermute


PERMUTE_NPU = KernelSpec(devices=frozenset({"npu"}), load=load_npu_permute)
UNPERMUTE_NPU = KernelSpec(devices=frozenset({"npu"}), load=load_npu_unpermute)
PERMUTE_REFERENCE = KernelSpec(devices=frozenset(), load=lambda: permute_reference)
UNPERMUTE_REFERENCE = KernelSpec(devices=frozenset(), load=lambda: unpermute_reference)
