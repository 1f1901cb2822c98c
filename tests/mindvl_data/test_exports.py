"""Exports read back: by webdataset and datasets here, by Energon and MDS in tests/peers."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset

from mindvl_data.errors import UserError
from mindvl_data.exports import export
from mindvl_data.manifest import Manifest, packs_of, read_manifest
from mindvl_data.pipeline import BuildReport
from mindvl_data.runtime.plugins import PluginError
from mindvl_data.shards import Pack
from mindvl_data.sources.subset import UidSubset


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` keeps its copies below the test's own folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def manifest(quickstart: BuildReport) -> Manifest:
    return read_manifest(quickstart.out / "multitask-4096")


@pytest.fixture(scope="module")
def packs(manifest: Manifest) -> list[Pack]:
    return list(packs_of(manifest))


def images_in_order(packs: list[Pack]) -> list[bytes]:
    return [bytes(image.data or b"") for pack in packs for image in pack.images]


def ids_in_order(packs: list[Pack]) -> list[str]:
    return [uid.hex() for pack in packs for uid in pack.sample_ids]


def pictures(sample: dict[str, Any]) -> list[bytes]:
    names = [name for name in sample if name.rsplit(".", 1)[-1] in ("png", "jpg", "webp")]
    return [sample[name] for name in sorted(names)]


def test_webdataset_reads_the_samples_in_the_mixtures_order(
    manifest: Manifest, packs: list[Pack], tmp_path: Path
) -> None:
    count = export(manifest, "webdataset", tmp_path / "wds")
    found = list(webdataset.WebDataset(str(tmp_path / "wds" / "shard-00000.tar"), shardshuffle=False))
    meta = [json.loads(sample["json"]) for sample in found]
    assert count == len(found) == manifest.data["mixture"]["total"]["samples"]
    assert [line["sample_id"] for line in meta] == ids_in_order(packs)
    assert [picture for sample in found for picture in pictures(sample)] == images_in_order(packs)
    for line, sample in zip(meta, found, strict=True):
        places = [part["type"] for message in line["messages"] for part in message["content"]].count("image")
        assert places == len(pictures(sample))
        assert any(part.get("text") for message in line["messages"] for part in message["content"])
    assert not list((tmp_path / "wds").glob("*.scratch"))


def test_webdataset_reads_the_packs(manifest: Manifest, packs: list[Pack], tmp_path: Path) -> None:
    assert export(manifest, "webdataset", tmp_path / "wds", whole_packs=True) == len(packs)
    found = list(webdataset.WebDataset(str(tmp_path / "wds" / "shard-00000.tar"), shardshuffle=False).decode())
    for sample, pack in zip(found, packs, strict=True):
        assert np.array_equal(sample["tokens.npy"], pack.tokens)
        assert np.array_equal(sample["loss_mask.npy"].astype(bool), pack.loss_mask)
        assert sample["json"]["cu_seqlens"] == pack.cu_seqlens.tolist()
        assert sample["json"]["image_grids"] == [list(image.grid) for image in pack.images]


def test_exports_are_the_same_bytes_again_and_close_their_files(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mindvl_data.exports.tars.SHARD_BYTES", 1 << 20)
    for name in ("one", "two"):
        export(manifest, "webdataset", tmp_path / name)
    tars = sorted((tmp_path / "one").iterdir())
    assert len(tars) > 2
    assert all(tar.read_bytes() == (tmp_path / "two" / tar.name).read_bytes() for tar in tars)
    urls = str(tmp_path / "one" / f"shard-{{00000..{len(tars) - 1:05d}}}.tar")
    found = [json.loads(sample["json"])["repeat"] for sample in webdataset.WebDataset(urls, shardshuffle=False)]
    assert len(found) == manifest.data["mixture"]["total"]["samples"]


def test_datasets_opens_the_samples_with_their_pictures(
    manifest: Manifest, packs: list[Pack], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mindvl_data.exports.parquet.SHARD_BYTES", 1 << 20)
    export(manifest, "datasets", tmp_path / "set")
    assert len(list((tmp_path / "set" / "data").iterdir())) > 2
    found = datasets.load_dataset(str(tmp_path / "set"), split="train")
    assert found["sample_id"][:] == ids_in_order(packs)
    sizes = [image.size for images in found["images"] for image in images]
    patches = [image.grid for pack in packs for image in pack.images]
    assert len(sizes) == len(patches)
    raw = found.cast_column("images", datasets.List(datasets.Image(decode=False)))
    assert [image["bytes"] for images in raw["images"] for image in images] == images_in_order(packs)
    assert found["messages"][0][0]["content"][0]["type"] in ("text", "image")
    assert "## Sources" in (tmp_path / "set" / "README.md").read_text()


def test_datasets_opens_the_packs(manifest: Manifest, packs: list[Pack], tmp_path: Path) -> None:
    export(manifest, "datasets", tmp_path / "set", whole_packs=True)
    found = datasets.load_dataset(str(tmp_path / "set"), split="train").with_format("numpy")
    assert np.array_equal(np.stack(found["tokens"][:]), np.stack([pack.tokens for pack in packs]))


def test_datasets_opens_a_packed_set_as_it_lies(manifest: Manifest, packs: list[Pack]) -> None:
    shards = [str(manifest.shard_path(shard)) for shard in manifest.shards]
    found = datasets.load_dataset("arrow", data_files=shards, split="train")
    assert found.num_rows == len(packs)
    row = found[len(packs) - 1]
    assert row["tokens"] == packs[-1].tokens.tolist()
    assert [image["bytes"] for image in row["images"]] == [image.data for image in packs[-1].images]


def test_uids_are_a_subset_that_a_source_takes(quickstart: BuildReport, packs: list[Pack], tmp_path: Path) -> None:
    manifest = read_manifest(quickstart.out / "multitask-4096")
    export(manifest, "uids", tmp_path / "uids")
    lines = pq.read_table(tmp_path / "uids" / "samples.parquet").to_pylist()
    assert [line["sample_id"] for line in lines] == ids_in_order(packs)
    for path in (tmp_path / "uids").glob("*.npy"):
        names = [line["uid"] for line in lines if line["source"] == path.stem]
        assert UidSubset(path).times(names) == [names.count(name) for name in names]
    with pytest.raises(UserError, match="packs cannot be written to it"):
        export(manifest, "uids", tmp_path / "packs", whole_packs=True)


def test_a_folder_is_never_written_over_and_a_killed_export_starts_again(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "out.0123abcd.partial").mkdir()
    (tmp_path / "out.0123abcd.partial" / "shard-00000.tar").write_bytes(b"half")
    export(manifest, "uids", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["out"]
    with pytest.raises(UserError, match="exists already"):
        export(manifest, "uids", tmp_path / "out")
    with pytest.raises(PluginError, match="did you mean 'webdataset'"):
        export(manifest, "webdatasets", tmp_path / "other")
