"""A stage in numbers: target and actual amounts of sources and groups, and what the packing came to."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mindvl_data.packing import Packs
from mindvl_data.pipeline import summary
from mindvl_data.recipe import Budget, Group
from mindvl_data.steps.fit import Fitted, Weights
from mindvl_data.steps.mix import Asked, Draw
from mindvl_data.tables import columns

SOURCE = np.array([0, 0, 0, 1, 1], np.int16)
TOKENS = np.array([10, 20, 30, 40, 60], np.int32)
ZEROS = np.zeros(5, np.int32)
WEIGHTS = Weights(TOKENS, ZEROS.astype(np.int16), TOKENS, TOKENS // 5, TOKENS * 4, 2)
NONE = np.zeros(0, np.int64)


@pytest.mark.parametrize("chunk", [1 << 20, 2])
def test_every_count_of_a_source_is_there_as_target_and_as_drawn(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(columns, "CHUNK", chunk)
    corpus: Any = SimpleNamespace(source=SOURCE, sources=("a", "b"))
    draw = Draw(np.array([0, 3, 1, 2, 0]), np.array([0, 0, 0, 0, 1], np.int16))
    made: Any = SimpleNamespace(asked=Asked({"a": 0.6, "b": 0.4}, 120), draw=draw)
    spec: Any = SimpleNamespace(
        by="tokens",
        budget=Budget.model_validate({"tokens": 120}),
        mixture=Group.model_validate({"one": {"share": 1, "a": 0.6, "b": 0.4}}),
        stage="s",
    )
    found = summary.mixture(made, Fitted(WEIGHTS, np.ones(5, bool), NONE, NONE, NONE), corpus, spec)
    assert found["total"] == {"samples": 5, "tokens": 110, "loss_tokens": 22, "vision_tokens": 110}
    a, b = found["sources"]["a"], found["sources"]["b"]
    assert a["pool"] == {"samples": 3, "tokens": 60, "loss_tokens": 12, "vision_tokens": 60}
    assert a["target"] == {
        "share": 0.6,
        "samples": 4,
        "tokens": 72,
        "loss_tokens": 14,
        "vision_tokens": 72,
        "epochs": 1.2,
    }
    assert (a["actual"]["tokens"], a["actual"]["share"], a["actual"]["epochs"]) == (70, 0.636364, 1.1667)
    assert (b["actual"]["samples"], b["actual"]["tokens"], b["actual"]["epochs"]) == (1, 40, 0.4)
    assert found["groups"] == {"one": {"target": 1.0, "actual": 1.0}}
    assert found["budget"] == {"tokens": 120}
    assert "allocated_by" not in found


def test_a_packing_says_how_full_it_is_and_how_long_ranks_wait() -> None:
    packs = Packs(np.arange(5), np.array([0, 2, 3, 5]), 2)
    costs = {"balanced": {"attention": np.array([1, 3, 9])}}
    draw = Draw(np.array([7, 7, 7, 8, 9]), np.array([0, 1, 2, 0, 0], np.int16))
    found = summary.packing(packs, draw, 50, costs, seq_len=20, step=2)
    assert found == {
        "packs": 3,
        "minimum_packs": 2,
        "tokens": 50,
        "padding": 10,
        "fill": 0.833333,
        "duplicates_in_pack": 1,
        "segments_per_pack": 1.667,
        "cost_balance": {"balanced": {"attention": 1.5}},
    }
