"""Builds on two simulated nodes: the bytes of one machine, whatever dies meanwhile."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mindvl_data.engines.ray import RayEngine
from mindvl_data.manifest import read_manifest
from mindvl_data.manifest.verify import verify
from mindvl_data.pipeline import BuildReport, build
from mindvl_data.recipe import load_recipe
from tests.end_to_end.every_step import write_every_step
from tests.end_to_end.test_quickstart import tree
from tests.faults.builds import RECIPE, command, files, finished, started, unfinished, wait_for
from tests.mindvl_data.endpoint import KEY, running
from tests.ray_cluster import NODE, two_nodes

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

# So many faults at random moments; a longer search sets more.
FAULTS = int(os.environ.get("MINDVL_RAY_FAULTS", "10"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with two_nodes() as cluster:
        yield cluster


def on(cluster: Any) -> list[str]:
    return ["--engine", "ray", "--address", cluster.address]


def sets(report: BuildReport) -> dict[str, bytes]:
    """Every file of every set, and the ledger."""
    folders = [report.out / stage.name for stage in report.stages] + [report.out / "ledger"]
    return {
        str(path.relative_to(report.out)): path.read_bytes()
        for folder in folders
        for path in folder.iterdir()
        if path.name != "build.json"
    }


def test_the_quickstart_has_the_bytes_of_one_machine(cluster: Any, quickstart: BuildReport, tmp_path: Path) -> None:
    loaded = load_recipe(RECIPE)
    with RayEngine(cluster.address) as engine:
        report = build(loaded, tmp_path / "out", engine=engine)
        assert report.work["scan"] == 5
        assert tree(tmp_path / "out") == tree(quickstart.out)
    # Nothing is left to do: there need not even be a cluster.
    with RayEngine("127.0.0.1:1") as engine:
        assert not build(loaded, tmp_path / "out", engine=engine).work


@pytest.mark.parametrize("media", ["embed", "reference"])
def test_a_recipe_with_every_step_has_the_bytes_of_one_machine(
    cluster: Any, tmp_path: Path, media: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with running(tmp_path / "endpoint") as url:
        loaded = load_recipe(write_every_step(tmp_path / "recipe", url, media))
        here = build(loaded, tmp_path / "here")
        with RayEngine(cluster.address) as engine:
            there = build(loaded, tmp_path / "there", engine=engine)
            check_verify(there.out / "warmup-256", engine)
    assert sets(there) == sets(here)
    assert there.work == here.work
    reasons = {reason for line in here.funnel for reason in line.reasons}
    assert reasons >= {"filtered", "contaminated", "duplicate", "near_duplicate", "balanced"}, "every step had work"
    assert here.stages[0].data["rewritten"]["recaption"]["asked"]


def check_verify(folder: Path, engine: RayEngine) -> None:
    """It says on the cluster what it says here, of a sound set and of a damaged one."""
    manifest = read_manifest(folder)
    sound = list(verify(manifest, media=True))
    assert list(verify(manifest, media=True, run=engine.run)) == sound
    assert not any(problems for _, problems in sound)
    shard = folder / manifest.shards[-1].path
    kept = shard.read_bytes()
    shard.write_bytes(kept[:1000] + b"?" + kept[1001:])
    damaged = list(verify(manifest, media=True))
    assert list(verify(manifest, media=True, run=engine.run)) == damaged
    assert dict(damaged)[shard.name]
    shard.write_bytes(kept)


def test_an_error_in_a_task_is_that_of_one_machine(cluster: Any, recipe_folder: Path, tmp_path: Path) -> None:
    table = recipe_folder / "data" / "vqa.parquet"
    table.write_bytes(table.read_bytes()[:5000])
    said = []
    for name, more in (("here", []), ("there", on(cluster))):
        arguments = ["build", str(recipe_folder / "recipe.yaml"), "--out", str(tmp_path / name), *more]
        result = subprocess.run([sys.executable, "-m", "mindvl_data", *arguments], capture_output=True, text=True)
        assert result.stdout.strip() == ""
        assert "Traceback" not in result.stderr
        said.append((result.returncode, [line for line in result.stderr.splitlines() if "error:" in line]))
    assert said[0] == said[1]
    assert "vqa.parquet: cannot be read as a Parquet file" in said[0][1][0]
    assert list((tmp_path / "there").glob(".shared-*")) == []


# --------------------------------------------------------------------------------------------- faults


def workers(cluster: Any) -> list[int]:
    """The processes that run a task on some node."""
    raylets = {str(node.all_processes["raylet"][0].process.pid) for node in cluster.list_all_nodes()}
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = status.read_text().rsplit(")", 1)[1].split()[1]
            if parent in raylets and status.with_name("cmdline").read_bytes().startswith(b"ray::call"):
                found.append(int(status.parent.name))
        except OSError:
            continue
    return found


def kill_a_worker(cluster: Any) -> bool:
    found = workers(cluster)
    for pid in found[:1]:
        os.kill(pid, signal.SIGKILL)
    return bool(found)


def lose_a_node(cluster: Any) -> bool:
    """One that is not the head goes, another comes."""
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    cluster.add_node(**NODE)
    return True


def wait_until_none_runs(cluster: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while workers(cluster):
        assert time.monotonic() < deadline, "a task runs on without its driver"
        time.sleep(0.1)


def test_whatever_dies_at_random_moments_the_build_ends_with_the_same_bytes(cluster: Any, tmp_path: Path) -> None:
    """The moments are counted in files that appear, so that a slow machine sees the same as a fast one."""
    finished(tmp_path / "undisturbed", workers=1)
    rng, happened = random.Random(5), []
    faults = [*rng.sample(["worker", "node", "driver"], 3), *rng.choices(["worker", "worker", "node", "driver"], k=97)]
    while len(happened) < FAULTS:
        out = tmp_path / f"out-{len(happened)}"
        while True:
            with started(out, 4, more=on(cluster)) as process:
                while len(happened) < FAULTS and one_more(faults[len(happened)], process, out, cluster, rng):
                    happened.append(faults[len(happened)])
                    if happened[-1] == "driver":
                        break
                else:
                    _, message = process.communicate(timeout=300)
                    assert process.returncode == 0, message
                    break
        assert tree(out) == tree(tmp_path / "undisturbed")
        assert unfinished(out) == []
        shutil.rmtree(out)
    assert set(happened) == {"worker", "node", "driver"}


def one_more(fault: str, process: subprocess.Popen[str], out: Path, cluster: Any, rng: random.Random) -> bool:
    """Have it happen after some more files; False where the build was over before."""
    seen, left = files(out), rng.randrange(3, 25)

    def more() -> bool:
        time.sleep(0.02)  # the builds have the same two cores
        return len(files(out) - seen) >= left

    if not wait_for(more, process):
        return False
    if fault == "driver":
        process.kill()
        process.wait()
        wait_until_none_runs(cluster, 60)
        return True
    act = {"worker": kill_a_worker, "node": lose_a_node}[fault]
    return wait_for(lambda: act(cluster), process)


def test_ctrl_c_ends_with_one_message_and_no_task_goes_on(cluster: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(out, 4, more=on(cluster)),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )
    assert wait_for(lambda: any(out.glob("samples/*.partial")), process)
    process.send_signal(signal.SIGINT)
    said, message = process.communicate(timeout=120)
    assert process.returncode == 130, message
    assert "Traceback" not in message
    assert message.count("Stopped. What was finished is kept") == 1
    assert said.strip() == ""
    wait_until_none_runs(cluster, 60)
    assert list(out.glob(".shared-*")) == []
