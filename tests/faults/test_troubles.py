"""Disks, memory, sources and neighbours that fail in the middle of a build: a clear error, and nothing published."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mindvl_data.engines import EngineError
from mindvl_data.engines.local import LocalEngine
from mindvl_data.pipeline import BuildError, build
from mindvl_data.pipeline.folder import explained
from mindvl_data.recipe import load_recipe
from mindvl_data.sources import SourceError
from tests.conftest import QUICKSTART
from tests.end_to_end.test_quickstart import SETS
from tests.faults.builds import failed, started, wait_for

RECIPE = QUICKSTART / "recipe.yaml"


def nothing_published(out: Path) -> None:
    assert not list(out.glob("*/manifest.json"))


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A file system in memory, mounted with options, where that is allowed."""
    places: list[Path] = []

    def mount(options: str) -> Path:
        place = tmp_path / f"disk-{len(places)}"
        place.mkdir()
        result = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True)
        if result.returncode:
            pytest.skip("mounting is not allowed here; the limit on the size of files is tested everywhere")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_in_any_step_is_said_and_the_build_goes_on(mounted: Callable[[str], Path]) -> None:
    disk = mounted("size=100k")
    messages = set()
    for kilobytes in (100, 1500, 9000):
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(disk)], check=True)
        message = failed(disk / "out", workers=1)
        assert "no space is left there; make some and run the same command again" in message
        messages.add(message)
    assert str(disk / "out") in messages.pop()
    subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
    build(load_recipe(RECIPE), disk / "out")
    assert sorted(path.parent.name for path in (disk / "out").glob("*/manifest.json")) == sorted(SETS)


def test_a_read_only_target_is_said(mounted: Callable[[str], Path]) -> None:
    disk = mounted("size=10m")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert "is read-only; choose another --out" in failed_at(disk / "out")


def failed_at(out: Path) -> str:
    with pytest.raises(BuildError) as caught:
        build(load_recipe(RECIPE), out)
    return str(caught.value)


def test_files_that_may_not_grow_are_said_in_any_step_and_the_build_goes_on(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for most in (20_000, 600_000, 2_000_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
        try:
            message = failed_at(tmp_path / "out")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "files may not grow so large there" in message
        nothing_published(tmp_path / "out")
    assert len(build(load_recipe(RECIPE), tmp_path / "out").stages) == len(SETS)


def test_what_went_wrong_is_put_into_words(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="finished is kept: run the same command again, so"), explained(tmp_path, "so"):
        raise MemoryError
    with pytest.raises(OSError, match="something else"), explained(tmp_path, "so"):
        raise OSError("something else")


def stopped_when(out: Path, seen: str, recipe: Path, then: Callable[[], None]) -> str:
    """Stop a build when a file is seen, do something, let it go on; its message."""
    with started(out, workers=2, recipe=recipe) as process:
        assert wait_for(lambda: any(out.glob(seen)), process), "the build was over too early"
        os.killpg(process.pid, signal.SIGSTOP)
        then()
        os.killpg(process.pid, signal.SIGCONT)
        _, message = process.communicate(timeout=120)
        assert process.returncode == 2, message
        assert "Traceback" not in message
        return message


@pytest.mark.slow
@pytest.mark.parametrize("seen", ["samples/captions-*.parquet", ".work/warmup-2048/*/shard-00000.*.partial"])
def test_a_source_that_changes_during_the_build_stops_it(recipe_folder: Path, tmp_path: Path, seen: str) -> None:
    source = recipe_folder / "data" / "captions-000.tar"

    def change() -> None:
        data = bytearray(source.read_bytes())
        data[-5000:-4000] = bytes(1000)
        source.write_bytes(data)

    message = stopped_when(tmp_path / "out", seen, recipe_folder / "recipe.yaml", change)
    assert "captions-00" in message
    assert "changed" in message
    assert not (tmp_path / "out" / "warmup-2048").exists()


@pytest.mark.slow
def test_a_source_that_vanishes_during_the_build_stops_it(recipe_folder: Path, tmp_path: Path) -> None:
    source = recipe_folder / "data" / "captions-000.tar"
    message = stopped_when(tmp_path / "out", "tokens/*", recipe_folder / "recipe.yaml", source.unlink)
    assert "captions-000.tar" in message
    nothing_published(tmp_path / "out")


def test_a_picture_that_a_record_names_and_that_changes_is_found(recipe_folder: Path, tmp_path: Path) -> None:
    pictures = recipe_folder / "data" / "documents" / "images"

    def progress(step: str, done: int, total: int, note: str = "") -> None:
        if step == "write sft-2048":
            path = pictures / "doc-000.png"
            path.write_bytes(path.read_bytes())

    loaded = load_recipe(recipe_folder / "recipe.yaml")
    with pytest.raises(SourceError, match=r"documents\.json \(or an image that it names\) changed during the build"):
        build(loaded, tmp_path / "out", progress=progress)
    assert not (tmp_path / "out" / "sft-2048").exists()
    assert not list((tmp_path / "out" / ".work").glob("sft-2048")), "and what was written of it is not used again"


def test_a_large_file_changed_between_the_sampled_windows_is_scanned_again(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"line {i:04d} {'x y ' * 2200}"}) + "\n" for i in range(2000)]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(lines))
    assert path.stat().st_size > 16 << 20
    raw = {
        "name": "large",
        "tokenizer": str(QUICKSTART / "tokenizer.json"),
        "sources": {"text": {"format": "text", "path": "t.jsonl", "kind": "text"}},
        "filters": [{"name": "few", "where": "key = '1000'"}],
        "stages": {"only": {"seq_len": 8192, "budget": {"epochs": 1}, "mixture": {"text": 1.0}}},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(raw))
    first = build(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "out")
    with path.open("r+b") as file:
        file.seek(sum(len(line) for line in lines[:1000]) + 10)
        file.write(b"LINE")
    again = build(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "out")
    files = [report.stages[0].data["sources"]["text"]["files"][0] for report in (first, again)]
    assert files[0] == files[1], "the fingerprint does not see it"
    assert again.work["scan"] == 1, "the time of the file does"


def die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def swell(number: int) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
    return len(bytearray(1 << 40)) if number == 3 else number


@pytest.mark.parametrize(("task", "said"), [(die, "killed, or out of memory"), (swell, "ran out of memory")])
def test_a_worker_that_dies_or_swells_is_said(task: Callable[[int], int], said: str) -> None:
    with LocalEngine(2) as engine, pytest.raises(EngineError, match=said):
        engine.run(task, list(range(6)))


def test_a_worker_killed_in_a_build_is_said_and_the_next_build_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with started(out) as process:
        assert wait_for(lambda: any(out.glob("samples/*.parquet.*.partial")), process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(int(child), signal.SIGKILL)
        _, message = process.communicate(timeout=120)
        assert process.returncode == 2, message
    assert "a worker process died (killed, or out of memory)" in message
    nothing_published(out)
    assert len(build(load_recipe(RECIPE), out).stages) == len(SETS)


def test_two_recipes_of_one_name_do_not_share_a_default_folder(recipe_folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(recipe_folder, tmp_path / "other"))
    command = [sys.executable, "-m", "mindvl_data", "plan"]
    (tmp_path / "build" / "quickstart").mkdir(parents=True)
    note = f'{{"recipe_folder": "{recipe_folder}", "recipe": "recipe.yaml"}}'
    (tmp_path / "build" / "quickstart" / "local.json").write_text(note)
    result = subprocess.run([*command, str(other / "recipe.yaml")], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2
    assert f"holds the build of {recipe_folder / 'recipe.yaml'}, which has the same `name`" in result.stderr
    for arguments in ([str(recipe_folder / "recipe.yaml")], [str(other / "recipe.yaml"), "--out", "build/quickstart"]):
        assert subprocess.run([*command, *arguments], capture_output=True, cwd=tmp_path).returncode == 0
