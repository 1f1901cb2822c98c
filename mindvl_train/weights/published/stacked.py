"""Experts: published one by one or stacked, ours stacked."""

from collections.abc import Callable, Collection
from typing import Any

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


def fused(others: Naming) -> Naming:
    """Experts as the hub has Qwen3.5's, and as transformers 5 holds all: stacked, gate and up one behind the other."""

    def name(ours: str, shape: tuple[int, ...]) -> Origin:
        before, found, projection = ours.partition(EXPERTS)
        if not found:
            return others(ours, shape)
        home = others(before, ()).names[0] + EXPERTS
        if projection == "down_proj":
            return Origin((f"{home}down_proj",), shape)
        experts, out, into = shape
        half = ("gate_proj", "up_proj").index(projection)
        return Origin((f"{home}gate_up_proj",), (experts, 2 * out, into), (out, out), half)

    return name


def one_by_one(stored: Collection[str]) -> bool:
    """Whether these names are of experts that lie one by one."""
    return any(f"{EXPERTS}0." in name for name in stored)


def as_stored(others: Naming) -> Callable[[Any, Collection[str]], Naming]:
    """For `Language.name_by`: experts one by one as they are published, or stacked as a raw `state_dict` has them."""
    return lambda _, stored: stacked(others) if not stored or one_by_one(stored) else fused(others)
