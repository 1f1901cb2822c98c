"""Experts: published one by one, ours stacked."""

from mindvl_train.weights.published.family import Naming, Origin

EXPERTS = ".mlp.experts."


def stacked(others: Naming) -> Naming:
    """`layers.3.mlp.experts.up_proj` [E, …] ← `….experts.0.up_proj.weight`, `….experts.1.up_proj.weight`, …"""

    def name(ours: str, shape: tuple[int, ...]) -> Origin:
        before, found, projection = ours.partition(EXPERTS)
        if not found:
            return others(ours, shape)
        names = [
            others(f"{before}{EXPERTS}{expert}.{projection}.weight", shape[1:]).names[0] for expert in range(shape[0])
        ]
        return Origin(tuple(names), shape[1:])

    return name
