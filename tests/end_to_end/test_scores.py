"""Scores through a whole build: named by a filter and computed, joined from elsewhere, changed and redone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mindvl_data.manifest import read_manifest
from mindvl_data.pipeline.gc import collect
from mindvl_data.recipe import RecipeError, load_recipe
from mindvl_data.steps.scores import ScoreError
from tests.mindvl_data.crawl import built, crawl, dropped, kept, recipe, uid


def rule(where: str, **more: Any) -> dict[str, Any]:
    return {"name": where, "where": where, **more}


def joined(path: str = "scores.parquet", **more: Any) -> dict[str, Any]:
    return {"by": "joined", "path": path, "columns": {"su": "score"}, **more}


def test_a_filter_names_a_score_and_has_it(tmp_path: Path) -> None:
    captions = ["one", "two words", "a b c d e", "Der Hund läuft über die Straße"]
    crawl(tmp_path / "crawl.parquet", [{"caption": caption} for caption in captions])
    report = built(
        tmp_path, filters=[rule("words >= 2"), rule("language = 'en'", missing="drop"), rule("blankness < 1")]
    )
    assert kept(report) == {"1", "2"}
    assert dropped(report) == {"0": "words >= 2: words >= 2", "3": "language = 'en': language = 'en'"}
    told = read_manifest(report.out / "only-256").data["scores"]["crawl"]
    assert set(told) == {"words", "language", "blankness"}
    assert told["words"]["missing"] == 0
    assert len(told["words"]["sha256"]) == 64


def test_a_changed_rule_or_score_redoes_only_what_depends_on_it(tmp_path: Path) -> None:
    for number in range(3):
        crawl(
            tmp_path / f"crawl-{number}.parquet",
            [{"caption": "a b c d"[: 1 + 2 * (i % 4)]} for i in range(8)],
            8 * number,
        )
    first = built(tmp_path, filters=[rule("words >= 1"), rule("word_run < 9")])
    assert (first.work["scan"], first.work["score"], first.work["filter"]) == (3, 3, 3)
    same = built(tmp_path, filters=[rule("words >= 1"), rule("word_run < 9")])
    assert not same.work
    moved = built(tmp_path, filters=[rule("words >= 2"), rule("word_run < 9")])
    assert (moved.work["scan"], moved.work["score"], moved.work["filter"], moved.work["count"]) == (0, 0, 3, 3)
    added = built(tmp_path, filters=[rule("words >= 2"), rule("word_run < 9"), rule("char_repetition < 2")])
    assert (added.work["scan"], added.work["score"], added.work["filter"], added.work["count"]) == (0, 3, 3, 0)
    crawl(tmp_path / "crawl-1.parquet", [{"caption": "x y z"}])
    other = built(tmp_path, filters=[rule("words >= 2"), rule("word_run < 9"), rule("char_repetition < 2")])
    assert (other.work["scan"], other.work["score"], other.work["filter"]) == (1, 1, 1)


def test_a_files_worth_of_options_is_part_of_what_a_score_depends_on(tmp_path: Path) -> None:
    crawl(tmp_path / "crawl.parquet", [{"caption": "a b a b"}, {"caption": "a b c d"}])
    scores = {"twice": {"by": "function", "function": "word_repetition", "options": {"n": 2}}}
    assert kept(built(tmp_path, scores=scores, filters=[rule("twice < 0.5")])) == {"1"}
    scores["twice"]["options"]["n"] = 3
    report = built(tmp_path, scores=scores, filters=[rule("twice < 0.5")])
    assert report.work["score"] == 1
    assert kept(report) == {"0", "1"}


@pytest.mark.parametrize("workers", [1, 2])
def test_scores_from_elsewhere_are_joined_by_uid_in_any_order(tmp_path: Path, workers: int) -> None:
    for number in range(2):
        crawl(tmp_path / f"crawl-{number}.parquet", [{} for _ in range(5)], 5 * number)
    order = [7, 2, 9, 4, 5, 99]
    pl.DataFrame({"uid": [uid(i) for i in order], "score": order}).write_parquet(tmp_path / "scores.parquet")
    report = built(tmp_path, workers=workers, scores={"mlm": joined()}, filters=[rule("su >= 5", missing="drop")])
    assert read_manifest(report.out / "only-256").data["scores"]["crawl"]["mlm"]["missing"] == 5
    assert kept(report) == {"0", "2", "4"}
    again = built(tmp_path, scores={"mlm": joined()}, filters=[rule("su >= 5", missing="drop")])
    assert not again.work
    pl.DataFrame({"uid": [uid(7)], "score": [1]}).write_parquet(tmp_path / "scores.parquet")
    changed = built(tmp_path, scores={"mlm": joined()}, filters=[rule("su >= 5", missing="keep")])
    assert (changed.work["scan"], changed.work["index mlm"], changed.work["score mlm"]) == (0, 1, 2)
    assert len(dropped(changed)) == 1


def test_scores_are_joined_by_key_only_where_keys_are_unique(tmp_path: Path) -> None:
    crawl(tmp_path / "crawl.parquet", [{} for _ in range(4)])
    pl.DataFrame({"key": ["0", "3"], "score": [90, 10]}).write_parquet(tmp_path / "scores.parquet")
    scores = {"mlm": joined(on="key")}
    assert kept(built(tmp_path, scores=scores, filters=[rule("su >= 50", missing="drop")])) == {"0"}
    crawl(tmp_path / "crawl-2.parquet", [{}], 10)
    with pytest.raises(ScoreError, match=r"two samples have one key, the first in crawl.*join on uid"):
        built(tmp_path, scores=scores, filters=[rule("su >= 50", missing="drop")])


def test_a_key_that_stands_twice_in_the_joined_files_is_an_error(tmp_path: Path) -> None:
    crawl(tmp_path / "crawl.parquet", [{} for _ in range(4)])
    for number, value in enumerate((1, 2)):
        pl.DataFrame({"uid": [uid(3), uid(10 + number)], "score": [value, 3]}).write_parquet(
            tmp_path / f"scores-{number}.parquet"
        )
    with pytest.raises(ScoreError, match=f"the uid '{uid(3)}' stands there more than once"):
        built(tmp_path, scores={"mlm": joined("scores-*.parquet")}, filters=[rule("su > 0")])


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (joined("none.parquet"), "scores.mlm.path.*none.parquet"),
        (joined(on="nothing"), "scores.mlm.on: Input should be 'uid', 'key' or 'sample_id'"),
        (joined(pth="x"), "scores.mlm.pth: there is no such key; did you mean 'path'"),
        ({"by": "joind"}, "scores.mlm: .*joind"),
        (joined(column="id"), "has no column 'id'; there are: uid, score"),
        (joined(columns={"width": "score"}), "scores.mlm: the samples table has a column 'width'"),
        ({"by": "function", "function": "wrds"}, "did you mean 'words'"),
        ({"by": "function", "function": "words", "options": {"n": 3}}, "words has no option 'n'"),
        ({"by": "uids", "path": "none.npy"}, "scores.mlm.path: none.npy: no such file"),
    ],
)
def test_a_score_that_cannot_be_is_named_by_its_place(tmp_path: Path, score: dict[str, Any], message: str) -> None:
    crawl(tmp_path / "crawl.parquet", [{}])
    pl.DataFrame({"uid": [uid(0)], "score": [1]}).write_parquet(tmp_path / "scores.parquet")
    columns = list(score.get("columns", {"mlm": ""}))
    with pytest.raises((RecipeError, ScoreError), match=message):
        built(tmp_path, scores={"mlm": score}, filters=[rule(f"{columns[0]} is not null")])


def test_lists_of_uids_are_an_algebra_of_truth_values(tmp_path: Path) -> None:
    crawl(tmp_path / "crawl.parquet", [{} for _ in range(8)])
    lists = {"one": [0, 1, 2, 3, 50], "other": [2, 3, 4, 51]}
    for name, numbers in lists.items():
        halves = sorted((int(uid(i)[:16], 16), int(uid(i)[16:], 16)) for i in numbers)
        np.save(tmp_path / f"{name}.npy", np.array(halves, "u8,u8"))
    scores = {name: {"by": "uids", "path": f"{name}.npy"} for name in lists}
    for where, numbers in {
        "one or other": {0, 1, 2, 3, 4},
        "one and other": {2, 3},
        "not one": {4, 5, 6, 7},
        "one and not other": {0, 1},
    }.items():
        assert kept(built(tmp_path, scores=scores, filters=[rule(where)])) == {str(n) for n in numbers}


def test_a_plugin_packages_function_is_a_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site"
    (package / "vowels-1.dist-info").mkdir(parents=True)
    (package / "vowels-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: vowels\nVersion: 1\n")
    (package / "vowels-1.dist-info" / "entry_points.txt").write_text("[mindvl_data.scores]\nvowels = vowels:vowels\n")
    (package / "vowels.py").write_text(
        "import polars as pl\n\n\ndef vowels(text: pl.Series) -> pl.Series:\n"
        "    return text.str.count_matches('[aeiou]')\n"
    )
    monkeypatch.syspath_prepend(str(package))
    crawl(tmp_path / "crawl.parquet", [{"caption": caption} for caption in ("xyz", "banana", "tree")])
    assert kept(built(tmp_path, filters=[rule("vowels > 2")])) == {"1"}


def test_a_name_that_no_column_has_is_refused_with_the_nearest(tmp_path: Path) -> None:
    crawl(tmp_path / "crawl.parquet", [{}])
    with pytest.raises(
        RecipeError, match=r"filters\.0\.where: there is no column 'wrds' in any sample; did you mean 'words'"
    ):
        built(tmp_path, filters=[rule("wrds > 2")])


def test_the_recipe_schema_knows_every_kind_of_score(tmp_path: Path) -> None:
    crawl(tmp_path / "crawl.parquet", [{}])
    path = recipe(tmp_path, scores={"lang": {"by": "function", "function": "language", "options": {"model": "m.bin"}}})
    assert json.loads(path.read_text())["scores"]["lang"]["by"] == load_recipe(path).recipe.scores["lang"].by


def test_a_file_without_samples_has_every_column_too(tmp_path: Path) -> None:
    crawl(tmp_path / "crawl-1.parquet", [{"caption": "a b c"}, {"caption": "a"}])
    pl.read_parquet(tmp_path / "crawl-1.parquet").head(0).write_parquet(tmp_path / "crawl-0.parquet")
    pl.DataFrame({"uid": [uid(0)], "score": [3]}).write_parquet(tmp_path / "scores.parquet")
    np.save(tmp_path / "listed.npy", np.array([(int(uid(0)[:16], 16), int(uid(0)[16:], 16))], "u8,u8"))
    scores = {"mlm": joined(), "listed": {"by": "uids", "path": "listed.npy"}}
    columns = ("words", "word_run", "char_repetition", "language_confidence", "blankness", "bytes_per_pixel", "su")
    rules = [rule(f"coalesce({name}, 1) >= 0") for name in columns]
    rules += [rule("listed or words > 0"), {"name": "top", "top": 1, "of": "words + blankness"}]
    thin = {"dedup": [{"by": by, "near": near} for by, near in (("image", 3), ("text", 0.9), ("image", None))]}
    none = {"empty": {"format": "captions", "path": "crawl-0.parquet", "kind": "evaluation"}}
    against = [{"by": "image", "near": 2}, {"by": "text"}, {"by": "text", "near": 0.7}]
    report = built(tmp_path, scores=scores, filters=rules, **thin, evaluations=none, decontaminate=against)
    assert kept(report) == {"0", "1"}


def test_what_a_changed_recipe_no_longer_uses_can_go_and_what_it_uses_stays(tmp_path: Path) -> None:
    crawl(tmp_path / "crawl.parquet", [{"caption": "a b c"}, {"caption": "a"}])
    built(tmp_path, filters=[rule("words >= 1"), rule("word_run < 9"), {"name": "top", "top": 0.5, "of": "words"}])
    filters = [rule("words >= 1"), {"name": "top", "top": 0.5, "of": "words"}]
    built(tmp_path, filters=filters)
    gone = {item.path.name.split("-")[0] for item in collect(tmp_path / "out", sets=False)}
    assert "word_run" in gone
    assert "words" not in gone
    assert not built(tmp_path, filters=filters).work
