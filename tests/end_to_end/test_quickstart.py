"""The quickstart, from its recipe to its packs: what must be right from the first day."""

import hashlib
import itertools
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from mindvl_data import vision
from mindvl_data.manifest import read_manifest
from mindvl_data.manifest.verify import verify
from mindvl_data.note import LOCAL_FILE
from mindvl_data.pipeline import BuildReport, build
from mindvl_data.recipe import load_recipe
from mindvl_data.shards import Pack, ShardReader
from tests.conftest import QUICKSTART

SETS = ["warmup-2048", "multitask-4096", "sft-2048", "sft-4096", "holdout-4096"]


def packs(report: BuildReport, name: str) -> list[Pack]:
    manifest = read_manifest(report.out / name)
    return [pack for shard in manifest.shards for pack in ShardReader(manifest.shard_path(shard))]


def tree(out: Path) -> dict[str, str]:
    """What a data set is, file by file: everything but caches and the note of where the recipe lies."""
    data = [path for name in SETS for path in (out / name).iterdir()] + list((out / "ledger").iterdir())
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in data
        if path.name != "build.json"
    }


def test_every_set_is_there_and_sound(quickstart: BuildReport) -> None:
    assert [stage.name for stage in quickstart.stages] == SETS
    for name in SETS:
        assert [problem for _, problems in verify(read_manifest(quickstart.out / name)) for problem in problems] == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
def test_any_number_of_workers_and_any_folder_give_the_same_bytes(
    quickstart: BuildReport, tmp_path: Path, workers: int
) -> None:
    build(load_recipe(QUICKSTART / "recipe.yaml"), tmp_path / "elsewhere", workers)
    assert tree(tmp_path / "elsewhere") == tree(quickstart.out)


def test_the_ids_are_those_under_version_control(quickstart: BuildReport) -> None:
    """Whoever changes them does so knowingly: copy the new manifests to manifests/quickstart/ and say why."""
    for name in SETS:
        kept = read_manifest(QUICKSTART.parent.parent / "manifests" / "quickstart" / name)
        assert kept.data == read_manifest(quickstart.out / name).data


def test_building_again_does_no_work(quickstart: BuildReport, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(quickstart.out, out)
    before = tree(out)
    report = build(load_recipe(QUICKSTART / "recipe.yaml"), out)
    assert report.work == Counter()
    assert [stage.state for stage in report.stages] == ["up to date"] * len(SETS)
    assert tree(out) == before


@pytest.mark.parametrize(
    ("override", "redone", "sets"),
    [
        # A filter that changes nothing: it is evaluated, and the manifests say so; no shard is written.
        ("filters.1.where=text_chars >= 2", {"filter"}, SETS),
        # One that drops samples of a single source: that source is counted again, sets without it keep shards.
        ("filters.1.where=text_chars >= 40 or kind <> 'text'", {"filter", "count", "write *"}, SETS),
        ("stages.sft.budget.epochs=0.5", {"write sft-2048", "write sft-4096"}, SETS),
        ("stages.warmup.resolution.max_pixels=802816", {"write warmup-2048"}, SETS),
        ("sources.vqa.licence=other", set(), SETS),
    ],
)
def test_a_change_redoes_what_depends_on_it_and_nothing_else(
    quickstart: BuildReport, tmp_path: Path, override: str, redone: set[str], sets: list[str]
) -> None:
    shutil.copytree(quickstart.out, tmp_path / "out")
    report = build(load_recipe(QUICKSTART / "recipe.yaml", [override]), tmp_path / "out")
    if "write *" in redone:
        assert report.work["count"] == 1
        assert "write warmup-2048" not in report.work
        assert {"filter", "count", "write multitask-4096"} <= set(report.work)
    else:
        assert set(report.work) == redone
    for stage in report.stages:
        assert [p for _, problems in verify(read_manifest(tmp_path / "out" / stage.name)) for p in problems] == []


def test_built_lengths_are_those_of_the_decoded_images(quickstart: BuildReport) -> None:
    seen: set[bytes] = set()
    for name in SETS:
        resolution = read_manifest(quickstart.out / name).resolution
        for pack in packs(quickstart, name):
            for image in pack.images:
                if image.sha256 in seen:
                    continue
                assert image.data is not None
                seen.add(image.sha256 or b"")
                # The grid by the resize rule from the decoded picture, not from what the header promised.
                width, height = vision.load_rgb(image.data).size
                assert image.grid == vision.patch_grid(width, height, resolution)
                assert vision.decode(image.data, *image.grid[1:]).shape == (image.num_patches, 1176)
    assert len(seen) > 250


def test_no_picture_and_no_text_is_on_both_sides(quickstart: BuildReport) -> None:
    def content(names: list[str]) -> tuple[set[bytes], set[bytes]]:
        images, ids = set(), set()
        for name in names:
            for pack in packs(quickstart, name):
                images |= {image.sha256 or b"" for image in pack.images}
                ids |= set(pack.sample_ids)
        return images, ids

    held_images, held_ids = content(["holdout-4096"])
    images, ids = content(SETS[:-1])
    assert held_images
    assert not held_images & images
    assert not held_ids & ids


def test_each_source_ends_within_half_a_sample_of_its_share(quickstart: BuildReport) -> None:
    for stage in quickstart.stages[:3]:
        mixture = stage.data["mixture"]
        lengths = Counter[str]()
        for pack in packs(quickstart, stage.name):
            for i, source in enumerate(pack.sources):
                lengths[source] = max(lengths[source], int(np.diff(pack.cu_seqlens)[i]))
        for name, line in mixture["sources"].items():
            assert abs(line["actual"]["tokens"] - line["target"]["tokens"]) <= lengths[name] / 2 + 1


def test_the_manifest_counts_what_the_packs_hold(quickstart: BuildReport) -> None:
    for name in SETS:
        data = read_manifest(quickstart.out / name).data
        found = Counter[str]()
        for pack in packs(quickstart, name):
            found["samples"] += len(pack.sample_ids)
            found["tokens"] += pack.num_tokens
            found["loss_tokens"] += int(pack.loss_mask.sum())
            found["vision_tokens"] += sum(image.num_patches for image in pack.images) // 4
        assert found == data["mixture"]["total"]
        assert data["packing"]["fill"] == round(found["tokens"] / (data["packing"]["packs"] * data["seq_len"]), 6)
        assert data["packing"]["packs"] >= data["packing"]["minimum_packs"]


def test_the_funnel_loses_nobody(quickstart: BuildReport) -> None:
    for name in SETS:
        data = read_manifest(quickstart.out / name).data
        for source in data["sources"]:
            lines = [line for line in data["funnel"] if line["source"] == source]
            for before, after in itertools.pairwise(lines):
                if after["step"] != "fit":
                    assert after["in"] == before["out"]
            for line in lines:
                if line["step"] not in ("holdout", "draw"):
                    assert line["in"] == line["out"] + sum(line["reasons"].values())


def test_every_draw_can_be_found_again(quickstart: BuildReport) -> None:
    for name in SETS:
        found = packs(quickstart, name)
        draws = pq.read_table(quickstart.out / name / "draws.parquet").to_pylist()
        assert [draw["sample_id"] for draw in draws] == sorted(draw["sample_id"] for draw in draws)
        assert len(draws) == sum(len(pack.sample_ids) for pack in found)
        for draw in draws:
            pack = found[draw["pack"]]
            segment = pack.cu_seqlens.tolist().index(draw["start"])
            assert pack.cu_seqlens[segment + 1] == draw["stop"]
            assert (pack.sample_ids[segment], pack.repeats[segment]) == (draw["sample_id"], draw["repeat"])


def test_several_lengths_share_one_draw(quickstart: BuildReport) -> None:
    drawn = [Counter(uid for pack in packs(quickstart, name) for uid in pack.sample_ids) for name in SETS[2:4]]
    assert drawn[0] == drawn[1]


def test_a_secret_in_a_variable_is_in_no_output(
    recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "s3cr3t-t0ken"
    (recipe_folder / "data").rename(recipe_folder / secret)
    path = recipe_folder / "recipe.yaml"
    raw = yaml.safe_load(path.read_text()) | {"media": "reference"}
    path.write_text(json.dumps(raw).replace("data/", "${PLACE}/"))
    monkeypatch.setenv("PLACE", secret)
    report = build(load_recipe(path), tmp_path / "out")
    for file in (tmp_path / "out").rglob("*"):
        if file.is_file() and file.name not in (LOCAL_FILE, "fingerprints.json"):
            assert secret.encode() not in file.read_bytes(), file
    assert secret not in json.dumps([dict(stage.data) for stage in report.stages])
    stream_image = packs(report, "multitask-4096")[0].images[0]
    assert str(stream_image.uri).startswith(("${PLACE}/", "build:media/"))


def test_a_plan_writes_no_data_set_and_says_what_the_build_then_makes(tmp_path: Path, quickstart: BuildReport) -> None:
    loaded = load_recipe(QUICKSTART / "recipe.yaml")
    planned = build(loaded, tmp_path / "out", dry_run=True)
    assert not list((tmp_path / "out").rglob("manifest.json"))
    assert not (tmp_path / "out" / "ledger").exists()
    for plan, built in zip(planned.stages, quickstart.stages, strict=True):
        assert {**plan.data, "sources": 0} == {key: built.data[key] for key in plan.data} | {"sources": 0}
    report = build(loaded, tmp_path / "out")
    assert not {"scan", "filter", "count"} & set(report.work)
