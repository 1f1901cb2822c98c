"""Explain: one sample's story from the build folder alone, and back from a token to its sample."""

import hashlib
import shutil
from pathlib import Path

import fsspec
import pytest

from mindvl_data.inspect.explain import ExplainError, sample_at, stories
from mindvl_data.manifest import pack_at, read_manifest
from mindvl_data.media import MediaReader, access_to
from mindvl_data.pipeline import BuildReport, build
from mindvl_data.recipe import load_recipe


def test_a_story_leads_to_the_bytes_and_to_every_draw(quickstart: BuildReport) -> None:
    manifest = read_manifest(quickstart.out / "multitask-4096")
    uid = sample_at(manifest, 3, 20)
    (story,) = stories(manifest, uid.hex())
    draws = story["draws"]["multitask-4096"]
    assert any(d["pack"] == 3 and d["start"] <= 20 < d["stop"] for d in draws)
    embedded = {image.sha256 for image in pack_at(manifest, 3).images}
    with MediaReader(quickstart.out, access_to(manifest.build_folder)) as media:
        for image in story["images"]:
            data = media.read(image["uri"], image["offset"], image["size"], None)
            assert hashlib.sha256(data).digest() in embedded


def test_every_token_of_every_pack_leads_to_a_sample_that_was_drawn_there(quickstart: BuildReport) -> None:
    manifest = read_manifest(quickstart.out / "holdout-4096")
    for number in range(manifest.num_packs):
        pack = pack_at(manifest, number)
        for segment, uid in enumerate(pack.sample_ids):
            for token in (pack.cu_seqlens[segment], pack.cu_seqlens[segment + 1] - 1):
                assert sample_at(manifest, number, int(token)) == uid


def test_padding_and_strangers_are_said_to_be_that(quickstart: BuildReport) -> None:
    manifest = read_manifest(quickstart.out / "holdout-4096")
    padded = next(n for n in range(manifest.num_packs) if pack_at(manifest, n).num_tokens < manifest.seq_len)
    with pytest.raises(ExplainError, match="is padding"):
        sample_at(manifest, padded, manifest.seq_len - 1)
    with pytest.raises(ExplainError, match="tokens of a pack are 0 to 4095"):
        sample_at(manifest, 0, 4096)
    for name in ("nobody", "ab" * 16):
        with pytest.raises(ExplainError, match="no sample of"):
            stories(manifest, name)


def test_a_dropped_sample_has_a_story_too_and_the_sources_are_not_needed(recipe_folder: Path, tmp_path: Path) -> None:
    (recipe_folder / "data" / "documents" / "images" / "doc-002.png").write_bytes(b"no image")
    loaded = load_recipe(
        recipe_folder / "recipe.yaml",
        ["sources.documents.max_bad=0.1", "max_bad=0.1", "filters.1.where=text_chars >= 28"],
    )
    build(loaded, tmp_path / "out")
    shutil.rmtree(recipe_folder)
    manifest = read_manifest(tmp_path / "out" / "multitask-4096")
    (unreadable,) = [s for s in stories(manifest, "2") if any(d["step"] == "scan" for d in s["dropped"])]
    assert unreadable["dropped"][0]["reason"] == "unreadable_image"
    assert unreadable["dropped"][0]["locator"] == "data/documents/documents.json#2"
    (short,) = stories(manifest, "000000000")
    assert [d["reason"] for d in short["dropped"]] == ["filtered"]
    assert "says something: text_chars >= 28" in short["dropped"][0]["detail"]
    assert not any(short["draws"].values())


def test_of_a_set_in_a_store_the_sample_is_found_and_the_place_of_its_story_said(quickstart: BuildReport) -> None:
    fsspec.filesystem("memory").put(f"{quickstart.out}/holdout-4096/", "/explained/holdout-4096/", recursive=True)
    there = read_manifest("memory://explained/holdout-4096")
    uid = sample_at(there, 0, 20)
    assert uid == sample_at(read_manifest(quickstart.out / "holdout-4096"), 0, 20)
    said = rf"memory://explained/holdout-4096/manifest.json: .*sample {uid.hex()}.*explain holdout-4096 there"
    with pytest.raises(ExplainError, match=said):
        stories(there, uid.hex())


def test_a_kept_sample_that_a_set_does_not_draw_is_told_why(quickstart: BuildReport) -> None:
    manifest = read_manifest(quickstart.out / "warmup-2048")
    held = sample_at(read_manifest(quickstart.out / "holdout-4096"), 0, 0)
    (story,) = stories(manifest, held.hex())
    assert set(story["not_drawn"].values()) == {"it is held out, in holdout-4096: no stage draws it"}
    drawn = {uid for n in range(manifest.num_packs) for uid in pack_at(manifest, n).sample_ids}
    other = next(
        uid
        for n in range(20)
        for pack in [pack_at(read_manifest(quickstart.out / "multitask-4096"), n)]
        for uid, source in zip(pack.sample_ids, pack.sources, strict=True)
        if uid not in drawn and source == "documents"
    )
    (story,) = stories(manifest, other.hex())
    assert "budget takes" in story["not_drawn"]["warmup-2048"]
    assert "multitask-4096" not in story["not_drawn"]
    number = pack_at(manifest, 0).sources.index("captions")
    (story,) = stories(manifest, pack_at(manifest, 0).sample_ids[number].hex())
    assert story["not_drawn"]["sft-2048"] == "the stage's mixture has no captions"
