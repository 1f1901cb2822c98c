"""A newcomer's build whose data and output lie in an S3 server that fails one request in ten."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe
from tests.conftest import QUICKSTART
from tests.mindvl_data.s3 import s3_server
from tests.ray_cluster import two_nodes

SETS = ["warmup-2048", "multitask-4096", "sft-2048", "sft-4096", "holdout-4096"]
FILES = ["manifest.json", "manifest.json.sha256", "draws.parquet", "CARD.md"]


def ran(*arguments: object) -> str:
    command = [sys.executable, "-m", "mindvl_data", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_the_quickstart_in_a_store_that_fails_is_that_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINDVL_CACHE", str(tmp_path / "cache"))
    with s3_server("bucket", fails_each=10) as client:
        builds_as_here(client, tmp_path)


@pytest.mark.slow
def test_the_quickstart_on_two_nodes_in_a_store_is_that_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("MINDVL_CACHE", str(tmp_path / "cache"))
    with s3_server("bucket") as client, two_nodes() as cluster:
        builds_as_here(client, tmp_path, "--engine", "ray", "--address", cluster.address)


def builds_as_here(client: Any, folder: Path, *flags: str) -> None:
    upload(client)
    sources = load_recipe(QUICKSTART / "recipe.yaml").recipe.sources
    paths = [f"sources.{name}.path=s3://bucket/{source.path[0]}" for name, source in sources.items()]
    local = build(load_recipe(QUICKSTART / "recipe.yaml", paths), folder / "local")
    changes = [flag for path in paths for flag in ("--set", path)]
    said = ran("build", QUICKSTART / "recipe.yaml", "--out", "s3://bucket/build", *changes, *flags)
    assert "s3://bucket/build/warmup-2048/manifest.json" in said
    for name, file in ((name, file) for name in SETS for file in FILES):
        assert content(client, f"build/{name}/{file}") == (local.out / name / file).read_bytes()


def upload(client: Any) -> None:
    for path in (QUICKSTART / "data").rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "bucket", str(path.relative_to(QUICKSTART)))


def content(client: Any, key: str) -> bytes:
    return bytes(client.get_object(Bucket="bucket", Key=key)["Body"].read())
