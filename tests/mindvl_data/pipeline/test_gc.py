"""What gc finds and removes: what no set and no next build needs, and never what `explain` reads."""

import shutil
from pathlib import Path

import pytest

from mindvl_data.inspect.explain import stories
from mindvl_data.manifest import read_manifest
from mindvl_data.manifest.verify import verify
from mindvl_data.pipeline import BuildError, BuildReport, build
from mindvl_data.pipeline.gc import collect, garbage
from mindvl_data.recipe import load_recipe
from tests.conftest import QUICKSTART
from tests.test_command_line import run


def names(found: list, build_folder: Path) -> set[str]:
    return {item.path.relative_to(build_folder).as_posix().split("-")[0] for item in found}


def test_caches_of_another_recipe_go_and_nothing_that_is_used(quickstart: BuildReport, tmp_path: Path) -> None:
    out = Path(shutil.copytree(quickstart.out, tmp_path / "out"))
    assert garbage(out) == []
    changed = load_recipe(QUICKSTART / "recipe.yaml", ["filters.1.where=text_chars >= 40 or kind <> 'text'"])
    build(changed, out)
    found = garbage(out)
    assert names(found, out) == {"tokens/text"}
    assert sum(item.bytes for item in found) > 1000
    before = {path for path in out.rglob("*") if path.is_file()}
    assert collect(out, sets=False) == found
    gone = before - {path for path in out.rglob("*") if path.is_file()}
    assert sum(1 for path in gone if path.parent.parent.name != "tokens" and path.parent.name != "tokens") == 0
    assert not build(changed, out).work, "what the last build used is there"
    manifest = read_manifest(out / "sft-4096")
    assert [problem for _, problems in verify(manifest) for problem in problems] == []
    uid = next(iter(stories(manifest, "0")))["sample_id"]
    assert stories(manifest, uid)


def test_a_set_that_the_recipe_has_no_more_goes_only_on_request(quickstart: BuildReport, tmp_path: Path) -> None:
    out = Path(shutil.copytree(quickstart.out, tmp_path / "out"))
    build(load_recipe(QUICKSTART / "recipe.yaml", ["holdout=null"]), out)
    (out / "tokens" / "x.partial").mkdir()
    kept = {item.path.relative_to(out).as_posix() for item in garbage(out) if item.on_request}
    assert kept == {"holdout-4096", "ledger/fit-holdout-4096.parquet"}
    collect(out, sets=False)
    assert (out / "holdout-4096" / "manifest.json").exists()
    assert not (out / "tokens" / "x.partial").exists()
    collect(out, sets=True)
    assert not (out / "holdout-4096").exists()
    assert garbage(out) == []


def test_a_referenced_set_keeps_the_media_it_points_into(tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(load_recipe(QUICKSTART / "recipe.yaml", ["media=reference"]), out)
    build(load_recipe(QUICKSTART / "recipe.yaml", ["holdout=null", "max_bad=0.02"]), out)
    assert "media/vqa" not in names(garbage(out), out)
    collect(out, sets=True)
    collect(out, sets=True)
    assert garbage(out) == []


def test_only_a_finished_build_can_be_collected(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="does not say what its last build used"):
        garbage(tmp_path)


def test_the_command_shows_and_removes_nothing_unless_told(quickstart: BuildReport, tmp_path: Path) -> None:
    out = Path(shutil.copytree(quickstart.out, tmp_path / "out"))
    (out / "tokens" / "old-0123456789abcdef").mkdir()
    (out / "tokens" / "old-0123456789abcdef" / "ids.npy").write_bytes(bytes(2000))
    shown = run("gc", out).stdout
    assert "2.0 kB" in shown
    assert "to remove with --yes" in shown
    assert (out / "tokens" / "old-0123456789abcdef").exists()
    assert "2.0 kB removed" in run("gc", out, "--yes").stdout
    assert not (out / "tokens" / "old-0123456789abcdef").exists()
    assert "Nothing to remove" in run("gc", out).stdout
