"""Sources in an object store: the same data set as from the local disk, against a real S3 server."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import fsspec
import pytest

from mindvl_data import vision
from mindvl_data.manifest import read_manifest
from mindvl_data.pipeline import BuildReport, build
from mindvl_data.recipe import load_recipe
from mindvl_data.sources import Asked, SourceError, finevision, messages, pieces
from mindvl_data.sources.files import FingerprintCache, SourceFile, source_files
from mindvl_data.stream import PackStream
from tests.conftest import QUICKSTART
from tests.mindvl_data.packs import png
from tests.mindvl_data.s3 import s3_server

SETS = ["warmup-2048", "multitask-4096", "sft-2048", "sft-4096", "holdout-4096"]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The quickstart's data in a bucket of a local server; yields the bucket's URL."""
    with s3_server("bucket") as client:
        for path in (QUICKSTART / "data").rglob("*"):
            if path.is_file():
                client.upload_file(str(path), "bucket", str(path.relative_to(QUICKSTART)))
        yield "s3://bucket"


def from_bucket(bucket: str, out: Path, media: str) -> BuildReport:
    loaded = load_recipe(QUICKSTART / "recipe.yaml", [f"media={media}"])
    overrides = [f"media={media}"]
    for name, source in loaded.recipe.sources.items():
        overrides.append(f"sources.{name}.path={bucket}/{source.path[0]}")
    return build(load_recipe(QUICKSTART / "recipe.yaml", overrides), out)


def test_a_build_from_s3_is_the_build_from_disk(
    bucket: str, quickstart: BuildReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise AssertionError("a file of a store was copied")

    monkeypatch.setattr("mindvl_data.sources.source_file.copied", none)
    report = from_bucket(bucket, tmp_path / "out", "embed")
    for name in SETS:
        assert read_manifest(report.out / name).id == read_manifest(quickstart.out / name).id
    assert f"{bucket}/data/captions-000.tar" in json.dumps(read_manifest(report.out / "warmup-2048").data["sources"])
    assert not from_bucket(bucket, tmp_path / "out", "embed").work


def test_referenced_images_are_read_from_s3(bucket: str, tmp_path: Path) -> None:
    report = from_bucket(bucket, tmp_path / "out", "reference")
    pack = next(iter(PackStream(report.out / "warmup-2048")))
    assert any(str(image.uri).startswith(bucket) for image in pack.images)
    assert all(vision.read_header(image.data).width for image in pack.images if image.data)
    assert all(image.data for image in pack.images)


def test_an_image_that_changes_in_the_store_is_noticed(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, root = fsspec.core.url_to_fs(f"{bucket}/changing")
    turns = [{"from": "human", "value": "<image>what?"}, {"from": "gpt", "value": "a page"}]
    entries = [{"image": f"images/{i}.png", "conversations": turns} for i in range(9)]
    fs.pipe_file(f"{root}/data.json", json.dumps(entries).encode())
    for number in range(9):
        fs.pipe_file(f"{root}/images/{number}.png", png(number))
    sources = {"pages": {"format": "llava", "path": f"{bucket}/changing/data.json", "kind": "page", "max_bad": 0.2}}
    stages = {"only": {"seq_len": 256, "budget": {"epochs": 1}, "mixture": {"pages": 1}}}
    changes = [f"sources={json.dumps(sources)}", f"stages={json.dumps(stages)}", "max_bad=0.2", "filters=[]"]

    def planned() -> BuildReport:
        return build(load_recipe(QUICKSTART / "recipe.yaml", changes), tmp_path / "out", dry_run=True)

    planned()
    asked: list[str] = []
    info = fs.info
    monkeypatch.setattr(fs, "info", lambda path, **more: (asked.append(path), info(path, **more))[1])
    assert not planned().work, "what has not changed is not scanned again"
    assert not [path for path in asked if "/images/" in path], "a listing tells of all"
    of_the_same_size = bytearray(png(0))
    of_the_same_size[-20] ^= 1
    fs.pipe_file(f"{root}/images/0.png", bytes(of_the_same_size))
    changed = planned()
    assert changed.work["scan"] == changed.work["count"] == 1
    assert not planned().work
    fs.rm_file(f"{root}/images/1.png")
    assert [line.reasons for line in planned().funnel if line.step == "scan"] == [{"missing_image": 1}]
    assert not planned().work
    fs.pipe_file(f"{root}/images/1.png", png(1))
    assert [line.reasons for line in planned().funnel if line.step == "scan"] == [{}]


def in_bucket(bucket: str, name: str) -> SourceFile:
    place = f"{bucket}/data/{name}"
    return source_files((place,), (place,), None, QUICKSTART, FingerprintCache())[0]


@pytest.mark.parametrize(("name", "form"), [("text.jsonl", messages), ("vqa.parquet", finevision)])
def test_large_files_of_rows_in_a_store_are_read_in_pieces(
    bucket: str, name: str, form: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 5000)
    file = in_bucket(bucket, name)
    parts = [list(form.read(replace(file, piece=piece), Asked())) for piece in form.read.pieces(file)]
    assert len(parts) > 1
    assert list(itertools.chain(*parts)) == list(form.read(file, Asked()))


def test_a_tar_in_a_store_is_read_in_one_go(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every piece would bring the whole of it."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", 5000)
    file = in_bucket(bucket, "captions-000.tar")
    assert pieces.tar_pieces(file) == []
    assert len(pieces.tar_pieces(replace(file, place=str(QUICKSTART / "data" / "captions-000.tar")))) == 8


def test_what_is_not_in_the_bucket_is_named(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"sources\.text\.path: s3://bucket/none\.jsonl: no such file"):
        build(load_recipe(QUICKSTART / "recipe.yaml", [f"sources.text.path={bucket}/none.jsonl"]), tmp_path / "out")
