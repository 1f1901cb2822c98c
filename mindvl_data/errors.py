"""The one exception that people are meant to read: the command line prints its message and nothing else."""

from __future__ import annotations

from typing import Any

from mindvl_data.expanded import masked


class UserError(ValueError):
    """Something outside the program is wrong; the message says what, where and what to do.

    Whatever was taken from the environment is hidden in it.
    """

    # What became of the samples until then (pipeline.summary.FunnelLine), where the error comes from after that.
    funnel: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return masked(super().__str__())
