"""Who chooses which set of a mixture a step is of: pure functions under their names.

A controller is an entry point of the group `mindvl_train.controllers`. From a state, the sets that some steps were of
and their losses it makes the next state, JSON values with the `shares` that the next choices are drawn by.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from mindvl_train.config.schema import ControlConfig

State = Mapping[str, Any]


class Controller(Protocol):
    """The next state."""

    def __call__(
        self, state: State, chosen: Sequence[int], losses: Sequence[float | None], config: ControlConfig
    ) -> State:
        """
        Args:
            state: at first {"shares": the given ones, "step": 0}.
            chosen: of every step since, the number of its set.
            losses: of every step its loss; None: it had none, or none that is a number.
            config: of the controller.
        """


def given(state: State, chosen: Sequence[int], losses: Sequence[float | None], config: ControlConfig) -> State:
    """The given shares for ever, as MoDoMoDo trains (arXiv 2505.24871): its weights are found before, by a sweep."""
    return {**state, "step": state["step"] + len(chosen)}


def odm(state: State, chosen: Sequence[int], losses: Sequence[float | None], config: ControlConfig) -> State:
    """Exp3 over sets by their losses: what is not yet learnt is drawn more (ODM, arXiv 2312.02406).

    R_i ← α·R_i + (1 - α)·loss/π_i of the set that was drawn; ε_t = max(floor, min(1/K, √(ln K/(K·t)))) after t steps
    behind the warm-up; π_i = (1 - K·ε_t)·e^{ε_s·R_i}/Σ + ε_t, ε_s that of the look before. `floor` is that of DataFlex,
    where the formula was read; it is at most 1/K here.
    """
    shares, sets = state["shares"], len(state["shares"])
    rewards = list(state.get("rewards", [0.0] * sets))
    for step, (number, loss) in enumerate(zip(chosen, losses, strict=True), state["step"]):
        if step >= config.warmup and loss is not None:
            new = config.scale * loss / shares[number]
            rewards[number] = config.smoothing * rewards[number] + (1 - config.smoothing) * new
    found = {**state, "rewards": rewards, "step": state["step"] + len(chosen)}
    behind = found["step"] - config.warmup
    if behind <= 0:
        return found
    explored = min(1 / sets, max(config.floor, math.sqrt(math.log(sets) / (sets * behind))))
    powers = np.exp(state.get("explored", 1 / sets) * (np.array(rewards) - max(rewards)))
    drawn = (1 - sets * explored) * powers / powers.sum() + explored
    return {**found, "explored": explored, "shares": (drawn / drawn.sum()).tolist()}
