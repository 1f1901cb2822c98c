"""Histograms a source, of what was kept and what was dropped, with the filters' thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mindvl_data.inspect.report.columns import KEPT, MEASURES, Threshold

BINS = 40
# From this ratio of the largest to the smallest, bins grow with their numbers.
WIDE = 50.0


def histograms(lines: pl.DataFrame, compared: Sequence[Threshold]) -> list[dict[str, Any]]:
    """One for tokens, each measure and each expression that a filter compares, where there is anything to count."""
    labels = {"tokens": "tokens (of what was drawn)", **MEASURES}
    labels |= {t.label: t.label for t in compared if t.label not in labels}
    made = []
    for column, label in labels.items():
        if column in lines.columns and lines[column].is_finite().any():
            marks = [t for t in compared if t.label == column]
            made.append(histogram(lines, column, label, marks))
    return made


def histogram(lines: pl.DataFrame, column: str, label: str, marks: Sequence[Threshold]) -> dict[str, Any]:
    """Edges, and for every source how many samples lie between them."""
    finite = lines.filter(pl.col(column).is_finite())
    values = finite[column].to_numpy()
    edges, log = bin_edges(values)
    kept = (finite["state"] == KEPT).to_numpy()
    of = finite["source"].to_numpy()
    counts = []
    for source in dict.fromkeys(of.tolist()):
        mine = of == source
        counts.append(
            {
                "source": source,
                "kept": np.histogram(values[mine & kept], edges)[0].tolist(),
                "dropped": np.histogram(values[mine & ~kept], edges)[0].tolist(),
                "median": float(np.median(values[mine])),
            }
        )
    return {
        "label": label,
        "log": log,
        "edges": [float(f"{edge:.6g}") for edge in edges],
        "sources": counts,
        "thresholds": [{"rule": t.rule, "value": t.value, "source": t.source} for t in marks],
        "missing": len(lines) - len(finite),
    }


def bin_edges(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    """At most 40 bins, and whether they grow: float64 [bins + 1]. A few whole numbers have a bin each."""
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low >= WIDE:
        return np.geomspace(low, np.nextafter(high, np.inf), BINS + 1), True
    if high - low < BINS and bool((values == np.floor(values)).all()):
        return np.arange(low - 0.5, high + 1.0), False
    return np.linspace(low, high if high > low else low + 1, BINS + 1), False
