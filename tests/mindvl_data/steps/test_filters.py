"""Filters: tops, missing values, and the published presets on cases computed by hand."""

import re
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindvl_data.manifest import read_manifest
from mindvl_data.recipe import RecipeError, load_recipe
from mindvl_data.runtime import seals
from mindvl_data.sources import Asked
from mindvl_data.steps.filters import NO_FILTER, FilterTask, Rule, dropped_by, threshold
from mindvl_data.steps.presets import PRESETS
from tests.mindvl_data.crawl import built, crawl, dropped, kept, recipe, uid
from tests.mindvl_data.sources.scanned import read
from tests.mindvl_data.steps.scores.test_text import wordnet

ENGLISH = "a brown dog runs over the long beach"
GERMAN = "ein brauner Hund läuft über den langen Strand"


@settings(deadline=None)
@given(st.lists(st.floats(-9, 9), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_top_begins_where_datacomp_says(values: list[float], top: float) -> None:
    place = int(len(values) * top)
    expected = sorted(values, reverse=True)[place] if place < len(values) else -np.inf
    assert threshold(np.array(values), top) == expected


def holding(folder: Path, columns: pl.DataFrame, where: str, missing: str = "drop") -> list[bool]:
    """For which lines of a partition with these columns beside it an expression holds."""
    pl.DataFrame({"key": [str(i) for i in range(len(columns))]}).write_parquet(folder / "samples.parquet")
    with seals.sealed(folder / "columns.parquet") as partial:
        columns.write_parquet(partial)
    rule = Rule("filters.0.where", "x", where, None, None, None, missing)
    task = FilterTask("crawl", "caption", folder / "samples.parquet", (folder / "columns.parquet",), (rule,), 0)
    first = dropped_by(task, np.full(len(columns), NO_FILTER, np.int16))
    return [bool(one == NO_FILTER) for one in first]


NUMBERS = st.none() | st.just(float("nan")) | st.sampled_from([-1.0, 0.0, 0.5, 2.0, float("inf")])
CONDITIONS: dict[str, Callable[[float, float], bool]] = {
    "a >= 0.5": lambda a, b: a >= 0.5,
    "a > b": lambda a, b: a > b,
    "not a < 0.5": lambda a, b: not a < 0.5,
    "a between 0 and 1": lambda a, b: 0 <= a <= 1,
    "a - b >= 0": lambda a, b: a - b >= 0,
    "a / (b + 0.0) > 1": lambda a, b: float(np.float64(a) / b) > 1,
}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=12),
    where=st.sampled_from(sorted(CONDITIONS)),
    missing=st.sampled_from(["keep", "drop"]),
)
def test_a_nan_is_a_missing_value(tmp_path: Path, rows: list[Any], where: str, missing: str) -> None:
    """Also one that the expression makes: inf - inf, 0 / 0."""

    def expected(a: float | None, b: float | None) -> bool:
        values = (a, b) if re.search(r"\bb\b", where) else (a,)
        with np.errstate(all="ignore"):
            made = {"a - b >= 0": np.subtract, "a / (b + 0.0) > 1": np.divide}.get(where)
            gone = any(value is None or np.isnan(value) for value in values)
            gone = gone or bool(made and np.isnan(made(np.float64(a), np.float64(b))))
            return missing == "keep" if gone else CONDITIONS[where](a, b)  # type: ignore[arg-type]

    columns = pl.DataFrame({"a": [a for a, _ in rows], "b": [b for _, b in rows]}, {"a": pl.Float64, "b": pl.Float64})
    assert holding(tmp_path, columns, where, missing) == [expected(a, b) for a, b in rows]


@pytest.mark.parametrize(
    "where", ["t >= 10.0", "10 < t", "t between 1.5 and 9.5", "not t > 2.5", "n <= t", "a > 0 or t = 1"]
)
def test_text_is_not_compared_with_numbers(tmp_path: Path, where: str) -> None:
    columns = pl.DataFrame({"t": ["3.2", "50", "n/a", None], "n": [1, 2, 3, 4], "a": [0.5] * 4})
    said = (
        r"filters.0.where: .* compares text with a number: t is text \(2 values read as numbers, 1 do not\).*try_cast"
    )
    with pytest.raises(RecipeError, match=said):
        holding(tmp_path, columns, where)
    assert holding(tmp_path, columns, "try_cast(t as double) >= 10") == [False, True, False, False]
    assert holding(tmp_path, columns, "t >= '4'") == [False, True, True, False]


@pytest.mark.parametrize(
    ("values", "where"),
    [
        (pa.array([Decimal("0.40"), Decimal("0.60")]), "x >= 0.5"),
        (pa.array([4, 6], pa.int64()).cast(pa.decimal128(20)), "x >= 5"),
        (pa.array([date(2020, 1, 1), date(2021, 1, 1)]), "x >= date('2020-06-01')"),
        (pa.array([datetime(2020, 1, 1), datetime(2021, 1, 1)], pa.timestamp("ns")), "x >= date('2020-06-01')"),
        (pa.array([np.float16(0.25), np.float16(0.5)], pa.float16()), "x >= 0.5"),
        (pa.array(["a", "b"]).dictionary_encode(), "x = 'b'"),
        (pa.array(["a", "b"], pa.string_view()), "x = 'b'"),
        (pa.array([None, 2000], pa.duration("ns")), "x is not null"),
    ],
)
def test_every_single_type_of_arrow_is_carried(tmp_path: Path, values: pa.Array, where: str) -> None:
    pq.write_table(pa.table({"text": ["a", "bb"], "x": values}), tmp_path / "x.parquet")
    found = read(tmp_path / "x.parquet", "text", asked=Asked(keep=("x",)))
    assert holding(tmp_path, pl.DataFrame(found.data), where) == [False, True]


@pytest.mark.parametrize("values", [[[1], [2]], [{"a": 1}, {"a": 2}], [b"a", b"b"]])
def test_a_field_that_no_filter_could_compare_is_named(tmp_path: Path, values: list[Any]) -> None:
    pq.write_table(pa.table({"text": ["a", "b"], "x": values}), tmp_path / "x.parquet")
    found = read(tmp_path / "x.parquet", "text", asked=Asked(keep=("x",)))
    assert {detail.split(",")[0] for _, detail in found.drops.values()} == {f"`x` is {type(values[0]).__name__}"}


def best(top: float, **more: Any) -> dict[str, Any]:
    return {"name": "best", "top": top, "of": "clip", **more}


def test_a_top_is_of_what_the_filters_before_it_left(tmp_path: Path) -> None:
    crawl(tmp_path / "crawl-1.parquet", [{"clip": clip} for clip in (0.9, 0.8, 0.7, 0.6)])
    crawl(tmp_path / "crawl-2.parquet", [{"clip": clip} for clip in (0.5, 0.4, 0.3, None)], 4)
    report = built(tmp_path, filters=[best(0.5)])
    assert kept(report) == {"0", "1", "2", "3"}  # int(7 · 0.5) = 3, and the missing one is kept: 0, 1, 2, 3 and 7
    assert dropped(report)["2"] == "best: clip >= 0.6, its top 0.5"
    rules = [{"name": "not the first", "where": "clip < 0.75"}, best(0.5, missing="drop")]
    report = built(tmp_path, filters=rules)
    assert set(dropped(report).values()) == {"not the first: clip < 0.75", "best: clip >= 0.5, its top 0.5"}
    assert read_manifest(report.out / "only-256").data["mixture"]["total"]["samples"] == 3
    again = built(tmp_path, filters=rules)
    assert not again.work


def test_a_top_is_of_all_sources_together_or_of_each(tmp_path: Path) -> None:
    crawl(tmp_path / "crawl.parquet", [{"clip": clip} for clip in (0.9, 0.8, 0.7, 0.6)])
    crawl(tmp_path / "other.parquet", [{"clip": clip} for clip in (0.5, 0.4, 0.3, 0.2)], 4)
    source = {"format": "captions", "kind": "caption"}
    sources = {name: {**source, "path": f"{name}.parquet"} for name in ("crawl", "other")}
    stages = {"only": {"seq_len": 256, "budget": {"epochs": 1}, "mixture": {"crawl": 0.5, "other": 0.5}}}

    def left(**more: Any) -> list[int]:
        report = built(tmp_path, sources=sources, stages=stages, filters=[best(0.25, **more)])
        funnel = read_manifest(report.out / "only-256").data["funnel"]
        return [line["out"] for line in funnel if line["step"] == "filter: best"]

    assert left(per="source") == [2, 2]
    assert left(sources=["other"]) == [4, 2]
    crawl(tmp_path / "other.parquet", [{"clip": clip} for clip in (0.95, 0.4, 0.3, 0.2)], 4)
    assert left() == [2, 1]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            {"name": "x", "where": "a > 1", "preset": "dfn"},
            "exactly one of where, top and preset, not where and pre",
        ),
        ({"name": "x"}, "exactly one of where, top and preset, not none"),
        ({"name": "x", "top": 0.3}, "`top` and `of` belong together"),
        ({"where": "a > 1"}, "a filter needs a name"),
        ({"preset": "datacomp_basik"}, "filters.0.preset: there is no preset 'datacomp_basik'; did you mean"),
        (
            {"preset": "dfn", "options": {"lsted": "x"}},
            "options: dfn has no option 'lsted'; did you mean 'listed'",
        ),
        ({"preset": "dfn", "options": {"listed": 3}}, "filters.0.options.listed: 3 is not str"),
        ({"name": "x", "top": 0.5, "of": "caption"}, "filters.0.of: 'caption' is String, not a number"),
        ({"name": "x", "top": 0.5, "of": "clip >"}, "filters.0.of: 'clip >' is no SQL expression"),
    ],
)
def test_a_filter_that_cannot_be_is_named_by_its_place(tmp_path: Path, rule: dict[str, Any], message: str) -> None:
    crawl(tmp_path / "crawl.parquet", [{"clip": 0.5}])
    with pytest.raises(RecipeError, match=message):
        built(tmp_path, filters=[rule])


# What each published filter says of a sample, by the row's number: True kept, else the name of what drops it.
BASIC = [
    ({"caption": ENGLISH, "original_width": 200, "original_height": 600}, True),
    ({"caption": ENGLISH, "original_width": 200, "original_height": 601}, "aspect at most 3"),
    ({"caption": ENGLISH, "original_width": 199, "original_height": 300}, "smaller side at least 200"),
    ({"caption": ENGLISH, "original_width": 900, "original_height": 300}, True),
    ({"caption": GERMAN, "original_width": 300, "original_height": 300}, "English"),
    ({"caption": "the house", "original_width": 300, "original_height": 300}, "more than 2 words"),
    ({"caption": "i am a", "original_width": 300, "original_height": 300}, True),
    ({"caption": "i am", "original_width": 300, "original_height": 300}, "more than 2 words"),
    ({"caption": ENGLISH, "original_width": None, "original_height": 300}, "smaller side at least 200"),
]
LAION = [
    ({"caption": ENGLISH, "clip_b32_similarity_score": 0.28}, True),
    ({"caption": ENGLISH, "clip_b32_similarity_score": 0.2799}, "CLIP B/32 at least 0.28"),
    ({"caption": GERMAN, "clip_b32_similarity_score": 0.5}, "English"),
    ({"caption": ENGLISH, "clip_b32_similarity_score": None}, "CLIP B/32 at least 0.28"),
]
TEXT_BASED = [
    ({"caption": "the brown dog is over there on the beach"}, True),
    ({"caption": "the brown cat is over there on the beach"}, "names an entity of ImageNet-21k"),
    ({"caption": "der braune dog ist dort drüben am Strand"}, "English"),
]
OPEN_QWEN2VL = [
    ({"semantic_understanding": 85}, True),
    ({"semantic_understanding": 84}, "semantic understanding at least 85, or DFN"),
    ({"semantic_understanding": 10}, True),  # in the list
    ({"semantic_understanding": None}, True),  # in the list
    ({"semantic_understanding": None}, "semantic understanding at least 85, or DFN"),
]


def outcome(report: Any, preset: str, rows: int) -> list[Any]:
    lost = dropped(report)
    names = [lost.get(str(i), f"{preset}: True: ") for i in range(rows)]
    return [name.removeprefix(f"{preset}: ").split(": ")[0] for name in names]


@pytest.mark.parametrize(
    ("preset", "cases"),
    [("datacomp_basic", BASIC), ("datacomp_laion2b", LAION), ("datacomp_text_based", TEXT_BASED)],
)
def test_a_preset_drops_what_its_publication_drops(tmp_path: Path, preset: str, cases: list[Any]) -> None:
    crawl(tmp_path / "crawl.parquet", [row for row, _ in cases])
    wordnet(tmp_path / "wordnet")
    options = {"wordnet": "wordnet", "synsets": "wordnet/synsets.txt"}
    scores = {"names_entity": {"by": "function", "function": "names_entity", "options": options}}
    report = built(tmp_path, filters=[{"preset": preset}], scores=scores)
    assert outcome(report, preset, len(cases)) == [str(expected) for _, expected in cases]


def test_open_qwen2vls_set_is_a_union_of_a_score_and_a_list(tmp_path: Path) -> None:
    crawl(tmp_path / "crawl.parquet", [row for row, _ in OPEN_QWEN2VL])
    halves = sorted((int(uid(i)[:16], 16), int(uid(i)[16:], 16)) for i in (2, 3))
    np.save(tmp_path / "dfn.npy", np.array(halves, "u8,u8"))
    scores = {"dfn": {"by": "uids", "path": "dfn.npy"}}
    report = built(tmp_path, filters=[{"preset": "open_qwen2vl"}], scores=scores)
    assert outcome(report, "open_qwen2vl", 5) == [str(expected) for _, expected in OPEN_QWEN2VL]
    assert kept(built(tmp_path, filters=[{"preset": "dfn"}], scores=scores)) == {"2", "3"}


def test_datacomp_1b_is_the_clip_top_and_near_an_imagenet_cluster(tmp_path: Path) -> None:
    # Three centres; the targets are nearest to centres 0 and 2. int(6 · 0.5) = 3: the threshold is 0.4.
    clips = [0.9, 0.8, 0.5, 0.4, 0.3, 0.2]
    crawl(tmp_path / "crawl.parquet", [{"caption": ENGLISH, "clip_l14_similarity_score": clip} for clip in clips])
    centres = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    np.save(tmp_path / "centres.npy", centres)
    np.save(tmp_path / "imagenet.npy", np.array([[0.9, 0.1, 0.2], [0.8, 0.1, 0], [0.1, 0.2, 0.7]], np.float16))
    embeddings = [[0.5, 0.1, 0.2], [0.1, 0.9, 0.2], [0.1, 0.2, 0.9], [0.3, 0.6, 0.5], [0.9, 0.0, 0.0], [0.0, 0.0, 1.0]]
    pl.DataFrame({"uid": [uid(i) for i in range(6)], "l14_img": embeddings}).write_parquet(tmp_path / "l14.parquet")
    scores = {
        "embeddings": {"by": "joined", "path": "l14.parquet", "columns": {"l14": "l14_img"}},
        "near_imagenet": {"by": "nearest", "of": "l14", "centres": "centres.npy", "targets": "imagenet.npy"},
    }
    report = built(tmp_path, filters=[{"preset": "datacomp_1b", "options": {"fraction": 0.5}}], scores=scores)
    near, top = "near an ImageNet cluster", "top 0.5"
    assert outcome(report, "datacomp_1b", 6) == ["True", near, "True", near, top, top]
    report = built(tmp_path, filters=[{"preset": "datacomp_image_based"}], scores=scores)
    assert outcome(report, "datacomp_image_based", 6) == ["True", near, "True", near, "True", "True"]
    report = built(tmp_path, filters=[{"preset": "datacomp_clip_score"}])
    assert outcome(report, "datacomp_clip_score", 6)[:3] == ["True", "True", "top 0.3"]


def test_every_preset_names_its_source_and_parses(tmp_path: Path) -> None:
    for name, preset in PRESETS.items():
        assert "arXiv" in preset.source
        assert load_recipe(recipe(tmp_path, filters=[{"preset": name}])).recipe.filters[0].preset == name
