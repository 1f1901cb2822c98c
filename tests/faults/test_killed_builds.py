"""A build that is killed at any moment, run again, gives the bytes of one that was not, and redoes nothing finished."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.test_quickstart import SETS, tree
from tests.faults.builds import caches, command, done, files, finished, kill_all, started, unfinished, wait_for

# One at least in every step, in the order in which a build comes to them: killed as soon as such a file is seen.
BOUNDARIES = [
    "samples/*.parquet.*.partial",
    "media/*.bin",
    "samples/*.filter-*.npy",
    "tokens/*.partial",
    "ledger/scan.parquet",
    "ledger/fit-warmup-2048.parquet",
    ".work/warmup-2048/*.dealt/00001",
    ".work/warmup-2048/*/shard-00000.*.partial",
    ".work/warmup-2048/*.notes/00000.json",
    ".work/multitask-4096/*/manifest.json",
    "multitask-4096",
]
# So many builds killed four times at random; a longer search sets more.
RANDOM_BUILDS = int(os.environ.get("MINDVL_RANDOM_BUILDS", "1"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    finished(out, workers=1)
    return out


def check_killed(out: Path) -> dict[Path, tuple[int, int]]:
    """Nothing half-written is visible in a build folder that was left by a kill; what was finished there."""
    for name in SETS:
        assert not (out / name).exists() or (out / name / "manifest.json.sha256").exists()
    return done(out)


def check_finished(out: Path, undisturbed: Path, before: dict[Path, tuple[int, int]]) -> None:
    assert tree(out) == tree(undisturbed)
    assert unfinished(out) == []
    now = done(out)
    assert {path: now[path] for path in before} == before, "what was finished was not made again"
    assert len(caches(out)) == len(caches(undisturbed)), "and nothing is left over"


@pytest.mark.slow
def test_a_build_killed_in_every_step_goes_on_to_the_same_bytes(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    finished_before: dict[Path, tuple[int, int]] = {}
    killed = []
    for boundary in BOUNDARIES:
        with started(out) as process:
            wait_for(lambda boundary=boundary: any(out.glob(boundary)), process)  # type: ignore[misc]
            if process.poll() is None:
                killed.append(boundary)
            kill_all(process)
        now = check_killed(out)
        assert {path: now[path] for path in finished_before} == finished_before
        finished_before = now
    finished(out, workers=1)
    check_finished(out, undisturbed, finished_before)
    # Some are over before a look at the folder can find them; most are not.
    assert len(killed) > len(BOUNDARIES) // 2, killed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(RANDOM_BUILDS))
def test_a_build_killed_at_random_moments_goes_on_to_the_same_bytes(
    undisturbed: Path, tmp_path: Path, seed: int
) -> None:
    """The moments are counted in files that appear, so that a slow machine sees the same as a fast one."""
    rng = random.Random(seed)
    out = tmp_path / "out"
    before: dict[Path, tuple[int, int]] = {}
    for _ in range(4):
        seen, left = files(out), rng.randrange(1, 60)
        with started(out, workers=rng.choice([1, 2, 3])) as process:
            wait_for(lambda seen=seen, left=left: len(files(out) - seen) >= left, process)  # type: ignore[misc]
            kill_all(process)
        before = check_killed(out)
    finished(out, workers=1)
    check_finished(out, undisturbed, before)


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with started(out) as process:
        assert wait_for(lambda: any(out.glob("samples/*.parquet.*.partial")), process)
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert workers
        process.kill()
        process.wait()
        deadline = 1000
        while any(running(worker) for worker in workers) and (deadline := deadline - 1):
            signal.sigtimedwait([], 0.01)
        assert deadline, "the workers ended by themselves"


def running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_with_one_message_and_the_next_build_goes_on(
    undisturbed: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(out),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )
    wait_for((out / "samples").exists, process)
    process.send_signal(sent)
    _, message = process.communicate(timeout=60)
    assert process.returncode in (0, 128 + sent)
    assert "Traceback" not in message
    assert "leaked" not in message
    if process.returncode:
        assert "Stopped" in message
    before = check_killed(out)
    finished(out, workers=1)
    check_finished(out, undisturbed, before)


@pytest.mark.parametrize("package", ["mindvl_data", "mindvl_train"])
def test_ctrl_c_while_a_command_is_still_being_loaded_is_no_traceback(package: str, tmp_path: Path) -> None:
    seen = tmp_path / "typer"
    (tmp_path / "sitecustomize.py").write_text(
        "import builtins, pathlib, time\n"
        "before = builtins.__import__\n"
        "def slow(name, *rest, **named):\n"
        "    if name == 'typer':\n"
        f"        pathlib.Path({str(seen)!r}).touch(); time.sleep(60)\n"
        "    return before(name, *rest, **named)\n"
        "builtins.__import__ = slow\n"
    )
    path = f"{tmp_path}{os.pathsep}{Path.cwd()}"
    process = subprocess.Popen(
        [sys.executable, "-m", package, "--help"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert wait_for(seen.exists, process)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert (process.returncode, message) == (130, "")
