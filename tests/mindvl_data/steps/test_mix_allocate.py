"""Shares by score: a case by hand, the conditions of a maximum, and a mixture by the means of a column."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data.errors import BuildError
from mindvl_data.pipeline import forecast
from mindvl_data.recipe import load_recipe
from mindvl_data.steps.mix import MixError
from mindvl_data.steps.mix.allocate import allocated
from tests.mindvl_data.crawl import built, crawl, recipe

ONE = {"a": 1.0, "b": 1.0, "c": 1.0}


def test_a_case_by_hand() -> None:
    # With tau 2 the scores are worth 4, 2 and 1.
    scores = {"a": 2 * math.log(4), "b": 2 * math.log(2), "c": 0.0}
    assert allocated(scores, 2, {}, ONE) == pytest.approx({"a": 4 / 7, "b": 2 / 7, "c": 1 / 7})
    # a is above 0.4; the other 0.6 are divided as 2 to 1.
    assert allocated(scores, 2, {"a": 0.4}, ONE) == pytest.approx({"a": 0.4, "b": 0.4, "c": 0.2})
    # Only what a leaves makes b too large: 0.62 · 2/3 = 0.413.
    assert allocated(scores, 2, dict.fromkeys("abc", 0.38), ONE) == pytest.approx({"a": 0.38, "b": 0.38, "c": 0.24})
    # A number at a source multiplies what its score is worth.
    assert allocated(scores, 2, {}, {**ONE, "c": 2.0}) == pytest.approx({"a": 0.5, "b": 0.25, "c": 0.25})


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[str, float], float, dict[str, float], dict[str, float]]:
    names = [f"s{i}" for i in range(draw(st.integers(1, 8)))]
    scores = {name: draw(st.floats(-100, 100)) for name in names}
    tau = draw(st.floats(1, 1000))
    raw = {name: draw(st.floats(0.05, 1)) for name in names}
    short = max(1.0, draw(st.floats(1, 1.5)) / sum(raw.values()))
    caps = {name: min(1.0, cap * short) for name, cap in raw.items() if draw(st.booleans())}
    if sum(caps.get(name, 1.0) for name in names) < 1:
        caps = {}
    return scores, tau, caps, {name: draw(st.floats(0.1, 10)) for name in names}


@given(problems())
@settings(deadline=None)
def test_shares_are_the_maximum_under_their_caps(problem: Any) -> None:
    scores, tau, caps, weights = problem
    shares = allocated(scores, tau, caps, weights)
    assert list(shares) == list(scores)
    assert math.fsum(shares.values()) == pytest.approx(1, abs=1e-9)
    assert all(0 < share <= caps.get(name, 1.0) + 1e-12 for name, share in shares.items())
    # Karush, Kuhn and Tucker: what one more share is worth is one number for all below their caps, and no less at them.
    worth = {n: scores[n] / tau - math.log(shares[n] / weights[n]) for n in scores}
    free = [name for name in scores if shares[name] < caps.get(name, 1.0)]
    for name in free:
        assert worth[name] == pytest.approx(worth[free[0]], abs=1e-6)
    for name in set(scores) - set(free) if free else ():
        assert worth[name] >= worth[free[0]] - 1e-6


def test_a_share_too_small_for_a_number_is_an_error() -> None:
    with pytest.raises(MixError, match=r"with a tau of 0\.001 and a score of 0, c gets nothing"):
        allocated({"a": 2, "b": 1, "c": 0}, 1e-3, {"a": 0.5}, ONE)


def by_words(folder: Path, **allocate: Any) -> dict[str, Any]:
    """Sections of a recipe whose two sources have captions of three words and of one, on average."""
    for name, captions in {"long": ["a b c d", "e f"], "short": ["g", "h"]}.items():
        crawl(folder / f"{name}.parquet", [{"caption": f"{caption}{i}"} for i in range(8) for caption in captions])
    sources = {n: {"format": "captions", "path": f"{n}.parquet", "kind": "caption"} for n in ("long", "short")}
    mixture = {"all": {"allocate": {"score": "words", "tau": 2 / math.log(3), **allocate}, "long": 1, "short": 1}}
    stage = {"seq_len": 256, "by": "samples", "budget": {"samples": 16}, "mixture": mixture}
    return {"sources": sources, "stages": {"only": stage}}


def test_a_mixture_by_the_means_of_a_column(tmp_path: Path) -> None:
    report = built(tmp_path, **by_words(tmp_path))
    mixture = report.stages[0].data["mixture"]
    assert {name: line["actual"]["samples"] for name, line in mixture["sources"].items()} == {"long": 12, "short": 4}
    assert mixture["allocated_by"] == {"stages.only.mixture.all.allocate.score": {"long": 3, "short": 1}}
    assert not built(tmp_path, **by_words(tmp_path)).work
    # Only what is left counts, and a cap holds.
    filters = [{"name": "brief", "where": "words <= 2"}]
    capped = built(tmp_path, filters=filters, **by_words(tmp_path, caps={"long": 0.5})).stages[0].data["mixture"]
    assert capped["allocated_by"] == {"stages.only.mixture.all.allocate.score": {"long": 2, "short": 1}}
    found = {name: line["actual"]["samples"] for name, line in capped["sources"].items()}
    assert found == {"long": 8, "short": 8}


def test_a_source_without_a_value_and_a_forecast_by_a_column_are_errors(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"allocate\.score: none of the 16 samples of short that .* left has a value"):
        built(tmp_path, **by_words(tmp_path, score="case when words > 1 then 1 end"))
    sections = by_words(tmp_path)
    for source in sections["sources"].values():
        source["size"] = {"samples": 10, "tokens_per_sample": 10}
    with pytest.raises(
        MixError, match=r"the mean of 'words' is known only from the data.*score: \{long: …, short: …\}"
    ):
        forecast(load_recipe(recipe(tmp_path, **sections)).recipe)
