"""Curves over steps, thinned to what a screen shows: the mean of every so many steps."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MOST_POINTS = 300
# What of a step is a curve, by the group of curves that share a chart.
CHARTS: Mapping[str, Mapping[str, str]] = {
    "loss": {"loss": "loss"},
    "gradient": {"grad_norm": "gradient norm, before it is clipped"},
    "speed": {"tokens_per_second": "tokens a second", "loss_tokens_per_second": "loss tokens a second"},
    "mfu": {"mfu": "share of the peak (MFU)"},
    "imbalance": {
        "imbalance_attention": "attention: slowest rank over the average",
        "imbalance_patches": "patches: slowest rank over the average",
    },
    "time": {"seconds": "seconds a step", "wait_seconds": "of them, waiting for data"},
    "memory": {"memory_gib": "GiB, of the rank that held most"},
    "padding": {"padding_share": "share of padding"},
}
Record = Mapping[str, Any]


def curves(steps: Sequence[Record], kinds: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Every chart's points: step, stage, name, value.

    Args:
        steps: the records of steps, in order.
        kinds: the kind of every source.
    """
    made = {
        chart: [point for key, label in named.items() for point in _points(steps, label, lambda s, k=key: s.get(k))]
        for chart, named in CHARTS.items()
    }
    rates = list(dict.fromkeys(glob for step in steps for glob in step.get("lr", {})))
    made["rates"] = [point for glob in rates for point in _points(steps, glob, lambda s, g=glob: s["lr"].get(g))]
    sources = sorted({source for step in steps for source in step.get("sources", {})})
    made["sources"] = [p for name in sources for p in _points(steps, name, lambda s, n=name: _mean(s, [n]))]
    by_kind: dict[str, list[str]] = {}
    for source in sources:
        by_kind.setdefault(kinds.get(source, source), []).append(source)
    made["kinds"] = [p for kind, of in by_kind.items() for p in _points(steps, kind, lambda s, o=of: _mean(s, o))]
    return made


def _mean(step: Record, sources: Sequence[str]) -> float | None:
    """The mean loss of some sources in a step, by their loss tokens; None where it saw none."""
    seen = [step["sources"][name] for name in sources if name in step.get("sources", {})]
    tokens = sum(one["loss_tokens"] for one in seen)
    return sum(one["loss"] * one["loss_tokens"] for one in seen) / tokens if tokens else None


def _points(steps: Sequence[Record], name: str, value: Any) -> Iterator[dict[str, Any]]:
    """The mean of every so many steps of a stage, of those that have the value: a mean never spans two stages."""
    every = -(-len(steps) // MOST_POINTS)
    group: list[tuple[int, float]] = []
    stage = None
    for step in [*steps, None]:
        ended = step is None or step["stage"] != stage
        if group and (ended or len(group) == every):
            yield {
                "step": group[len(group) // 2][0],
                "stage": stage,
                "name": name,
                "value": float(f"{sum(v for _, v in group) / len(group):.6g}"),
            }
            group = []
        if step is not None:
            stage, found = step["stage"], value(step)
            if found is not None:
                group.append((step["step"], found))


def evaluations(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The held-out losses: the step, the stage behind them (of the first: none), the loss."""
    return [
        {"step": record["step"], "after": record["stage"] or "the beginning", "loss": record["loss"]}
        for record in records
        if record["event"] == "evaluation" and record["loss"] is not None
    ]
