"""What a packed set depends on, and what it must not depend on: other sources, other files, earlier builds."""

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from mindvl_data.manifest import read_manifest
from mindvl_data.pipeline import BuildError, BuildReport, build
from mindvl_data.recipe import RecipeError, load_recipe
from mindvl_data.steps.mix import MixError
from tests.conftest import QUICKSTART


def recipe(folder: Path, **changes: Any) -> Path:
    raw = yaml.safe_load((QUICKSTART / "recipe.yaml").read_text()) | changes
    (folder / "recipe.yaml").write_text(json.dumps(raw))
    return folder / "recipe.yaml"


def shards(out: Path) -> dict[str, list[str]]:
    return {f.parent.name: [s.sha256 for s in read_manifest(f).shards] for f in sorted(out.glob("*/manifest.json"))}


def conversations(path: Path, count: int, start: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    turn = [{"role": "user", "content": "say it"}, {"role": "assistant", "content": "it"}]
    lines = [
        json.dumps({"id": str(i), "messages": [*turn, {"role": "user", "content": str(i)}]})
        for i in range(start, start + count)
    ]
    path.write_text("\n".join(lines))
    return path


def test_a_source_that_no_stage_uses_changes_no_shard_and_rewrites_none(recipe_folder: Path, tmp_path: Path) -> None:
    path = recipe(recipe_folder)
    build(load_recipe(path), tmp_path / "out")
    before = shards(tmp_path / "out")
    conversations(recipe_folder / "data" / "more.jsonl", 20)
    raw = yaml.safe_load(path.read_text())
    more = {"more": {"format": "messages", "path": "data/more.jsonl", "kind": "text"}}
    path = recipe(recipe_folder, sources={**more, **raw["sources"]}, holdout=raw["holdout"])
    report = build(load_recipe(path), tmp_path / "out")
    training = [name for name in report.work if name.startswith("write") and "holdout" not in name]
    assert training == []
    build(load_recipe(path), tmp_path / "fresh")
    assert shards(tmp_path / "fresh") == shards(tmp_path / "out")
    assert {k: v for k, v in shards(tmp_path / "out").items() if "holdout" not in k} == {
        k: v for k, v in before.items() if "holdout" not in k
    }


def test_a_filter_on_the_first_source_leaves_the_sets_without_it(quickstart: BuildReport, tmp_path: Path) -> None:
    shutil.copytree(quickstart.out, tmp_path / "out")
    rule = "filters.1.where=text_chars >= 25 or kind <> 'caption'"
    report = build(load_recipe(QUICKSTART / "recipe.yaml", [rule]), tmp_path / "out")
    assert report.work["count"] == 2
    assert {"write sft-2048", "write sft-4096"} & set(report.work) == set()
    assert {"write warmup-2048", "write multitask-4096"} <= set(report.work)


def one_source(path: Any, **more: Any) -> dict[str, Any]:
    return {
        "sources": {"text": {"format": "messages", "path": path, "kind": "text"}},
        "filters": [],
        "holdout": None,
        "stages": {"only": {"seq_len": 128, "budget": {"epochs": 1}, "mixture": {"text": 1.0}}},
        **more,
    }


def test_files_of_one_name_in_two_folders_have_samples_of_their_own(recipe_folder: Path, tmp_path: Path) -> None:
    for name in ("p1", "p2"):
        conversations(recipe_folder / name / "t.jsonl", 10)
    report = build(load_recipe(recipe(recipe_folder, **one_source(["p1/t.jsonl", "p2/t.jsonl"]))), tmp_path / "out")
    assert report.stages[0].data["mixture"]["total"]["samples"] == 20


def test_hundreds_of_files_need_no_hundreds_of_open_files(recipe_folder: Path, tmp_path: Path) -> None:
    for number in range(150):
        conversations(recipe_folder / "many" / f"{number:03d}.jsonl", 2, number)
    path = recipe(recipe_folder, **one_source("many/*.jsonl"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (700, hard))
    try:
        report = build(load_recipe(path), tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert report.stages[0].data["mixture"]["total"]["samples"] == 300


@pytest.mark.parametrize(("where", "kept"), [("1 = 2", 0), ("1 = 1", 10)])
def test_a_constant_filter_holds_for_every_sample_or_none(
    recipe_folder: Path, tmp_path: Path, where: str, kept: int
) -> None:
    conversations(recipe_folder / "t.jsonl", 10)
    path = recipe(recipe_folder, **one_source("t.jsonl", filters=[{"name": "x", "where": where}]))
    if kept:
        assert build(load_recipe(path), tmp_path / "out").funnel[1].left == kept
    else:
        with pytest.raises(MixError, match="no sample left"):
            build(load_recipe(path), tmp_path / "out")


@pytest.mark.parametrize("where", ["text_chars > avg(text_chars)", "count(*) > 3"])
def test_a_filter_that_looks_at_other_samples_is_refused(recipe_folder: Path, tmp_path: Path, where: str) -> None:
    path = recipe(recipe_folder, filters=[{"name": "x", "where": where}])
    with pytest.raises(RecipeError, match="more than one sample"):
        build(load_recipe(path), tmp_path / "out")


def test_an_impossible_budget_is_found_before_anything_is_published(recipe_folder: Path, tmp_path: Path) -> None:
    loaded = load_recipe(recipe(recipe_folder), ["stages.sft.budget={tokens: 99_000_000}"])
    with pytest.raises(MixError, match=r"stages\.sft"):
        build(loaded, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("manifest.json"))
    assert not (tmp_path / "out" / "ledger").exists()


def test_the_limit_on_embedding_counts_the_whole_build(recipe_folder: Path, tmp_path: Path) -> None:
    loaded = load_recipe(recipe(recipe_folder, embed_limit=8_000_000))
    with pytest.raises(BuildError, match=r"embed_limit is 0\.0 GB"):
        build(loaded, tmp_path / "out")


@pytest.mark.parametrize(
    "change",
    [
        {"name": ".."},
        {"sources": {"../up": {"format": "messages", "path": "x", "kind": "x"}}},
        {"stages": {"a/b": {"seq_len": 64, "budget": {"epochs": 1}, "mixture": {"text": 1.0}}}},
        {"sources": {"text": {"format": "messages", "path": "s3://key:secret@host/x", "kind": "x"}}},
        {"seed": float("inf")},
    ],
)
def test_what_must_not_become_a_path_or_an_output_is_refused(recipe_folder: Path, change: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        load_recipe(recipe(recipe_folder, **change))


def test_a_killed_publication_is_mended(quickstart: BuildReport, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(quickstart.out, out)
    (out / ".work" / "warmup-2048").mkdir(parents=True)
    (out / "warmup-2048").rename(out / ".work" / "warmup-2048" / "old")
    report = build(load_recipe(QUICKSTART / "recipe.yaml"), out)
    assert {stage.state for stage in report.stages} == {"up to date"}
    assert (out / "warmup-2048" / "manifest.json").exists()
    assert not (out / ".work" / "warmup-2048" / "old").exists()


def test_a_killed_publication_of_a_stage_that_is_gone_is_mended(quickstart: BuildReport, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(quickstart.out, out)
    (out / ".work" / "holdout-4096").mkdir(parents=True)
    (out / "holdout-4096").rename(out / ".work" / "holdout-4096" / "old")
    build(load_recipe(QUICKSTART / "recipe.yaml", ["holdout=null"]), out)
    assert (out / "holdout-4096" / "manifest.json").exists()
    assert not (out / ".work").exists()
