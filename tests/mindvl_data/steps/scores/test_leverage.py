"""Leverage: a case by hand, and what the decomposition of the whole matrix says."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mindvl_data.steps.scores import ScoreError, leverage
from tests.mindvl_data.crawl import built, crawl, kept, uid


def scores_of(folder: Path, parts: list[list[Any]], energy: float) -> list[float | None]:
    """The scores of embeddings that lie in several files."""
    files = []
    for number, part in enumerate(parts):
        files.append(folder / f"part-{number}.parquet")
        pl.DataFrame({"vector": part}, schema={"vector": pl.List(pl.Float32)}).write_parquet(files[-1])
    directions = folder / "directions.npz"
    leverage.find_directions(leverage.DirectionsTask(tuple(files), "vector", energy, directions))
    found: list[float | None] = []
    for path in files:
        leverage.score(leverage.LeverageTask(path, "vector", directions, "carries", folder / "out.parquet"))
        found += pl.read_parquet(folder / "out.parquet")["carries"].to_list()
    return found


def test_a_case_by_hand(tmp_path: Path) -> None:
    # Means 10 and 7, deviations 2 and 1: the lines are (±1, ±1) / √2, four of them along (1, 1) and two along (1, -1).
    # So σ² = 4 and 2 of 6, and every line's part in its own direction is 1/4 or 1/2, in the other one none.
    along, across = [[12.0, 8.0], [8.0, 6.0]], [[12.0, 6.0], [8.0, 8.0]]
    parts = [[*along, None], [*across, *along]]
    assert scores_of(tmp_path, parts, 1.0) == pytest.approx([0.25, 0.25, None, 0.5, 0.5, 0.25, 0.25], abs=1e-6)
    # Two thirds of the energy lie in the first direction alone.
    assert scores_of(tmp_path, parts, 2 / 3) == pytest.approx([0.25, 0.25, None, 0, 0, 0.25, 0.25], abs=1e-6)
    assert scores_of(tmp_path, parts, 0.67) == pytest.approx([0.25, 0.25, None, 0.5, 0.5, 0.25, 0.25], abs=1e-6)


def direct(x: NDArray[np.float64], energy: float) -> NDArray[np.float64]:
    """As the paper says it: by the singular vectors of the whole matrix."""
    x = (x - x.mean(axis=0)) / np.where(x.std(axis=0) > 0, x.std(axis=0), 1)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    left, sigma, _ = np.linalg.svd(x, full_matrices=False)
    k = int(np.searchsorted(np.cumsum(sigma**2), energy * (sigma**2).sum())) + 1
    return (left[:, :k] ** 2).sum(axis=1)


@given(st.integers(0, 2**32), st.integers(8, 60), st.integers(2, 6), st.sampled_from([0.3, 0.5, 0.9, 0.97]))
def test_the_sum_over_batches_gives_what_the_singular_vectors_do(seed: int, n: int, width: int, energy: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width)) @ rng.normal(size=(width, width)) + 1000 * rng.normal(size=width)
    batches = np.array_split(x, 3)
    found = leverage.moments(iter(batches))
    assert found is not None
    deviation = leverage.deviations(found)
    lines = [leverage.standardised(batch, found.mean, deviation) for batch in batches]
    axes = leverage.principal(sum((batch.T @ batch for batch in lines), np.zeros((width, width))), energy)
    ours = np.concatenate([leverage.leverage(b, leverage.Directions(found.mean, deviation, axes)) for b in batches])
    np.testing.assert_allclose(ours, direct(x, energy), atol=1e-6)
    np.testing.assert_allclose(ours.sum(), axes.shape[1], atol=1e-6)  # the trace of a projection


def test_a_column_of_one_value_carries_nothing_and_what_is_no_number_has_no_score(tmp_path: Path) -> None:
    parts = [[[0.1, 1.0], [0.1, -1.0], [0.1, float("nan")], [0.1, 3.0]], []]
    assert scores_of(tmp_path, parts, 1.0) == pytest.approx([0, 0.5, None, 0.5], abs=1e-6)


@pytest.mark.parametrize(
    ("part", "message"),
    [([None], "no sample has an embedding vector"), ([[1.0], [1.0, 2.0]], r"of several widths.*\[1, 2\]")],
)
def test_what_has_no_leverage_is_an_error(tmp_path: Path, part: list[Any], message: str) -> None:
    with pytest.raises(ScoreError, match=message):
        scores_of(tmp_path, [part], 0.9)


def test_a_recipe_keeps_the_samples_that_carry_most(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, 3)) * [1, 2, 4]
    for number in range(2):
        crawl(tmp_path / f"crawl-{number}.parquet", [{} for _ in range(10)], 10 * number)
    table = {"uid": [uid(i) for i in range(20)], "vector": vectors.tolist()}
    pl.DataFrame(table).write_parquet(tmp_path / "vectors.parquet")
    scores: dict[str, Any] = {
        "embedding": {"by": "joined", "path": "vectors.parquet", "columns": {"vector": "vector"}},
        "carries": {"by": "leverage", "of": "vector", "energy": 0.5},
    }
    filters = [{"name": "scalselect", "top": 0.25, "of": "carries"}]
    report = built(tmp_path, scores=scores, filters=filters)
    # DataComp's threshold keeps one more than the share: the six largest. Keys are rows of their file.
    assert kept(report) == {str(i % 10) for i in np.argsort(-direct(vectors, 0.5))[:6].tolist()}
    assert not built(tmp_path, scores=scores, filters=filters).work
    scores["carries"]["energy"] = 0.9
    assert built(tmp_path, scores=scores, filters=filters).work["directions carries"] == 1
