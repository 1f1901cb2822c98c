"""Duplicates and evaluation sets through a whole build: who stays, who leaves, and what is written down."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from mindvl_data.manifest import read_manifest
from mindvl_data.recipe import RecipeError
from tests.mindvl_data.crawl import built, crawl, dropped, kept, picture

PAGE = "the quick brown fox jumps over the lazy dog while seven wizards quickly mix the boxing champion's lunch"


def again(image: bytes, quality: int = 70) -> bytes:
    """The same picture, smaller and encoded anew."""
    out = io.BytesIO()
    opened = Image.open(io.BytesIO(image))
    opened.resize((opened.width * 3 // 4, opened.height * 3 // 4)).save(out, "JPEG", quality=quality)
    return out.getvalue()


def big(seed: int) -> bytes:
    return picture(seed, 160, 160)


def test_exact_duplicates_leave_one_by_rule_whatever_the_files(tmp_path: Path) -> None:
    rows = [{"caption": "a", "image": big(0), "clip": 0.1}, {"caption": "b", "image": big(1), "clip": 0.2}]
    crawl(tmp_path / "crawl-1.parquet", rows)
    crawl(tmp_path / "crawl-2.parquet", [{"caption": "b", "image": big(0), "clip": 0.9}, {"caption": "c"}], 2)
    rules = [{"by": "image", "prefer": "clip"}, {"by": "text"}]
    report = built(tmp_path, dedup=rules)
    # By image row 0 of crawl-2 stays for its clip; by text one of the two `b`, the smaller sample id.
    lost = pl.read_parquet(report.out / "ledger" / "dedup.parquet")
    assert set(lost["reason"]) == {"duplicate"}
    by_image, by_text = (lost.filter(pl.col("detail").str.ends_with(f"stays ({by})")) for by in ("image", "text"))
    assert by_image["locator"].to_list() == ["crawl-1.parquet#0"]
    assert by_text["locator"].is_in(["crawl-1.parquet#1", "crawl-2.parquet#0"]).to_list() == [True]
    steps = {line["step"]: (line["in"], line["out"], line["reasons"]) for line in report.stages[0].data["funnel"]}
    assert steps["dedup: image"] == (4, 3, {"duplicate": 1})
    assert steps["dedup: text"] == (3, 2, {"duplicate": 1})
    assert not built(tmp_path, dedup=rules).work
    changed = built(tmp_path, dedup=[rules[0]])
    assert (changed.work["scan"], changed.work["dedup"], changed.work["count"]) == (0, 0, 1)
    by_id = built(tmp_path, dedup=[{"by": "image"}])
    assert (by_id.work["scan"], by_id.work["dedup"]) == (2, 1), "the field `clip` is named no more"


def test_near_duplicates_are_found_through_size_and_encoding(tmp_path: Path) -> None:
    originals = [big(seed) for seed in range(6)]
    rows = [{"caption": f"{PAGE} {seed}", "image": image} for seed, image in enumerate(originals)]
    copies = [{"caption": f"copy {seed}", "image": again(image)} for seed, image in enumerate(originals[:3])]
    crawl(tmp_path / "crawl.parquet", [*rows, *copies, {"caption": PAGE.upper()}])
    report = built(tmp_path, dedup=[{"by": "image", "near": 6}])
    lost = dropped(report, "dedup")
    assert len(lost) == 3
    assert {frozenset((int(key) % 6,)) for key in lost} == {frozenset((seed,)) for seed in range(3)}
    assert all("(image, near 6)" in why for why in lost.values())
    report = built(tmp_path, dedup=[{"by": "text", "near": 0.8}])
    assert len({*map(str, range(6)), "9"} & kept(report)) == 1
    assert set("678") <= kept(report)
    assert report.work["scan"] == 0
    steps = {line["step"]: line["reasons"] for line in report.stages[0].data["funnel"]}
    assert steps["dedup: text, near 0.8"] == {"near_duplicate": 6}


def test_what_evaluation_sets_hold_is_dropped_and_reported_for_each(tmp_path: Path) -> None:
    captions = [f"{PAGE} number {i}" if i == 4 else f"something else entirely, {i * 7919}" for i in range(6)]
    crawl(tmp_path / "crawl.parquet", [{"caption": c, "image": big(i)} for i, c in enumerate(captions)])
    crawl(tmp_path / "seen.parquet", [{"caption": "x", "image": big(1)}, {"caption": "y", "image": big(50)}], 90)
    crawl(tmp_path / "near.parquet", [{"caption": f"{PAGE}!", "image": again(big(2))}], 95)
    kind = {"format": "captions", "kind": "evaluation"}
    sets = {name: {**kind, "path": f"{name}.parquet"} for name in ("seen", "near")}
    rules = [{"by": "image"}, {"by": "image", "near": 6}, {"by": "text", "near": 0.6, "against": ["near"]}]
    # A filter of the recipe is for what is trained on: it must not hide what an evaluation set holds.
    small = [{"name": "new", "where": "text_chars > 20"}]
    report = built(tmp_path, evaluations=sets, decontaminate=rules, filters=small)
    lost = dropped(report, "dedup")
    assert set(lost) == {"1", "2", "4"}
    assert " of seen (image)" in lost["1"]
    assert " of near (image, near 6)" in lost["2"]
    assert " of near (text, near 0.6)" in lost["4"]
    data = read_manifest(report.out / "only-256").data
    assert data["evaluations"] == {"seen": {"samples": 2, "found": 1}, "near": {"samples": 1, "found": 1}}
    steps = {line["step"]: line["reasons"] for line in data["funnel"]}
    assert steps["decontaminate: seen: image"] == {"contaminated": 1}
    assert steps["decontaminate: near: image"] == {}
    assert steps["decontaminate: near: text, near 0.6"] == {"contaminated": 1}
    assert list(data["sources"]) == ["crawl"]
    assert not built(tmp_path, evaluations=sets, decontaminate=rules, filters=small).work


def test_one_picture_of_an_evaluation_set_is_one_too_many(tmp_path: Path) -> None:
    images = [[big(0), big(1)], [again(big(2)), big(3)], [big(4), big(5)]]
    turn = [{"user": "what?", "assistant": "that"}]
    rows = [{"texts": turn, "images": [{"bytes": data} for data in some]} for some in images]
    pl.DataFrame(rows).write_parquet(tmp_path / "fine.parquet")
    crawl(tmp_path / "seen.parquet", [{"image": big(1)}, {"image": big(1)}, {"image": big(2)}], 90)
    sources = {"crawl": {"format": "finevision", "path": "fine.parquet", "kind": "instruction"}}
    sets = {"seen": {"format": "captions", "path": "seen.parquet", "kind": "evaluation"}}
    report = built(tmp_path, sources=sources, evaluations=sets, decontaminate=[{"by": "image"}])
    assert kept(report) == {"1", "2"}
    assert report.stages[0].data["evaluations"] == {"seen": {"samples": 3, "found": 2}}
    near = built(tmp_path, sources=sources, evaluations=sets, decontaminate=[{"by": "image", "near": 6}])
    assert kept(near) == {"2"}
    assert near.stages[0].data["evaluations"] == {"seen": {"samples": 3, "found": 3}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dedup": [{"by": "image", "near": 0.5}]}, "dedup.0: near is 0.5: by image it is a number of bits, 1 to 8"),
        ({"dedup": [{"by": "text", "near": 3}]}, "dedup.0: near is 3: by text it is a similarity"),
        ({"dedup": [{"by": "image", "sources": ["crawler"]}]}, "dedup.0.sources: there is no source 'crawler'"),
        ({"dedup": [{"by": "image", "prefer": "klip"}]}, "dedup.0.prefer: there is no column 'klip'"),
        ({"decontaminate": [{"by": "image"}]}, "there are no evaluation sets; name them in `evaluations`"),
    ],
)
def test_a_rule_that_cannot_be_is_named_by_its_place(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    crawl(tmp_path / "crawl.parquet", [{}])
    with pytest.raises(RecipeError, match=message):
        built(tmp_path, **change)


def test_pictures_that_do_not_decode_are_alike_to_none(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (200, 200, 3), dtype=np.uint8))
    out = io.BytesIO()
    noise.save(out, "PNG")
    broken = out.getvalue()[:5000]
    crawl(tmp_path / "crawl.parquet", [{"image": broken}, {"image": broken + b"x"}, {"image": big(1)}])
    assert kept(built(tmp_path, dedup=[{"by": "image", "near": 4}])) == {"0", "1", "2"}


def test_by_sample_several_questions_about_one_picture_stay_and_by_image_is_warned_of(tmp_path: Path) -> None:
    rows = [{"caption": f"question {i % 5}", "image": big(i // 3)} for i in range(12)]
    rows += [{"caption": "question 0", "image": big(0)}]
    crawl(tmp_path / "crawl.parquet", rows)
    report = built(tmp_path, dedup=[{}])
    assert len(dropped(report, "dedup")) == 1
    assert dropped(report, "dedup").keys() <= {"0", "12"}
    assert not report.warnings
    by_image = built(tmp_path, dedup=[{"by": "image"}])
    assert len(dropped(by_image, "dedup")) == 9
    assert by_image.warnings == [
        "dedup: image takes 9 of the 13 samples of crawl; `by: sample` keeps samples that differ in their images or in "
        "their texts"
    ]
