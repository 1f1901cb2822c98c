"""The funnel's lines: counts by source and reason, and the word where one rule takes what nobody may have meant."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mindvl_data.pipeline.funnel import ALIKE_HINT, FunnelLine, funnel_lines, reasons_by_source, warnings


def test_lines_count_by_source_and_name_those_without_a_sample() -> None:
    source = np.array([0, 0, 0, 2, 2], np.int16)
    entered, left = np.array([1, 1, 1, 1, 0], bool), np.array([1, 0, 0, 1, 0], bool)
    lines = funnel_lines("fit", ("a", "b", "c"), source, entered, left)
    assert [(line.source, line.entered, line.left) for line in lines] == [("a", 3, 1), ("b", 0, 0), ("c", 1, 1)]
    assert {line.step for line in lines} == {"fit"}


def test_reasons_are_counted_where_they_struck() -> None:
    source = np.array([0, 0, 1, 1], np.int16)
    lost = {"overlong": np.array([0, 1, 2]), "truncated": np.array([3]), "no_loss_token": np.array([], np.int64)}
    assert reasons_by_source(("a", "b", "c"), source, lost) == [{"overlong": 2}, {"overlong": 1, "truncated": 1}, {}]


def test_a_line_as_data_is_sorted_and_leaves_out_what_is_not_there() -> None:
    line = FunnelLine("scan", "a", 9, 6, {"z": 1, "b": 2})
    assert line.as_dict() == {"step": "scan", "source": "a", "in": 9, "out": 6, "reasons": {"b": 2, "z": 1}}
    assert list(line.as_dict()["reasons"]) == ["b", "z"]
    assert FunnelLine("scan", "a", 9, 9, {}, {"json": 3}).as_dict()["unused"] == {"json": 3}


@pytest.mark.parametrize(
    ("step", "lost", "warned"),
    [
        ("filter: short", 34, True),
        ("filter: short", 33, False),
        ("filter: best", 99, False),  # a `top` is meant to
        ("dedup: text", 11, True),
        ("dedup: text", 10, False),
        ("decontaminate", 11, True),
        ("fit: sft-4096", 99, False),
        ("scan", 100, False),
    ],
)
def test_a_rule_that_takes_much_of_a_source_is_named(step: str, lost: int, warned: bool) -> None:
    rules: Any = [SimpleNamespace(name="short", top=None), SimpleNamespace(name="best", top=0.01)]
    found = warnings([FunnelLine(step, "a", 100, 100 - lost)], rules)
    hint = f"; {ALIKE_HINT}" if step == "dedup: text" else ""
    assert found == ([f"{step} takes {lost} of the 100 samples of a{hint}"] if warned else [])
