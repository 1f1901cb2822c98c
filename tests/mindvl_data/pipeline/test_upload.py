"""Finished sets in an object store, against a real S3 server: whole or not there, each manifest last."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs

from mindvl_data.exports import export
from mindvl_data.manifest import read_manifest
from mindvl_data.manifest.verify import verify
from mindvl_data.pipeline import BuildError, BuildReport, build
from mindvl_data.recipe import load_recipe
from mindvl_data.shards import pack_digest
from mindvl_data.stream import PackStream
from tests.conftest import QUICKSTART
from tests.mindvl_data.s3 import s3_server

URL = "s3://sets/vl/quickstart"
CHANGE = "stages.sft.budget.epochs=0.5"
SHARD = "multitask-4096/shard-00000.arrow"
PART = 256 << 10
# A build whose process is gone at once when the second part of its first large object has arrived.
KILLED = """
import os, signal, sys
from pathlib import Path
import s3fs
from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe
recipe, out, url, part = sys.argv[1:]
put, call, parts = s3fs.S3FileSystem._put_file, s3fs.S3FileSystem._call_s3, []

async def in_parts(self, local, remote, **options):
    await put(self, local, remote, chunksize=int(part), max_concurrency=1, **options)

async def dying(self, method, *arguments, **options):
    result = await call(self, method, *arguments, **options)
    if method == "upload_part":
        parts.append(result)
    if len(parts) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

s3fs.S3FileSystem._put_file, s3fs.S3FileSystem._call_s3 = in_parts, dying
build(load_recipe(Path(recipe)), Path(out), store=url)
"""


@pytest.fixture
def client() -> Iterator[Any]:
    with s3_server("sets") as client:
        s3fs.S3FileSystem.clear_instance_cache()
        yield client


@pytest.fixture
def out(quickstart: BuildReport, tmp_path: Path) -> Path:
    return Path(shutil.copytree(quickstart.out, tmp_path / "out"))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is put, in order; a name put under "fail" fails."""
    names: list[str] = []
    put = s3fs.S3FileSystem._put_file

    async def noted(self: Any, local: str, remote: str, **options: Any) -> None:
        name = remote.removeprefix("sets/vl/quickstart/")
        if names and names[0] == f"fail {name}":
            raise OSError("the network is down")
        names.append(name)
        await put(self, local, remote, chunksize=PART, **options)

    # A server in earnest asks for parts of 5 MiB, which no set of the quickstart has two of.
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", PART)
    monkeypatch.setattr(s3fs.S3FileSystem, "_put_file", noted)
    return names


def published(out: Path, *overrides: str) -> BuildReport:
    return build(load_recipe(QUICKSTART / "recipe.yaml", overrides), out, store=URL)


def keys(client: Any) -> set[str]:
    listed = client.list_objects_v2(Bucket="sets").get("Contents", [])
    return {item["Key"].removeprefix("vl/quickstart/") for item in listed}


def test_a_published_set_streams_from_the_store_and_is_sent_once(
    client: Any, out: Path, sent: list[str], tmp_path: Path
) -> None:
    report = published(out)
    assert report.urls == [f"{URL}/{stage.name}/manifest.json" for stage in report.stages]
    for stage in report.stages:
        mine = [name for name in sent if name.startswith(f"{stage.name}/")]
        assert mine[-2:] == [f"{stage.name}/manifest.json.sha256", f"{stage.name}/manifest.json"]
        assert set(mine) == {f"{stage.name}/{path.name}" for path in (out / stage.name).iterdir()} - {
            f"{stage.name}/build.json"
        }
    assert keys(client) == set(sent)
    digests = [pack_digest(pack) for pack in PackStream(f"{URL}/warmup-2048")]
    assert digests == [pack_digest(pack) for pack in PackStream(out / "warmup-2048")]
    assert [p for _, problems in verify(read_manifest(f"{URL}/sft-4096")) for p in problems] == []
    packs = export(read_manifest(f"{URL}/sft-4096"), "webdataset", tmp_path / "packs", whole_packs=True)
    assert packs == read_manifest(out / "sft-4096").num_packs
    sent.clear()
    published(out)
    assert sent == []
    # An object that somebody changed, or removed, is sent again.
    client.put_object(Bucket="sets", Key="vl/quickstart/sft-2048/draws.parquet", Body=b"x")
    client.delete_object(Bucket="sets", Key="vl/quickstart/holdout-4096/manifest.json")
    published(out)
    assert {"sft-2048/draws.parquet", "sft-2048/manifest.json", "holdout-4096/manifest.json"} == {
        name for name in sent if not name.endswith("sha256")
    }


def test_an_upload_that_fails_leaves_no_manifest_and_goes_on(client: Any, out: Path, sent: list[str]) -> None:
    sent.append("fail multitask-4096/shard-00000.arrow")
    with pytest.raises(BuildError, match=r"the network is down.*what is there is not sent again"):
        published(out)
    assert "warmup-2048/manifest.json" in keys(client)
    assert "multitask-4096/manifest.json" not in keys(client)
    before = set(sent)
    sent.clear()
    published(out)
    assert not before & set(sent)
    assert read_manifest(f"{URL}/multitask-4096").id == read_manifest(out / "multitask-4096").id


def test_a_large_object_is_sent_in_parts_and_appears_whole(client: Any, out: Path, sent: list[str]) -> None:
    published(out)
    size = (out / SHARD).stat().st_size
    assert size > 2 * PART
    found = client.head_object(Bucket="sets", Key=f"vl/quickstart/{SHARD}")
    assert found["ETag"].strip('"').endswith(f"-{-(-size // PART)}")
    assert client.get_object(Bucket="sets", Key=f"vl/quickstart/{SHARD}")["Body"].read() == (out / SHARD).read_bytes()


def test_an_upload_killed_between_two_parts_shows_no_half_object_and_goes_on(
    client: Any, out: Path, sent: list[str]
) -> None:
    environment = os.environ | {"FSSPEC_S3": json.dumps(fsspec.config.conf["s3"])}
    command = [sys.executable, "-c", KILLED, QUICKSTART / "recipe.yaml", out, URL, str(PART)]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    unfinished = client.list_multipart_uploads(Bucket="sets")["Uploads"]
    assert [re.sub(".*quickstart/", "", each["Key"]) for each in unfinished] == ["warmup-2048/shard-00000.arrow"]
    before = keys(client)
    assert [key for key in before if key.endswith((".arrow", "manifest.json"))] == []
    published(out)
    assert not before & set(sent), "what had arrived is not sent again"
    digests = [pack_digest(pack) for pack in PackStream(f"{URL}/warmup-2048")]
    assert digests == [pack_digest(pack) for pack in PackStream(out / "warmup-2048")]


def test_an_older_set_is_withdrawn_before_its_shards_change(client: Any, out: Path, sent: list[str]) -> None:
    published(out)
    client.put_object(Bucket="sets", Key="vl/quickstart/sft-4096/shard-00099.arrow", Body=b"of another set")
    sent.clear()
    sent.append("fail sft-4096/shard-00000.arrow")
    with pytest.raises(BuildError, match="the network is down"):
        published(out, CHANGE)
    assert "sft-4096/manifest.json" not in keys(client)
    sent.clear()
    published(out, CHANGE)
    assert {key for key in keys(client) if key.startswith("sft-4096/shard")} == {"sft-4096/shard-00000.arrow"}
    assert read_manifest(f"{URL}/sft-4096").id == read_manifest(out / "sft-4096").id


def test_a_set_that_points_into_the_builds_media_takes_it_along(client: Any, tmp_path: Path) -> None:
    loaded = load_recipe(QUICKSTART / "recipe.yaml", ["media=reference"])
    build(loaded, tmp_path / "out", store=URL)
    assert any(key.startswith("media/vqa-") for key in keys(client))


def test_a_store_that_is_not_there_is_named(tmp_path: Path, out: Path) -> None:
    with pytest.raises(BuildError, match="--out nowhere://"):
        build(load_recipe(QUICKSTART / "recipe.yaml"), out, store="nowhere://x")
