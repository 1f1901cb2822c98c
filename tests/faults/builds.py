"""Builds as processes that a test may kill: when, is said by what they have made, not by a clock."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.conftest import QUICKSTART

RECIPE = QUICKSTART / "recipe.yaml"
# The images of the quickstart are few enough to be read where they lie; here they are dealt in many runs, as those
# of a large set are, and the sets have several shards.
DEALING = """
import sys
from mindvl_data.cli import main
from mindvl_data.steps.write import dealing

if __name__ == "__main__":
    dealing.FEW_BYTES, dealing.LEAST_READ, dealing.RUN_BYTES = 0, 1 << 40, 1 << 20
    main()
"""
SHARD_BYTES = "shard_bytes=2000000"


def command(out: Path, workers: int = 2, recipe: Path = RECIPE, more: Sequence[str] = ()) -> list[str]:
    script = out.parent / "dealing_build.py"
    script.write_text(DEALING)
    arguments = ["build", str(recipe), "--workers", str(workers), "--out", str(out), "--set", SHARD_BYTES]
    return [sys.executable, str(script), *arguments, *more]


@contextmanager
def started(
    out: Path, workers: int = 2, recipe: Path = RECIPE, more: Sequence[str] = ()
) -> Iterator[subprocess.Popen[str]]:
    """A build in a session of its own; what is left of it afterwards is killed."""
    process = subprocess.Popen(
        command(out, workers, recipe, more),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )
    try:
        yield process
    finally:
        kill_all(process)


def kill_all(process: subprocess.Popen[str]) -> None:
    """The process and its workers, by SIGKILL."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def finished(out: Path, workers: int = 2, recipe: Path = RECIPE) -> str:
    """A build that nobody disturbs; its table."""
    result = subprocess.run(
        command(out, workers, recipe),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def failed(out: Path, workers: int = 2, recipe: Path = RECIPE) -> str:
    """A build that must fail; its one message."""
    result = subprocess.run(
        command(out, workers, recipe),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[str]) -> bool:
    """Whether it happened before the process ended."""
    while process.poll() is None:
        if happened():
            return True
        time.sleep(0.001)
    return happened()


def files(out: Path) -> set[Path]:
    """Every file and folder; names that vanish meanwhile are left out."""
    found = set()
    for folder, folders, names in os.walk(out):
        found |= {Path(folder, name) for name in [*folders, *names]}
    return found


def caches(out: Path) -> set[Path]:
    """Every file of the steps before the packed sets."""
    notes = ("index.json", "fingerprints.json")
    steps = (path for path in files(out) if path.relative_to(out).parts[0] in ("samples", "tokens", "media"))
    return {path for path in steps if path.is_file() and path.name not in notes}


def done(out: Path) -> dict[Path, tuple[int, int]]:
    """The files of finished tasks, and which each is: another inode or time means that it was made again.

    A scan is finished with its samples table, which comes last; a count with its store.
    """
    found = {}
    for path in caches(out):
        stem = path.name.split(".")[0]
        of_scan = path.relative_to(out).parts[0] != "tokens"
        whole = (out / "samples" / f"{stem}.parquet").exists() if of_scan else path.parent.name != "tokens"
        if whole and ".partial" not in str(path):
            found[path] = (path.stat().st_ino, path.stat().st_mtime_ns)
    return found


def unfinished(out: Path) -> list[Path]:
    return [path for path in files(out) if ".partial" in path.name or path.name == ".work"]
