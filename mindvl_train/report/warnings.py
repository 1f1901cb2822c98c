"""What of a run a person should look at, in words."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

# Above these somebody waits, or nothing is learnt.
MOST_WAITING, MOST_UNEVEN, MOST_PADDING = 0.1, 1.3, 0.1
Record = Mapping[str, Any]


def warnings(records: Sequence[Record]) -> Iterator[str]:
    """One line a thing that stands out."""
    steps = [record for record in records if record["event"] == "step"]
    skipped = [record for record in records if record["event"] == "skipped"]
    if skipped:
        yield f"{len(skipped)} steps were left out. The first: {skipped[0]['why']}"
    for stage in dict.fromkeys(step["stage"] for step in steps):
        yield from _stage(stage, [step for step in steps if step["stage"] == stage])
    yield from _held_out([record for record in records if record["event"] == "evaluation"])
    for record in records:
        if record["event"] == "stage" and record.get("unreached"):
            parts = ", ".join(f"{count} tensors of {part}" for part, count in record["unreached"].items())
            yield f"{record['stage']}: no gradient reached {parts}: does the stage's data have pictures?"


def _stage(name: str, steps: Sequence[Record]) -> Iterator[str]:
    losses = [step["loss"] for step in steps if step["loss"] is not None]
    tenth = max(1, len(losses) // 10)
    if len(losses) >= 20 and _mean(losses[-tenth:]) >= _mean(losses[:tenth]):
        yield f"{name}: the loss ends where it began ({_mean(losses[:tenth]):.3f} → {_mean(losses[-tenth:]):.3f})."
    waited, seconds = (sum(step[key] for step in steps) for key in ("wait_seconds", "seconds"))
    if seconds and waited / seconds > MOST_WAITING:
        yield (
            f"{name}: {waited / seconds:.0%} of the time was spent waiting for data: raise loader.workers, or "
            "loader.kind: processes."
        )
    for key, what in (("imbalance_attention", "attention"), ("imbalance_patches", "patches")):
        uneven = _mean([step[key] for step in steps])
        if uneven > MOST_UNEVEN:
            yield f"{name}: the slowest rank has {uneven:.2f} × the average {what}, and every other waits for it."
    if (padding := _mean([step["padding_share"] for step in steps])) > MOST_PADDING:
        yield f"{name}: {padding:.0%} of the tokens are padding."


def _held_out(evaluations: Sequence[Record]) -> Iterator[str]:
    found = [(record["stage"], record["loss"]) for record in evaluations if record["loss"] is not None]
    for (_, before), (stage, after) in pairwise(found):
        if after > before:
            yield f"{stage}: the held-out loss rose ({before:.4f} → {after:.4f}) while it trained."


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
