"""How the learning rate moves within a stage: pure functions of the step, under their names.

A schedule is an entry point of the group `mindvl_train.schedules`. It returns the factor on every learning
rate and keeps no state, so that resuming needs none.
"""

import math
from typing import Protocol

from mindvl_train.config.schema import ScheduleConfig


class Schedule(Protocol):
    """(step from 0, steps of the stage, its configuration) → the factor on every learning rate."""

    def __call__(self, step: int, total: int, config: ScheduleConfig) -> float: ...


def constant(step: int, total: int, config: ScheduleConfig) -> float:
    """1 after the warm-up."""
    return _warmup(step, total, config)


def cosine(step: int, total: int, config: ScheduleConfig) -> float:
    """Half a cosine from 1 to `floor` after the warm-up (Loshchilov & Hutter, arXiv 1608.03983)."""
    rising = round(config.warmup * total)
    progress = max(0.0, step - rising) / max(1, total - rising)
    fall = 0.5 * (1.0 + math.cos(math.pi * progress))
    return _warmup(step, total, config) * (config.floor + (1.0 - config.floor) * fall)


def wsd(step: int, total: int, config: ScheduleConfig) -> float:
    """Warm-up, stable, then a straight line to `floor` over the last `decay` (MiniCPM, arXiv 2404.06395)."""
    falling = round(config.decay * total)
    left = min(1.0, (total - step) / max(1, falling))
    return _warmup(step, total, config) * (config.floor + (1.0 - config.floor) * left)


def _warmup(step: int, total: int, config: ScheduleConfig) -> float:
    """A straight line to 1 over the first `warmup` of the steps; no step is wasted on a rate of 0."""
    rising = round(config.warmup * total)
    return min(1.0, (step + 1) / (rising + 1))
