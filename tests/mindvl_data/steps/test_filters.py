"""Filters: tops, missing values, and the published presets on cases computed by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data.manifest import read_manifest
from mindvl_data.recipe import RecipeError, load_recipe
from mindvl_data.steps.filters import threshold
from mindvl_data.steps.presets import PRESETS
from tests.mindvl_data.crawl import built, crawl, dropped, kept, recipe, uid
from tests.mindvl_data.scores.test_text import wordnet

ENGLISH = "a brown dog runs over the long beach"
GERMAN = "ein brauner Hund läuft über den langen Strand"


@settings(deadline=None)
@given(st.lists(st.floats(-9, 9), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_top_begins_where_datacomp_says(values: list[float], top: float) -> None:
    place = int(len(values) * top)
    expected = sorted(values, reverse=True)[place] if place < len(values) else -np.inf
    assert threshold(np.array(values), top) == expected


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
