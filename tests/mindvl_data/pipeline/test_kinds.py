"""Files that differ in a column's type: what a rule makes of a value does not depend on the file that it lies in."""

from datetime import date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mindvl_data.errors import UserError
from tests.mindvl_data.crawl import built, crawl, dropped, kept, uid

CAPTIONS = {"format": "captions", "kind": "caption"}


def files(folder: Path, *columns: list[Any]) -> None:
    """A Parquet file for each list of values of `x`, typed as they are."""
    first = 0
    for number, values in enumerate(columns):
        crawl(folder / f"crawl-{number}.parquet", [{"x": value} for value in values], first)
        first += len(values)


@pytest.mark.parametrize(
    ("columns", "where", "expected"),
    [
        (([1, 2], [0.5, 2.0]), "x >= 1", {"0", "1", "3"}),
        (([1, 2], [1.0, 2.0]), "cast(x as varchar) = '1.0'", {"0", "2"}),
        (([None, None], ["a", "B"]), "lower(x) = 'b'", {"3"}),
        (([date(2020, 1, 2)], [datetime(2020, 1, 2, 3)]), "x < timestamp('2020-01-02 01:00:00')", {"0"}),
        (([1, 2], ["1", "n/a"]), "try_cast(x as double) >= 1", {"0", "1", "2"}),
        (([True, False], [1, 0]), "try_cast(x as int) = 1", {"0", "2"}),
        (([1, None], ["a", None]), "x is not null", {"0", "2"}),
    ],
)
def test_types_that_can_be_one_are_one(tmp_path: Path, columns: Any, where: str, expected: set[str]) -> None:
    files(tmp_path, *columns)
    report = built(tmp_path, filters=[{"name": "x", "where": where, "missing": "drop"}])
    # Rows are numbered in each file.
    lines = pl.read_parquet(report.out / "ledger" / "filter.parquet")["locator"]
    lost = {(int(line.split("crawl-")[1][0]), int(line.rsplit("#", 1)[1])) for line in lines}
    places = [(number, row) for number, values in enumerate(columns) for row in range(len(values))]
    assert {str(i) for i, place in enumerate(places) if place not in lost} == expected


@pytest.mark.parametrize(
    ("columns", "where", "said"),
    [
        (
            ([0.5, None], ["0.7", "n/a"]),
            "x = '0.7'",
            "numbers in 1 file (1 values: crawl-0.parquet); text in 1 file (2",
        ),
        (([True], [1]), "x", "true and false in 1 file (1 values: crawl-0.parquet); whole numbers in 1 file"),
        (([2**53 + 1], [0.5]), "x > 1", "whole numbers in 1 file (1 values: crawl-0.parquet); numbers in 1 file"),
        (([date(2020, 1, 2)], ["2/1/2020"]), "x > '2'", "Date in 1 file (1 values: crawl-0.parquet); text in 1 file"),
    ],
)
def test_other_types_are_refused_by_name(tmp_path: Path, columns: Any, where: str, said: str) -> None:
    files(tmp_path, *columns)
    with pytest.raises(UserError) as caught:
        built(tmp_path, filters=[{"name": "x", "where": where}])
    assert "sources.crawl: `x` has no one type: " in str(caught.value)
    assert said in str(caught.value)
    assert "try_cast(x as double)" in str(caught.value)


def test_a_number_is_the_same_group_in_every_source(tmp_path: Path) -> None:
    """pandas writes whole numbers as floats where one is missing."""
    files(tmp_path, [1, 1, 2])
    crawl(tmp_path / "other.parquet", [{"x": value} for value in (1.0, 2.0, None)], 3)
    sources = {"crawl": {**CAPTIONS, "path": "crawl*.parquet"}, "other": {**CAPTIONS, "path": "other.parquet"}}
    mixture = {"crawl": 0.5, "other": 0.5}
    report = built(
        tmp_path,
        sources=sources,
        stages={"only": {"seq_len": 256, "budget": {"epochs": 1}, "mixture": mixture}},
        balance=[{"name": "even", "by": "x", "cap": 1}],
    )
    assert sorted(dropped(report, "dedup").values()) == ["even: x is 1.0: 1 of 3 stay"] * 2 + [
        "even: x is 2.0: 1 of 2 stay"
    ]


def test_a_rule_of_one_source_may_read_what_is_text_in_another(tmp_path: Path) -> None:
    files(tmp_path, [1, 2])
    crawl(tmp_path / "other.parquet", [{"x": "a"}], 2)
    sources = {"crawl": {**CAPTIONS, "path": "crawl*.parquet"}, "other": {**CAPTIONS, "path": "other.parquet"}}
    stages = {"only": {"seq_len": 256, "budget": {"epochs": 1}, "mixture": {"crawl": 0.5, "other": 0.5}}}
    rules = [
        {"name": "more", "where": "x > 1", "sources": ["crawl"]},
        {"name": "a", "where": "x = 'a'", "sources": ["other"]},
    ]
    assert list(dropped(built(tmp_path, sources=sources, stages=stages, filters=rules))) == ["0"]


def _joined(folder: Path, *columns: list[Any]) -> dict[str, Any]:
    crawl(folder / "crawl.parquet", [{}] * sum(map(len, columns)))
    first = 0
    for number, values in enumerate(columns):
        uids = [uid(i) for i in range(first, first + len(values))]
        pl.DataFrame({"uid": uids, "s": values}).write_parquet(folder / f"scores-{number}.parquet")
        first += len(values)
    return {"scores": {"x": {"by": "joined", "path": "scores-*.parquet", "columns": {"x": "s"}}}}


def test_joined_scores_have_the_type_that_holds_every_file(tmp_path: Path) -> None:
    scores = _joined(tmp_path, [None, None], [1, 2], [0.5, 1.5])
    assert kept(built(tmp_path, **scores, filters=[{"name": "x", "where": "x >= 1"}])) == {"0", "1", "2", "3", "5"}


def test_joined_scores_without_one_type_are_refused_by_name(tmp_path: Path) -> None:
    scores = _joined(tmp_path, ["a"], [1])
    with pytest.raises(UserError, match=r"scores.x: 's' has no one type over its files: .*scores-0.*int64 in 1 .*-1"):
        built(tmp_path, **scores, filters=[{"name": "x", "where": "x >= 1"}])
