"""A stage in the order of a column, through a whole build and into the stream."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindvl_data.manifest import packs_of, read_manifest
from mindvl_data.manifest.verify import verify
from mindvl_data.pipeline import BuildReport
from mindvl_data.recipe import RecipeError
from mindvl_data.stream import PackStream
from tests.mindvl_data.crawl import built, crawl

STAGE = {"seq_len": 256, "budget": {"epochs": 1}, "mixture": {"crawl": 1.0}}
ORDER = {"rule": "balanced", "step": 2}


def rows(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [{"hard": float(h), "caption": "word " * int(n)} for h, n in rng.integers(1, 30, (count, 2))]


def made(folder: Path, **curriculum: Any) -> tuple[BuildReport, list[float]]:
    """The build, and what each pack's samples are hard on average, in the order of packs."""
    report = built(folder, order=ORDER, stages={"only": {**STAGE, "curriculum": curriculum}})
    manifest = read_manifest(report.out / "only-256")
    assert [problem for _, problems in verify(manifest) for problem in problems] == []
    lengths = [np.diff(pack.cu_seqlens)[: len(pack.sources)].mean() for pack in packs_of(manifest)]
    return report, lengths


def test_packs_rise_by_windows_stay_full_and_later_epochs_keep_the_windows(tmp_path: Path) -> None:
    crawl(tmp_path / "crawl.parquet", rows(240))
    plain = built(tmp_path, order=ORDER).stages[0].data
    report, lengths = made(tmp_path, by="tokens", windows=4)
    data = report.stages[0].data
    assert data["packing"]["packs"] <= plain["packing"]["packs"] + 2
    borders = data["order"]["curriculum"]["borders"]
    assert (borders[0], borders[-1], data["order"]["curriculum"]["missing"]) == (0, len(lengths), 0)
    # A window of less than a step goes with the next.
    assert 4 <= len(borders) <= 5
    assert all(border % 2 == 0 for border in borders[:-1])
    means = [np.mean(lengths[a:b]) for a, b in pairwise(borders)]
    assert means == sorted(means)
    assert means[-1] > 1.5 * means[0]
    # A step's packs are alike as far as its window has them.
    assert data["packing"]["cost_balance"]["balanced"]["attention"] < 1.3
    packs = [pack.index for pack in PackStream(report.out / "only-256", epochs=2)]
    second = packs[len(lengths) :]
    assert second != packs[: len(lengths)]
    for a, b in pairwise(borders):
        assert sorted(second[a:b]) == list(range(a, b))
    _, falling = made(tmp_path, by="tokens", windows=4, descending=True)
    assert np.mean(falling[:4]) > np.mean(falling[-4:])


def test_by_a_field_of_the_data_and_what_lacks_it(tmp_path: Path) -> None:
    some = rows(40)
    for row in some[::4]:
        row["hard"] = None
    crawl(tmp_path / "crawl.parquet", some)
    report, _ = made(tmp_path, by="hard * 2", windows=3)
    first = read_manifest(report.out / "only-256").id
    said = report.stages[0].data["order"]["curriculum"]
    assert (said["by"], said["missing"]) == ("hard * 2", 10)
    assert not built(tmp_path, order=ORDER, stages={"only": {**STAGE, "curriculum": said_of(said)}}).work
    # Another value is another set.
    for row in some[1::4]:
        row["hard"] = 0.0
    crawl(tmp_path / "crawl.parquet", some)
    made(tmp_path, by="hard * 2", windows=3)
    assert read_manifest(report.out / "only-256").id != first


def said_of(rule: dict[str, Any]) -> dict[str, Any]:
    return {key: rule[key] for key in ("by", "windows")}


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"curriculum": {"by": "hart"}}, "stages.only.curriculum.by: there is no column 'hart'"),
        ({"curriculum": {"by": "caption"}}, "stages.only.curriculum.by: 'caption' is String, not a number"),
        ({"curriculum": {"by": "hard"}, "window": 5}, "`window` draws in the order of the files; give one of both"),
    ],
)
def test_a_curriculum_that_cannot_be_is_named(tmp_path: Path, stage: dict[str, Any], message: str) -> None:
    crawl(tmp_path / "crawl.parquet", rows(4))
    with pytest.raises(RecipeError, match=message):
        built(tmp_path, stages={"only": {**STAGE, **stage}})


def test_a_budget_in_packs_holds_with_a_curriculum(tmp_path: Path) -> None:
    crawl(tmp_path / "crawl.parquet", rows(60))
    stage = {**STAGE, "budget": {"packs": 5}, "curriculum": {"by": "tokens", "windows": 2}}
    data = built(tmp_path, order=ORDER, stages={"only": stage}).stages[0].data
    assert data["packing"]["packs"] == 5
    assert data["order"]["curriculum"]["borders"][-1] == 5
