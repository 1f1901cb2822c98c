"""A `torch_npu` that checks every call against the documented contract, and computes it plainly.

What it demands stands in the API reference of Ascend Extension for PyTorch 6.0 to 26.1. It knows nothing of our
kernels: a misspelt argument is a TypeError, as it would be on the device.
"""

import types
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def npu_fusion_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    head_num: int,
    input_layout: str,
    pse: Tensor | None = None,
    padding_mask: Tensor | None = None,
    atten_mask: Tensor | None = None,
    scale: float = 1.0,
    keep_prob: float = 1.0,
    pre_tockens: int = 2147483647,  # sic
    next_tockens: int = 2147483647,
    inner_precise: int = 0,
    prefix: Any = None,
    actual_seq_qlen: Sequence[int] | None = None,
    actual_seq_kvlen: Sequence[int] | None = None,
    sparse_mode: int = 0,
    gen_mask_parallel: bool = True,
    sync: bool = False,
) -> tuple[Tensor, ...]:
    assert input_layout == "TND"
    assert query.dtype == key.dtype == value.dtype
    assert query.ndim == key.ndim == value.ndim == 3
    assert query.shape[1] == head_num
    assert head_num % key.shape[1] == 0
    assert key.shape[1] == value.shape[1]
    assert query.shape[2] == key.shape[2] == value.shape[2]
    assert 1 <= query.shape[2] <= 768, "head size"
    assert 1 <= head_num <= 256, "heads"
    assert 1 <= len(query) <= 1024 * 1024, "tokens"
    for ends, tokens in ((actual_seq_qlen, query), (actual_seq_kvlen, key)):
        assert isinstance(ends, list), "cumulative lengths lie on the host"
        assert all(type(end) is int for end in ends)
        assert 1 <= len(ends) <= 1024, "segments"
        assert ends[0] != 0, "no leading zero"
        assert ends[-1] == len(tokens)
        lengths = [stop - start for start, stop in zip([0, *ends], ends, strict=False)]
        assert min(lengths) > 1, "a segment of one token crashes the kernel"
    if atten_mask is None:
        causal = False  # whatever the sparse mode says
    else:
        assert sparse_mode == 3
        assert atten_mask.shape == (2048, 2048)
        assert atten_mask.dtype == torch.bool
        assert torch.equal(atten_mask, torch.ones(2048, 2048, dtype=torch.bool).triu(1))
        causal = True
    pieces = []
    for start, stop in zip([0, *(actual_seq_qlen or [])], actual_seq_qlen or [], strict=False):
        q, k, v = (stream[start:stop].transpose(0, 1)[None] for stream in (query, key, value))
        pieces.append(F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=True))
    out = torch.cat(pieces, dim=2)[0].transpose(0, 1)
    return (out, *[torch.empty(0)] * 6)


def npu_rms_norm(self: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    assert self.dtype == gamma.dtype
    scale = torch.rsqrt(self.float().square().mean(-1, keepdim=True) + epsilon)
    return (self.float() * scale * gamma.float()).to(self.dtype), scale


def npu_rotary_mul(input: Tensor, r1: Tensor, r2: Tensor, rotary_mode: str = "half") -> Tensor:  # noqa: A002
    assert rotary_mode == "half"
    assert input.ndim == r1.ndim == r2.ndim == 4
    assert input.dtype == r1.dtype == r2.dtype
    assert input.shape[-1] == r1.shape[-1] == r2.shape[-1], "both halves written out"
    assert input.shape[-1] % 2 == 0
    assert input.shape[-1] < 896
    assert r1.shape[0] == r1.shape[2] == 1
    first, second = input.chunk(2, dim=-1)
    return input * r1 + torch.cat((-second, first), dim=-1) * r2


def npu_swiglu(self: Tensor, dim: int = -1) -> Tensor:
    gate, up = self.chunk(2, dim=dim)
    return F.silu(gate) * up


def npu_grouped_matmul(
    x: list[Tensor],
    weight: list[Tensor],
    *,
    bias: Any = None,
    group_list: Tensor | None = None,
    split_item: int = 0,
    group_type: int = -1,
    group_list_type: int = 0,
) -> list[Tensor]:
    assert isinstance(x, list)
    assert isinstance(weight, list)
    assert group_list is not None
    assert group_list.dtype == torch.int64
    assert group_list_type == 1, "counts, not their sums"
    counts = group_list.tolist()
    # The device's operation has no gradient of its own.
    (tokens,), (matrix,) = [x[0].detach()], [weight[0].detach()]
    if group_type == 0:
        assert split_item == 2
        assert matrix.shape[:2] == (len(counts), tokens.shape[1])
        return [torch.cat([run @ each for run, each in zip(tokens.split(counts), matrix, strict=True)])]
    assert (group_type, split_item) == (2, 3)
    runs = zip(tokens.split(counts, dim=1), matrix.split(counts), strict=True)
    return [torch.stack([left @ right for left, right in runs])]


def npu_moe_token_permute(
    tokens: Tensor, indices: Tensor, num_out_tokens: int | None = None, padded_mode: bool = False
) -> tuple[Tensor, Tensor]:
    assert indices.dtype == torch.int32
    assert not padded_mode
    order = indices.flatten().argsort(stable=True)
    return tokens[order // indices.shape[1]], order.argsort(stable=True).to(torch.int32)


def npu_moe_token_unpermute(
    permuted_tokens: Tensor,
    sorted_indices: Tensor,
    probs: Tensor | None = None,
    padded_mode: bool = False,
    restore_shape: Any = None,
) -> Tensor:
    assert sorted_indices.dtype == torch.int32
    assert probs is not None
    assert probs.dtype == permuted_tokens.dtype
    copies = permuted_tokens[sorted_indices.long()].view(*probs.shape, -1)
    return torch.einsum("tkd,tk->td", copies, probs)


class Recorded(types.ModuleType):
    """The module, with the names of the operations that were called."""

    def __init__(self) -> None:
        super().__init__("torch_npu")
        self.calls: list[str] = []
        for name, operation in globals().items():
            if name.startswith("npu_"):
                setattr(self, name, self._recording(name, operation))

    def _recording(self, name: str, operation: Any) -> Any:
        def called(*arguments: Any, **keywords: Any) -> Any:
            self.calls.append(name)
            return operation(*arguments, **keywords)

        return called
