"""Folders of libraries that cannot share our environment, made once and kept.

A peer's `NAME.txt` lists what goes into its folder; a process that has the folder first on its path sees those
packages and, behind them, ours. A folder that cannot be made fails the test: it is never skipped.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

CACHE = Path(os.environ.get("MINDVL_PEERS", Path.home() / ".cache" / "mindvl-peers"))


def run(peer: str, *arguments: object) -> str:
    """Python with these arguments in a peer's folder; its output."""
    ours = str(Path(__file__).parent.parent.parent)
    path = os.pathsep.join([str(folder(peer)), ours, *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, *map(str, arguments)], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def folder(peer: str) -> Path:
    """The peer's folder under the hash of its list, made if it is not there."""
    requirements = Path(__file__).with_name(f"{peer}.txt")
    made = CACHE / f"{peer}-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}-{sys.version_info.minor}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{peer}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            partial = made.with_suffix(".partial")
            pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target", str(partial)]
            result = subprocess.run([*pip, "-r", str(requirements)], capture_output=True, text=True)
            assert result.returncode == 0, result.stderr
            partial.rename(made)
    return made
