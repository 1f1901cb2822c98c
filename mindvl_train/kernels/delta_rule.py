"""The gated delta rule (Gated DeltaNet, arXiv 2412.06464): a state a head that is read, corrected and forgotten.

In every segment, from a state of zeros, with queries and keys of unit length:

    S_t = exp(decay_t) · S_{t-1} + beta_t · k_t (v_t - exp(decay_t) · S_{t-1}ᵀ k_t)ᵀ        out_t = S_tᵀ q_t / √K
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mindvl_train.kernels.meta import keeping
from mindvl_train.kernels.registry import DeltaRule, KernelSpec
from mindvl_train.kernels.segments import Segments, boundaries

CHUNK = 64
# Below the square root of a length, as flash-linear-attention has it.
EPS = 1e-6
# The largest key that flash-linear-attention takes.
FUSED_KEY_SIZE = 256


def reference(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, segments: Segments, chunk: int = CHUNK
) -> Tensor:
    """In chunks (arXiv 2412.06464, 3.3, after DeltaNet's arXiv 2406.06484), in float32.

    A chunk holds tokens of any number of segments: what they do to each other is masked, the state that comes in is
    read by the segment that was open alone, and the one that is open at the chunk's end writes the state that goes out.

    Args:
        query: [T, heads, K].
        key: [T, heads, K].
        value: [T, value_heads, V]; value_heads is a multiple of heads, neighbours share a query and a key.
        decay: [T, value_heads] float32, the logarithm of what a token leaves of the state: at most 0.
        beta: [T, value_heads], how much of its value a token writes: 0 to 1.
        segments: the boundaries; their lengths add up to T.
        chunk: tokens that are computed at a time; changes no result.

    Returns:
        [T, value_heads, V] in the type of `value`.
    """
    length, groups = len(value), value.shape[1] // key.shape[1]
    padding = -length % chunk
    query, key = (_unit(each.float()).repeat_interleave(groups, dim=1) for each in (query, key))
    query = query * query.shape[-1] ** -0.5
    # [value_heads, chunks, chunk, size], the last chunk filled with zeros.
    query, key, values = (_chunked(each, padding, chunk) for each in (query, key, value.float()))
    decay, beta = (_chunked(each.float(), padding, chunk) for each in (decay, beta))
    owners = F.pad(segments.owners(value.device), (0, padding), value=-2).view(-1, chunk)
    before = F.pad(owners[:-1, -1], (1, 0), value=-1)
    reads, goes_on = owners == before[:, None], owners[:, -1] == before

    between = _decays_between(decay, owners)
    since = decay.cumsum(-1).exp() * reads
    system = (beta.unsqueeze(-1) * key) @ key.mT * between
    written = torch.linalg.solve_triangular(
        system, beta.unsqueeze(-1) * torch.cat((values, since.unsqueeze(-1) * key), -1), upper=False, unitriangular=True
    )
    fresh, expected = written.split_with_sizes([values.shape[-1], key.shape[-1]], dim=-1)
    inside = query @ key.mT * between
    reading, writing = since.unsqueeze(-1) * query, between[..., -1, :, None] * key
    left = since[..., -1] * goes_on

    state = values.new_zeros(values.shape[0], key.shape[-1], values.shape[-1])
    outputs = []
    for at in range(values.shape[1]):
        corrected = fresh[:, at] - expected[:, at] @ state
        outputs.append(reading[:, at] @ state + inside[:, at] @ corrected)
        state = left[:, at, None, None] * state + writing[:, at].mT @ corrected
    return torch.cat(outputs, dim=1)[:, :length].transpose(0, 1).to(value.dtype)


def _unit(heads: Tensor) -> Tensor:
    return heads * torch.rsqrt(heads.square().sum(-1, keepdim=True) + EPS)


def _chunked(stream: Tensor, padding: int, chunk: int) -> Tensor:
    """[T, heads, ...] → [heads, chunks, chunk, ...]."""
    padded = torch.cat((stream, stream.new_zeros(padding, *stream.shape[1:])))
    return padded.transpose(0, 1).reshape(stream.shape[1], -1, chunk, *stream.shape[2:])


def _decays_between(decay: Tensor, owners: Tensor) -> Tensor:
    """What is left at token i of what token j wrote, 0 where i does not see j.

    Every sum is over the tokens between and no difference of sums, which would be as inexact as its larger one is
    large, and so depend on the chunk's earlier segments.

    Args:
        decay: [heads, chunks, C].
        owners: [chunks, C], the segment of every token.

    Returns:
        [heads, chunks, C, C].
    """
    size = decay.shape[-1]
    lower = torch.ones(size, size, dtype=torch.bool, device=decay.device).tril()
    steps = decay.unsqueeze(-1).expand(*decay.shape, size).masked_fill(~lower.tril(-1), 0.0)
    sees = (owners.unsqueeze(-1) == owners.unsqueeze(-2)) & lower
    return steps.cumsum(-2).masked_fill(~sees, float("-inf")).exp()


def load_fused() -> DeltaRule:
    """`chunk_gated_delta_rule` of flash-linear-attention, all segments in one call told by their boundaries.

    It runs on what Triton runs on, and on Ascend by a backend of its own, forward and backward.
    """
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    def remember(query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, segments: Segments) -> Tensor:
        if key.shape[-1] > FUSED_KEY_SIZE:
            raise ValueError(
                f"keys of {key.shape[-1]} are larger than the {FUSED_KEY_SIZE} that flash-linear-attention takes; set "
                "kernels.delta_rule: reference"
            )
        ends, host = boundaries(segments, value.device)
        streams = (each.unsqueeze(0) for each in (query, key, value, decay, beta))
        output: Tensor = chunk_gated_delta_rule(
            *streams, use_qk_l2norm_in_kernel=True, cu_seqlens=ends, cu_seqlens_cpu=host
        )[0]
        return output.squeeze(0)

    return remember


def _kept(query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, segments: Segments) -> list[Tensor]:
    """By flash-linear-attention: what came in, the lengths of queries and keys, and a chunk's inverse a token."""
    lengths = [each.new_empty(each.shape[:2], dtype=torch.float32) for each in (query, key)]
    return [query, key, value, decay, beta, *lengths, value.new_empty((*value.shape[:2], CHUNK))]


REFERENCE = KernelSpec(devices=frozenset(), load=lambda: reference)
CUDA = KernelSpec(
    devices=frozenset({"cuda"}),
    load=load_fused,
    precisions=frozenset({"bfloat16"}),
    package="fla",
    install="mindvl[delta]",
)
META = KernelSpec(devices=frozenset({"meta"}), load=lambda: keeping(reference, _kept))
NPU = KernelSpec(
    devices=frozenset({"npu"}),
    load=load_fused,
    precisions=frozenset({"bfloat16"}),
    package="fla",
    install="fla-core[npu]",
)
