"""What can be said of a sample's clips from their headers; null for a sample without any."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mindvl_data.steps.scores import Clips


def duration(clips: Clips) -> pl.Series:
    """Seconds of all clips of a sample together: Float64 [n]."""
    return _reduced(np.add, clips.duration, clips)


def fps(clips: Clips) -> pl.Series:
    """Frames a second of the slowest clip, where a clip's rate varies its average: Float64 [n]."""
    return _reduced(np.minimum, clips.rate, clips)


def frames(clips: Clips) -> pl.Series:
    """Frames of all clips of a sample together: Int64 [n]."""
    return _reduced(np.add, clips.frames, clips)


def has_audio(clips: Clips) -> pl.Series:
    """Whether any of a sample's clips has sound: Boolean [n]."""
    return _reduced(np.logical_or, clips.has_audio, clips)


def _reduced(over: np.ufunc, values: NDArray[np.generic], clips: Clips) -> pl.Series:
    """A value a sample of those of its clips; null without clips."""
    counts = np.diff(clips.starts)
    some = counts > 0
    found = np.zeros(len(counts), values.dtype)
    if some.any():
        found[some] = over.reduceat(values, clips.starts[:-1][some])
    return pl.Series(found).set(pl.Series(~some), None)
