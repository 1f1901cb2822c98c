"""Builds whose folder lies in an object store: the sets of a local build, whole or not there, gone on with anywhere."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs

from mindvl_data.engines import Done, silent
from mindvl_data.engines.local import LocalEngine
from mindvl_data.errors import UserError
from mindvl_data.inspect.explain import stories
from mindvl_data.inspect.report import write_report
from mindvl_data.manifest import read_manifest
from mindvl_data.manifest.verify import verify
from mindvl_data.pipeline import BuildError, BuildReport, build, folder
from mindvl_data.recipe import load_recipe
from mindvl_data.runtime import mirror as mirrors
from mindvl_data.runtime import seals
from mindvl_data.shards import pack_digest
from mindvl_data.stream import PackStream
from tests.conftest import QUICKSTART
from tests.end_to_end.every_step import write_every_step
from tests.mindvl_data.crawl import crawl, recipe, uid
from tests.mindvl_data.endpoint import KEY, running
from tests.mindvl_data.s3 import s3_server

URL = "s3://sets/vl/crawl"
SET = "only-256"
SHORT = 'filters=[{"name": "short", "where": "text_chars < 10"}]'
# The same build in a process of its own, which is gone when the n-th object has arrived.
KILLED = """
import os, signal, sys, threading
from pathlib import Path
from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe
from mindvl_data.runtime.mirror import Mirror
recipe, out, url, last = sys.argv[1:]
arrived, counting = [0], threading.Lock()

def counted(does):
    def one(self, *arguments, **options):
        does(self, *arguments, **options)
        with counting:
            arrived[0] += 1
            if arrived[0] == int(last):
                os.kill(os.getpid(), signal.SIGKILL)
    return one

Mirror.send, Mirror.copy, Mirror.remove = map(counted, (Mirror.send, Mirror.copy, Mirror.remove))
build(load_recipe(Path(recipe)), Path(out), store=url)
"""


@pytest.fixture
def client() -> Iterator[Any]:
    with s3_server("sets") as client:
        s3fs.S3FileSystem.clear_instance_cache()
        yield client


@pytest.fixture
def crawled(tmp_path: Path) -> Path:
    """The recipe of a crawl in two files."""
    for number in range(2):
        crawl(tmp_path / f"crawl{number}.parquet", [{} for _ in range(12)], 12 * number)
    return recipe(tmp_path)


def built(path: Path, scratch: str = "scratch", workers: int = 1, *changes: str) -> BuildReport:
    return build(load_recipe(path, changes), path.parent / scratch, workers, store=URL)


def keys(client: Any) -> set[str]:
    listed = client.list_objects_v2(Bucket="sets").get("Contents", [])
    return {item["Key"].removeprefix("vl/crawl/") for item in listed}


def content(client: Any, name: str) -> bytes:
    return bytes(client.get_object(Bucket="sets", Key=f"vl/crawl/{name}")["Body"].read())


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_set_in_a_store_is_that_of_a_local_build(client: Any, crawled: Path) -> None:
    local = build(load_recipe(crawled), crawled.parent / "local")
    report = built(crawled, workers=2)
    assert report.urls == [f"{URL}/{SET}/manifest.json"]
    assert {name: content(client, f"{SET}/{name}") for name in files(local.out / SET)} == files(local.out / SET)
    there = keys(client)
    assert [name for name in there if name.startswith((".", "local"))] == [], (
        "no lock, no work, no note of this machine"
    )
    assert {f"ledger/{name}" for name in files(local.out / "ledger")} <= there
    assert {name for name in there if name.startswith("media/")} == {f"media/{n}" for n in files(local.out / "media")}
    digests = [pack_digest(pack) for pack in PackStream(f"{URL}/{SET}")]
    assert digests == [pack_digest(pack) for pack in PackStream(local.out / SET)]
    assert [p for _, problems in verify(read_manifest(f"{URL}/{SET}")) for p in problems] == []
    assert not list((crawled.parent / "scratch").rglob("*.arrow")), "shards take no room here once they are sent"


def test_a_build_in_a_store_is_explained_and_reported(
    client: Any, crawled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINDVL_CACHE", str(crawled.parent / "cache"))
    report = built(crawled, "scratch", 1, SHORT)
    local = build(load_recipe(crawled, [SHORT]), crawled.parent / "local")
    for number in (3, 12):
        told = stories(read_manifest(report.urls[0]), uid(number))
        assert told == stories(read_manifest(local.out / SET), uid(number))
        assert (bool(told[0]["draws"][SET]), bool(told[0]["dropped"])) == (number == 3, number == 12)
    page = write_report(URL, crawled.parent / "report.html")
    assert "crawl" in page.read_text()
    assert write_report(f"{URL}/{SET}", crawled.parent / "one.html").stat().st_size > 10_000
    with pytest.raises(UserError, match=r"s3://sets/nothing: holds no manifest\.json"):
        write_report("s3://sets/nothing")


def test_another_machine_goes_on_where_one_was(client: Any, crawled: Path) -> None:
    assert built(crawled).work["scan"] == 2
    fresh = built(crawled, "another")
    assert (not fresh.work, fresh.stages[0].state) == (True, "up to date")
    before = content(client, f"{SET}/shard-00000.arrow")
    changed = built(crawled, "third", 1, "name=other")
    assert (changed.work["scan"], changed.work[f"write {SET}"], changed.stages[0].state) == (0, 0, "relabelled")
    assert content(client, f"{SET}/shard-00000.arrow") == before
    assert built(crawled, "scratch", 1, "name=other").stages[0].state == "up to date"
    planned = build(load_recipe(crawled, ["seed=5"]), crawled.parent / "fourth", store=URL, dry_run=True)
    assert (planned.work["scan"], planned.stages[0].state) == (0, "planned")


@pytest.mark.slow
def test_a_quickstart_with_references_reads_media_in_the_store(client: Any, tmp_path: Path) -> None:
    loaded = load_recipe(QUICKSTART / "recipe.yaml", ["media=reference"])
    report = build(loaded, tmp_path / "scratch", 2, store=URL)
    local = build(loaded, tmp_path / "local", 2)
    for stage in local.stages:
        assert content(client, f"{stage.name}/manifest.json") == (local.out / stage.name / "manifest.json").read_bytes()
    packs = list(PackStream(f"{URL}/{report.stages[0].name}", media_root=QUICKSTART))
    assert all(image.data for pack in packs for image in pack.images)


class Elsewhere(LocalEngine):
    """Tasks run on a machine whose folders are its own: what it leaves there is gone, and it sees nothing of ours."""

    def __init__(self, out: Path) -> None:
        super().__init__(1)
        self._out = out
        self._machine = ProcessPoolExecutor(1, get_context("spawn"))

    def __exit__(self, *_: object) -> None:
        self._machine.shutdown()

    def run(
        self,
        function: Callable[[Any], Any],
        tasks: Sequence[Any],
        done: Done = silent,
        sizes: Sequence[int] | None = None,
    ) -> list[Any]:
        ours = self._out.with_name("ours")
        self._out.rename(ours)
        try:
            return list(self._machine.map(function, tasks))
        finally:
            shutil.rmtree(self._out)
            ours.rename(self._out)


@pytest.mark.slow
def test_tasks_on_machines_that_share_no_folder(client: Any, crawled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mindvl_data.steps.write.planning.is_scattered", lambda *_: True)
    out, loaded = crawled.parent / "scratch", load_recipe(crawled)
    report = build(loaded, out, store=URL, engine=Elsewhere(out))
    assert report.work[f"deal {SET}"] == 1
    local = build(loaded, crawled.parent / "local")
    assert content(client, f"{SET}/manifest.json") == (local.out / SET / "manifest.json").read_bytes()
    assert not [name for name in keys(client) if name.startswith(".work")]


@pytest.mark.slow
def test_killed_after_any_object_nothing_is_half_there_and_the_next_goes_on(client: Any, crawled: Path) -> None:
    local = build(load_recipe(crawled), crawled.parent / "local")
    for last in (3, 20, 24, 27, 30):
        client.delete_objects(
            Bucket="sets", Delete={"Objects": [{"Key": f"vl/crawl/{key}"} for key in [*keys(client), "none"]]}
        )
        shutil.rmtree(crawled.parent / "scratch", ignore_errors=True)
        command = [sys.executable, "-c", KILLED, str(crawled), str(crawled.parent / "scratch"), URL, str(last)]
        killed = subprocess.run(command, capture_output=True, text=True)
        assert killed.returncode == -signal.SIGKILL, (last, killed.stderr)
        if f"{SET}/manifest.json" in keys(client):
            assert [p for _, problems in verify(read_manifest(f"{URL}/{SET}")) for p in problems] == []
        scratch = "scratch" if last % 2 else "another"
        report = built(crawled, scratch)
        assert content(client, f"{SET}/manifest.json") == (local.out / SET / "manifest.json").read_bytes()
        assert report.work["scan"] < 2 or last < 9, "what had arrived is not made again"
        assert not [name for name in keys(client) if name.startswith(".")]
        shutil.rmtree(crawled.parent / "another", ignore_errors=True)


def test_an_older_set_is_withdrawn_before_its_shards_change(
    client: Any, crawled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built(crawled)
    client.put_object(Bucket="sets", Key=f"vl/crawl/{SET}/shard-00099.arrow", Body=b"of another set")
    send = mirrors.Mirror.send

    def failing(self: mirrors.Mirror, path: Path, name: str | None = None) -> None:
        if (name or "").endswith("draws.parquet"):
            raise OSError("the network is down")
        send(self, path, name)

    with monkeypatch.context() as patch:
        patch.setattr(mirrors.Mirror, "send", failing)
        with pytest.raises(OSError, match="the network is down"):
            built(crawled, "scratch", 1, "seed=5")
    assert f"{SET}/manifest.json" not in keys(client)
    again = built(crawled, "scratch", 1, "seed=5")
    assert again.work[f"write {SET}"] == 0, "the shards were there"
    assert {key for key in keys(client) if key.startswith(f"{SET}/shard")} == {f"{SET}/shard-00000.arrow"}
    local = build(load_recipe(crawled, ["seed=5"]), crawled.parent / "local")
    assert content(client, f"{SET}/manifest.json") == (local.out / SET / "manifest.json").read_bytes()


def test_what_is_damaged_in_the_store_is_made_anew(client: Any, crawled: Path) -> None:
    built(crawled)
    name = next(key for key in keys(client) if key.startswith("samples/crawl") and key.endswith(".drops.parquet"))
    size = len(content(client, name))
    client.put_object(Bucket="sets", Key=f"vl/crawl/{name}", Body=b"x" * size)
    report = built(crawled, "another")
    assert report.work["scan"] == 1
    assert content(client, name) != b"x" * size
    assert not built(crawled, "third").work


def test_one_build_at_a_time_and_a_dead_one_is_no_hindrance(
    client: Any, crawled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(folder, "SILENT_SECONDS", 2)
    other = {"host": "another", "pid": 7, "word": "w", "beat": 0}
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.3):
            other["beat"] = int(time.monotonic() * 1000)
            client.put_object(Bucket="sets", Key="vl/crawl/.lock", Body=json.dumps(other).encode())

    beating = threading.Thread(target=beat)
    beating.start()
    time.sleep(0.7)
    try:
        with pytest.raises(BuildError, match=r"a build on another \(process 7\) is at work there"):
            built(crawled)
    finally:
        ended.set()
        beating.join()
    assert ".lock" in keys(client)
    assert built(crawled).stages[0].state == "built"
    assert ".lock" not in keys(client)


def test_a_store_of_any_kind(crawled: Path) -> None:
    local = build(load_recipe(crawled), crawled.parent / "local")
    store = crawled.parent / "store"
    report = build(load_recipe(crawled), crawled.parent / "scratch", store=f"file://{store}/deep/er")
    assert files(store / "deep" / "er" / SET) == files(local.out / SET)
    assert report.urls == [f"file://{store}/deep/er/{SET}/manifest.json"]


def test_a_seal_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    for name in ("../../outside", "/etc/outside"):
        fs.pipe_file("/there/x.seal", json.dumps({"files": {name: [1, "0" * 64]}, "beside": []}).encode())
        fs.pipe_file("/outside", b"x")
        out = tmp_path / "a" / "b"
        refused = pytest.raises(BuildError, match="leads out of the build folder")
        with refused, mirrors.opened("memory://there", out, leads=True) as mirror:
            mirror.relist()
            seals.is_whole(out / "x")
    assert not list(tmp_path.rglob("outside"))


def test_stores_that_are_not_there_are_named(client: Any, crawled: Path) -> None:
    with pytest.raises(BuildError, match=r"--out s3://none/x: .*bucket does not exist; make the bucket first"):
        build(load_recipe(crawled), crawled.parent / "scratch", store="s3://none/x")
    with pytest.raises(BuildError, match="--out hf://datasets/a/b: a hub would make every file of a build a commit"):
        build(load_recipe(crawled), crawled.parent / "scratch", store="hf://datasets/a/b")
    with pytest.raises(BuildError, match="--out nowhere://"):
        build(load_recipe(crawled), crawled.parent / "scratch", store="nowhere://x")


@pytest.mark.slow
def test_every_step_on_machines_that_share_no_folder(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with running(tmp_path / "endpoint") as url:
        loaded = load_recipe(write_every_step(tmp_path / "data", url, "embed"))
        local = build(loaded, tmp_path / "local")
        out = tmp_path / "scratch"
        build(loaded, out, store=URL, engine=Elsewhere(out))
        for stage in local.stages:
            for name in ("manifest.json", "draws.parquet"):
                assert content(client, f"{stage.name}/{name}") == (local.out / stage.name / name).read_bytes()
        shutil.rmtree(out)
        again = build(loaded, out, store=URL)
    assert {stage.state for stage in again.stages} == {"up to date"}
    assert not again.work, "answers too are found in the store"
