"""Ranks that share packs: each holds a run of their tokens and some of their images.

Attention sees whole packs: before it every rank gives the tokens of the other heads away and gets all tokens
of its own (DeepSpeed Ulysses, arXiv 2309.14509), so segments stay as they are. So does the delta rule; the short
convolution before it sees the last tokens of the rank before. The vision tower sees whole frames, which know nothing
of each other: they are dealt to the ranks, and their features are sent to where the placeholders are.
"""

from dataclasses import replace
from math import gcd

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mindvl_train.data.batch import Batch
from mindvl_train.kernels.registry import Attention, CausalConvolution, DeltaRule
from mindvl_train.kernels.segments import Segments
from mindvl_train.models.decoder import DecoderAttention
from mindvl_train.models.delta_net import GatedDeltaNet, ShortConvolution
from mindvl_train.models.latent_attention import LatentAttention
from mindvl_train.models.vlm import VLM
from mindvl_train.parallel.collectives import exchange
from mindvl_train.parallel.mesh import Mesh


def divide(model: nn.Module, mesh: Mesh) -> None:
    """Lets the decoder's attention see the tokens of all context ranks, and features find their tokens."""
    for module in model.modules() if mesh.sizes.context > 1 else ():
        group = mesh.context.get_group()
        if isinstance(module, DecoderAttention | LatentAttention):
            module.kernels = replace(module.kernels, attention=Ulysses(module.kernels.attention, group))
        elif isinstance(module, GatedDeltaNet):
            module.kernels = replace(module.kernels, delta_rule=UlyssesDeltaRule(module.kernels.delta_rule, group))
        elif isinstance(module, ShortConvolution):
            convolution = NeighbouredConvolution(module.kernels.causal_convolution, group)
            module.kernels = replace(module.kernels, causal_convolution=convolution)
    if isinstance(model, VLM) and mesh.sizes.share > 1:
        group = mesh.share.get_group()
        model.send_features = FeatureExchange(group)


class Ulysses:
    """An attention kernel over all tokens and a share of the heads, for a share of the tokens and all heads."""

    def __init__(self, kernel: Attention, group: dist.ProcessGroup) -> None:
        self._kernel = kernel
        self._group = group

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, segments: Segments, *, causal: bool, scale: float | None = None
    ) -> Tensor:
        """As the kernel, but for a rank's run of T / ranks tokens; `segments` are those of all T."""
        ranks, kv_heads = self._group.size(), key.shape[1]
        # With fewer key-value heads than ranks, several ranks get the same one.
        copies = ranks // gcd(ranks, kv_heads)
        key, value = (heads.repeat_interleave(copies, dim=1) for heads in (key, value))
        query, key, value = (_to_heads(each, self._group) for each in (query, key, value))
        return _to_tokens(self._kernel(query, key, value, segments, causal=causal, scale=scale), self._group)


class UlyssesDeltaRule:
    """A delta rule over all tokens and a share of the heads, for a share of the tokens and all heads."""

    def __init__(self, kernel: DeltaRule, group: dist.ProcessGroup) -> None:
        self._kernel = kernel
        self._group = group

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, segments: Segments
    ) -> Tensor:
        """As the kernel, but for a rank's run of T / ranks tokens; `segments` are those of all T."""
        query, key, value = (_to_heads(each, self._group) for each in (query, key, value))
        decay, beta = (_to_heads(each.unsqueeze(-1), self._group).squeeze(-1) for each in (decay, beta))
        return _to_tokens(self._kernel(query, key, value, decay, beta, segments), self._group)


class NeighbouredConvolution:
    """A convolution over a rank's run of tokens, behind the last ones of the rank before."""

    def __init__(self, kernel: CausalConvolution, group: dist.ProcessGroup) -> None:
        self._kernel = kernel
        self._group = group

    def __call__(self, stream: Tensor, weight: Tensor, segments: Segments) -> Tensor:
        """As the kernel, but for a rank's run of T / ranks tokens; `segments` are those of all T.

        Raises:
            ValueError: a filter sees beyond the rank before.
        """
        run, seen, rank = len(stream), weight.shape[1] - 1, self._group.rank()
        if run < seen:
            raise ValueError(
                f"a run of {run} tokens a context rank is shorter than the {seen} that a filter looks back"
            )
        send, receive = [0] * self._group.size(), [0] * self._group.size()
        if rank + 1 < len(send):
            send[rank + 1] = seen
        if rank:
            receive[rank - 1] = seen
        before = exchange(stream[run - sum(send) :], send, receive, self._group)
        inside = segments.within(rank * run - len(before), (rank + 1) * run)
        return self._kernel(torch.cat((before, stream)), weight, inside)[len(before) :]


def _to_heads(tokens: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[T / ranks, heads, D] → [T, heads / ranks, D]."""
    ranks = group.size()
    by_rank = tokens.reshape(len(tokens), ranks, -1, tokens.shape[2]).transpose(0, 1)
    even = [1] * ranks
    return exchange(by_rank, even, even, group).flatten(0, 1)


def _to_tokens(heads: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The inverse."""
    ranks = group.size()
    even = [1] * ranks
    by_rank = exchange(heads.reshape(ranks, -1, *heads.shape[1:]), even, even, group)
    return by_rank.transpose(0, 1).flatten(1, 2)


class FeatureExchange:
    """Sends image features to the ranks that hold their placeholders."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group

    def __call__(self, features: Tensor, batch: Batch) -> Tensor:
        """[features of this rank's frames, D] → [placeholders of this rank, D], in the placeholders' order."""
        ordered = features if batch.feature_order is None else features.index_select(0, batch.feature_order)
        return exchange(ordered, batch.features_sent, batch.features_received, self._group)


def share_of(batch: Batch, mesh: Mesh) -> Batch:
    """What one rank of those that share a micro-batch takes of it.

    Its tokens are a run of T / (context · tensor); `positions` are those of all its tensor ranks together, because
    attention gathers their tokens first. `segments` stay whole.
    """
    sizes, rank = mesh.sizes, mesh.share_rank
    if sizes.share == 1:
        return batch
    run = len(batch.ids) // sizes.share
    tokens = slice(rank * run, (rank + 1) * run)
    chunk = rank // sizes.tensor * sizes.tensor * run
    real = _within(batch.real, tokens)
    learnt = _within(batch.predictors, tokens)
    counted = batch.counted[learnt]
    return replace(
        _with_frames(batch, sizes.share, rank, run),
        ids=batch.ids[tokens],
        positions=batch.positions[..., chunk : chunk + sizes.tensor * run],
        real=batch.real[real] - tokens.start,
        predictors=batch.predictors[learnt] - tokens.start,
        targets=batch.targets[learnt],
        weights=batch.weights[learnt],
        counted=counted,
        target_samples=batch.target_samples[learnt],
        total_weight=float(counted.double().sum()),
    )


def _within(places: Tensor, run: slice) -> Tensor:
    return torch.nonzero((places >= run.start) & (places < run.stop)).flatten()


def _with_frames(batch: Batch, ranks: int, rank: int, run: int) -> Batch:
    """The same with this rank's frames alone, and where their features go."""
    images = len(batch.placeholders) > 0
    lengths = batch.image_segments.lengths if images else []
    block = len(batch.patches) // max(1, len(batch.placeholders)) if images else len(batch.patches)
    dealt = _deal(lengths, ranks)
    sent = [_features_of(batch, frames, block) for frames in dealt]
    # By source and destination: the places of the tokens, in order.
    arriving = [torch.sort(tokens[tokens // run == rank]).values for tokens in sent]
    mine = sent[rank]
    order = torch.argsort(mine)
    frames = dealt[rank]
    return replace(
        batch if not images else _only(batch, frames, block),
        placeholders=torch.cat(arriving) - rank * run if images else batch.placeholders,
        feature_order=order,
        features_sent=tuple(torch.bincount(mine // run, minlength=ranks).tolist()),
        features_received=tuple(len(tokens) for tokens in arriving),
    )


def _deal(lengths: list[int], ranks: int) -> list[list[int]]:
    """Frames to ranks, the longest first, each to the rank with the fewest patches."""
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for frame in sorted(range(len(lengths)), key=lambda frame: (-lengths[frame], frame)):
        rank = loads.index(min(loads))
        dealt[rank].append(frame)
        loads[rank] += lengths[frame]
    return [sorted(frames) for frames in dealt]


def _features_of(batch: Batch, frames: list[int], block: int) -> Tensor:
    """The tokens whose placeholders the features of these frames replace, in the features' order."""
    bounds = batch.image_segments.cu_seqlens
    runs = [batch.placeholders[bounds[frame] // block : bounds[frame + 1] // block] for frame in frames]
    return torch.cat([torch.empty(0, dtype=torch.int64), *runs])


def _only(batch: Batch, frames: list[int], block: int) -> Batch:
    """The patches of these frames; of none, one merge block of zeros that belongs to no placeholder."""
    bounds = batch.image_segments.cu_seqlens
    runs = [slice(bounds[frame], bounds[frame + 1]) for frame in frames]
    if not runs:
        masked = Segments.of([block])
        return replace(
            batch,
            patches=torch.zeros_like(batch.patches[:block]),
            patch_positions=batch.patch_positions[:block],
            image_segments=masked,
            window_segments=masked,
            num_masked_features=1,
        )
    windows = list(zip(batch.window_segments.cu_seqlens, batch.window_segments.cu_seqlens[1:], strict=False))
    return replace(
        batch,
        patches=torch.cat([batch.patches[run] for run in runs]),
        patch_positions=torch.cat([batch.patch_positions[run] for run in runs]),
        image_segments=Segments.of(run.stop - run.start for run in runs),
        window_segments=Segments.of(
            stop - start for run in runs for start, stop in windows if run.start <= start < run.stop
        ),
    )
