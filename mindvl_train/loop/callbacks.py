"""What a run calls beside its loggers.

A callback is an entry point of the group `mindvl_train.loop.callbacks`: a function of the run's folder that returns a
`Callback`. Loggers hear what happened, on the first rank; callbacks have the model as well, on every rank.
"""

from typing import Protocol

from torch import nn

from mindvl_train.loop.metrics import Record


class Callback(Protocol):
    """Called after everything that is logged, such as a step (`event` is `step`; the optimizer has stepped) or a
    stage's end (`stage`), and when a checkpoint was taken (`checkpoint`, which is not logged).

    A run that goes on begins with new callbacks: what they keep is in no checkpoint. Resuming stays exact where what
    they do to the model follows from the record and the weights alone.
    """

    def __call__(self, record: Record, model: nn.Module) -> None:
        """Takes the record of what happened, and the model: of a sharded one this rank's pieces."""
