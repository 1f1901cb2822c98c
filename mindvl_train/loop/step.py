"""What one rank did in a step, and what the ranks make of it together."""

import json
import math
import resource
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import torch

from mindvl_train.data.batch import Batch
from mindvl_train.loop.stages import Stage
from mindvl_train.parallel.host import gather, gather_words

SHOWN = 16


@dataclass(frozen=True)
class RankStep:
    """What one rank did in a step; a row of float64 when ranks tell each other.

    Attributes:
        loss: its part of the step's loss.
        tokens: of its packs, without padding; `delivered` with it.
        attention_cost, vision_cost: Σ l² and Σ n² of its packs.
        wait_seconds: that it waited for its batches.
        memory_bytes: the most it has held.
        flops: that the model asked of it.
    """

    loss: float
    tokens: float
    delivered: float
    loss_tokens: float
    images: float
    patches: float
    attention_cost: float
    vision_cost: float
    wait_seconds: float
    memory_bytes: float
    flops: float


def rank_step(
    batches: Sequence[Batch], losses: Sequence[float], wait_seconds: float, device: torch.device, flops: float
) -> RankStep:
    """This rank's row.

    Args:
        batches: its micro-batches.
        losses: its part of the step's loss, by micro-batch.
        wait_seconds: for the batches.
        device: whose memory counts.
        flops: that its batches ask for.
    """
    return RankStep(
        loss=sum(losses),
        tokens=sum(batch.num_tokens for batch in batches),
        delivered=sum(batch.segments.cu_seqlens[-1] for batch in batches),
        loss_tokens=sum(batch.num_targets for batch in batches),
        images=sum(batch.num_images for batch in batches),
        patches=sum(batch.num_patches for batch in batches),
        attention_cost=sum(batch.attention_cost for batch in batches),
        vision_cost=sum(batch.vision_cost for batch in batches),
        wait_seconds=wait_seconds,
        memory_bytes=peak_memory(device),
        flops=flops,
    )


def everyone(row: RankStep) -> list[RankStep]:
    """The rows of all ranks."""
    return [RankStep(*each) for each in gather(list(astuple(row)))]


def source_losses(mine: Mapping[str, tuple[float, int]], visits: int = 0) -> tuple[dict[str, dict[str, float]], int]:
    """The mean cross-entropy of every source that all ranks saw, in nats a target, and its targets.

    Args:
        mine: of this rank, by source the sum of losses and the targets.
        visits: of samples, that this rank keeps.

    Returns:
        By source, and the visits that all ranks keep.
    """
    told = [json.loads(words) for words in gather_words(json.dumps([mine, visits]))]
    heard, found = [sources for sources, _ in told], {}
    for name in sorted({name for each in heard for name in each}):
        losses, tokens = zip(*(each[name] for each in heard if name in each), strict=True)
        found[name] = {"loss": sum(losses) / sum(tokens), "loss_tokens": sum(tokens)}
    return found, sum(kept for _, kept in told)


def describe_non_finite(stage: Stage, batches: Sequence[Batch], losses: Sequence[float], norm: float) -> str:
    """Which packs and samples made a step's loss or gradient no number.

    Args:
        stage: that the step belongs to.
        batches: of this rank.
        losses: of each of them.
        norm: of the gradient; where all losses are numbers it is none, and every pack may be the one.
    """
    bad = [batch for batch, loss in zip(batches, losses, strict=True) if not math.isfinite(loss)]
    ours = {"bad": bool(bad)} | _named(bad or batches)
    heard = [json.loads(words) for words in gather_words(json.dumps(ours))]
    guilty = [each for each in heard if each["bad"]] or heard
    packs = sorted({pack for each in guilty for pack in each["packs"]})
    samples = sorted({sample for each in guilty for sample in each["samples"]})
    more = f" and {len(samples) - SHOWN} more" if len(samples) > SHOWN else ""
    what = "the loss is no number" if any(each["bad"] for each in heard) else f"the gradient's norm is {norm}"
    return (
        f"{stage.name}: {what} on packs {', '.join(map(str, packs))} of {stage.where}, samples "
        f"{', '.join(samples[:SHOWN])}{more}; look at them with `python -m mindvl_data explain MANIFEST SAMPLE` and "
        "`show MANIFEST --pack N`. The same command goes on with non_finite.action: skip; a lower learning rate is "
        "another run: give another --out"
    )


def describe_without_targets(stage: Stage, batches: Sequence[Batch]) -> str:
    """Which packs gave a step nothing to learn."""
    heard = [json.loads(words) for words in gather_words(json.dumps(_named(batches)))]
    packs = sorted({pack for each in heard for pack in each["packs"]})
    return (
        f"{stage.name}: nothing to learn on packs {', '.join(map(str, packs))} of {stage.where}: no token of "
        "them has a loss, so the step is left out; `python -m mindvl_data show MANIFEST --pack N` shows the loss mask"
    )


def _named(batches: Sequence[Batch]) -> dict[str, list[object]]:
    return {
        "packs": [pack for batch in batches for pack in batch.packs],
        "samples": [sample for batch in batches for sample in batch.samples],
    }


def step_record(rows: Sequence[RankStep], share: int, seconds: float, peak_tflops: float | None) -> dict[str, float]:
    """What all ranks did in a step.

    Args:
        rows: of every rank.
        share: neighbouring ranks that share the same packs.
        seconds: from the end of the step before to the end of this one.
        peak_tflops: of one rank; with it, `mfu` is the share that was reached.
    """
    dealt = rows[::share]
    speed = sum(row.flops for row in rows) / seconds / 1e12
    tokens, delivered, loss_tokens, images, patches = (
        int(sum(getattr(row, name) for row in dealt))
        for name in ("tokens", "delivered", "loss_tokens", "images", "patches")
    )
    return {
        "tokens": tokens,
        "padding": delivered - tokens,
        "padding_share": 1.0 - tokens / delivered,
        "loss_tokens": loss_tokens,
        "images": images,
        "patches": patches,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "loss_tokens_per_second": loss_tokens / seconds,
        "tflops_per_second": speed,
        **({"mfu": speed / peak_tflops / len(rows)} if peak_tflops else {}),
        "imbalance_attention": _imbalance([row.attention_cost for row in dealt]),
        "imbalance_patches": _imbalance([row.patches for row in dealt]),
        "wait_seconds": max(row.wait_seconds for row in rows),
        "memory_gib": max(row.memory_bytes for row in rows) / 2**30,
    }


def _imbalance(costs: Sequence[float]) -> float:
    """The largest over the mean; 1.0 is even."""
    return max(costs) * len(costs) / sum(costs) if any(costs) else 1.0


def peak_memory(device: torch.device) -> int:
    """Bytes that this rank has held at most: of the accelerator, or of the process on a CPU."""
    if device.type == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return torch.accelerator.max_memory_allocated(device)
