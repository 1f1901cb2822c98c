"""The steps of a stage whose sets are chosen: which they are, and the state that a checkpoint keeps.

Some steps are chosen at a time, from the shares of then: each by a hash of the sets' ids and the step, so that choices
are a function of the ids, the losses that were seen and the step, and of nothing else.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mindvl_data.stream import ChosenBatches
from mindvl_train.config.schema import ControlConfig
from mindvl_train.loop.controllers import Controller
from mindvl_train.loop.stages import Stage


class Control:
    """Chooses the sets of a stage's steps, a block of steps at a time.

    Args:
        controller: makes shares of losses.
        config: its options.
        stage: whose sets are chosen from.
        saved: what `state_dict` gave.
    """

    def __init__(
        self, controller: Controller, config: ControlConfig, stage: Stage, saved: Mapping[str, Any] | None
    ) -> None:
        self._controller, self._config, self._stage = controller, config, stage
        weights = np.array([each.weight for each in stage.config.members.values()], np.float64)
        first = {"shares": (weights / weights.sum()).tolist(), "step": 0}
        fresh = {"state": first, "packs": [0] * len(weights), "chosen": [], "losses": []}
        self._saved: dict[str, Any] = dict(saved or fresh)

    @property
    def taken(self) -> int:
        """Steps of the block that were taken."""
        return len(self._saved["losses"])

    @property
    def shares(self) -> dict[str, float]:
        """By which the block is drawn, by name."""
        return dict(zip(self._stage.manifests, self._saved["state"]["shares"], strict=True))

    @property
    def batches(self) -> ChosenBatches:
        """The block."""
        manifests, batch = tuple(self._stage.manifests.values()), self._stage.config.global_batch
        return ChosenBatches(manifests, tuple(self._saved["packs"]), tuple(self._saved["chosen"]), batch)

    def begin(self, step: int) -> int:
        """Makes sure of a block that is not over: the one at hand, or the next from `step` of the stage on.

        Returns:
            How many of its steps were taken already.
        """
        if self.taken < len(self._saved["chosen"]):
            return self.taken
        if self._saved["chosen"]:
            state = self._controller(self._saved["state"], self._saved["chosen"], self._saved["losses"], self._config)
            self._saved |= {"state": dict(state), "packs": list(self.batches.after)}
        ids = [manifest.id for manifest in self._stage.manifests.values()]
        numbers = range(step, min(step + self._config.every, self._stage.total_steps))
        self._saved |= {"chosen": [choice(self._saved["state"]["shares"], ids, number) for number in numbers]}
        self._saved["losses"] = []
        return 0

    def note(self, loss: float) -> str:
        """Keeps a step's loss.

        Returns:
            The name of its set.
        """
        number = int(self._saved["chosen"][self.taken])
        self._saved["losses"] = [*self._saved["losses"], loss if math.isfinite(loss) else None]
        return list(self._stage.manifests)[number]

    def state_dict(self) -> dict[str, Any]:
        """The state of the controller at the block's beginning, the packs of every set before it, its choices, and the
        losses so far: JSON values."""
        return dict(self._saved)


def choice(shares: Sequence[float], ids: Sequence[str], step: int) -> int:
    """The number of the set that a step is of: the same wherever it is asked for."""
    digest = hashlib.sha256("\0".join(["choice", *ids, str(step)]).encode()).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64
    return min(int(np.searchsorted(np.cumsum(shares), point * sum(shares), side="right")), len(shares) - 1)
