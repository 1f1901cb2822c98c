"""The choices a recipe has beyond the quickstart's: references, truncation, draws for each length, orders."""

import contextlib
import hashlib
import shutil
from pathlib import Path

import polars as pl
import pytest

from mindvl_data.manifest import Manifest, ManifestError, read_manifest
from mindvl_data.manifest.verify import verify
from mindvl_data.media import MediaError
from mindvl_data.pipeline import BuildReport, build
from mindvl_data.recipe import load_recipe
from mindvl_data.stream import PackStream
from tests.conftest import QUICKSTART


def built(out: Path, *overrides: str, recipe: Path = QUICKSTART) -> BuildReport:
    report = build(load_recipe(recipe / "recipe.yaml", overrides), out)
    for stage in report.stages:
        assert [p for _, problems in verify(read_manifest(out / stage.name)) for p in problems] == []
    return report


def problems(made: Manifest, media: bool = False) -> dict[str, list[str]]:
    return {name: said for name, said in verify(made, media=media) if said}


def test_references_stream_the_bytes_that_embedding_copies(
    quickstart: BuildReport, recipe_folder: Path, tmp_path: Path
) -> None:
    built(tmp_path / "out", "media=reference", recipe=recipe_folder)
    pairs = zip(PackStream(quickstart.out / "sft-4096"), PackStream(tmp_path / "out" / "sft-4096"), strict=True)
    for embedded, referenced in pairs:
        assert [i.data for i in embedded.images] == [i.data for i in referenced.images]
        assert [i.sha256 for i in embedded.images] == [i.sha256 for i in referenced.images]
    shard = tmp_path / "out" / "sft-4096" / "shard-00000.arrow"
    assert shard.stat().st_size < 0.5 * (quickstart.out / "sft-4096" / "shard-00000.arrow").stat().st_size


def test_a_referenced_source_that_changed_is_never_trained_on(recipe_folder: Path, tmp_path: Path) -> None:
    built(tmp_path / "out", "media=reference", recipe=recipe_folder)
    for page in (recipe_folder / "data" / "documents" / "images").iterdir():
        page.write_bytes(page.read_bytes()[:-1] + b"x")
    with pytest.raises(ManifestError, match=r"data/documents/images/doc-\d+\.(png|jpg) .*changed since it was scanned"):
        list(PackStream(tmp_path / "out" / "warmup-2048"))
    made = read_manifest(tmp_path / "out" / "warmup-2048")
    assert not problems(made), "no byte is read unless asked for"
    assert "changed since it was scanned" in problems(made, media=True)["data/documents/images/doc-003.png"][0]
    page = recipe_folder / "data/documents/images/doc-003.png"
    page.write_bytes(b"")
    assert "0 bytes, the packs' images reach to byte" in problems(made)[f"data/documents/images/{page.name}"][0]
    page.unlink()
    assert "cannot be looked at" in problems(made)[f"data/documents/images/{page.name}"][0]
    moved = recipe_folder.rename(tmp_path / "moved")
    assert "cannot be looked at" in problems(made)["data/documents/images/doc-003.png"][0]
    with pytest.raises(ManifestError, match="was the source moved"):
        list(PackStream(tmp_path / "out" / "warmup-2048"))
    shutil.rmtree(moved / "data")
    shutil.copytree(QUICKSTART / "data", moved / "data")
    assert list(PackStream(tmp_path / "out" / "warmup-2048", media_root=moved))


def test_a_source_that_changes_during_the_build_publishes_nothing(recipe_folder: Path, tmp_path: Path) -> None:
    loaded = load_recipe(recipe_folder / "recipe.yaml")
    build(loaded, tmp_path / "out", dry_run=True)
    page = recipe_folder / "data" / "documents" / "images" / "doc-003.png"
    page.write_bytes(page.read_bytes() + b"more")
    data = bytearray(page.read_bytes())
    data[5000] ^= 1
    page.write_bytes(data[:-4])
    with contextlib.suppress(MediaError):
        build(loaded, tmp_path / "out")
    # Noticed at the scan or at the write, the next build has the new bytes.
    build(loaded, tmp_path / "out")
    digest = hashlib.sha256(page.read_bytes()).digest()
    packs = [pack for name in ("multitask-4096", "holdout-4096") for pack in PackStream(tmp_path / "out" / name)]
    assert any(image.sha256 == digest for pack in packs for image in pack.images)


def test_overlong_samples_are_cut_or_dropped_by_rule_and_written_down(tmp_path: Path) -> None:
    short = ("stages.sft.seq_len=512", "stages.sft.budget={tokens: 3000}")
    dropped = built(tmp_path / "dropped", *short)
    cut = built(tmp_path / "cut", *short, "stages.sft.overlong=truncate")

    def fit(report: BuildReport, source: str) -> dict:
        data = next(stage.data for stage in report.stages if stage.name == "sft-512")
        return next(line for line in data["funnel"] if line["step"] == "fit" and line["source"] == source)

    assert fit(dropped, "vqa")["reasons"]["overlong"] > 10
    assert fit(cut, "vqa")["out"] > fit(dropped, "vqa")["out"]
    for report, line in ((dropped, fit(dropped, "vqa")), (cut, fit(cut, "vqa"))):
        assert line["in"] == line["out"] + sum(line["reasons"].values())
        ledger = pl.read_parquet(report.out / "ledger" / "fit-sft-512.parquet")
        lost = ledger.filter((pl.col("source") == "vqa") & pl.col("reason").is_in(["overlong", "no_loss_token"]))
        assert len(lost) == sum(line["reasons"].values())
        assert (ledger["reason"] == "truncated").any() == (report is cut)
        assert lost["locator"].str.starts_with("data/vqa.parquet#").all()


def test_a_draw_for_each_length_lets_the_longer_one_have_more(tmp_path: Path) -> None:
    sizes = ("stages.sft.seq_len=[512, 4096]", "stages.sft.budget={epochs: 1}")
    shared = built(tmp_path / "shared", *sizes)
    each = built(tmp_path / "each", *sizes, "stages.sft.fit=each")

    def drawable(report: BuildReport, name: str) -> int:
        data = next(stage.data for stage in report.stages if stage.name == name)
        return sum(line["out"] for line in data["funnel"] if line["step"] == "fit")

    assert drawable(shared, "sft-512") == drawable(shared, "sft-4096") == drawable(each, "sft-512")
    assert drawable(each, "sft-4096") > drawable(each, "sft-512")
