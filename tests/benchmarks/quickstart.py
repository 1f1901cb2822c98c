"""What the quickstart costs: `python tests/benchmarks/quickstart.py [--train]`.

Prints wall seconds, CPU seconds and peak memory of the build (from nothing and again) and of the training, each
a process of its own. The bounds it is held to: build under 20 s and 1 GiB, training under 180 s, on two cores.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def measure(name: str, *arguments: str) -> None:
    """Run a module's command line and print its line of the table; memory is the largest single process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", *arguments], check=True, cwd=ROOT, capture_output=True)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{name:<28} {wall:>8.1f} {cpu:>8.1f} {after.ru_maxrss / 1024:>10.0f}")


def main() -> None:
    """Build, build again, and with --train train."""
    out = Path(tempfile.mkdtemp())
    recipe = "recipes/quickstart/recipe.yaml"
    print(f"{os.cpu_count()} cores\n{'':<28} {'wall s':>8} {'CPU s':>8} {'peak MiB':>10}")
    try:
        measure("build, one process", "mindvl_data", "build", recipe, "--out", f"{out}/one", "--workers", "1")
        measure("build, a process a core", "mindvl_data", "build", recipe, "--out", f"{out}/all")
        measure("the same, nothing changed", "mindvl_data", "build", recipe, "--out", f"{out}/all")
        if "--train" in sys.argv:
            data = f"data={out}/all"
            train = ["recipes/quickstart/train.yaml", "--set", data, "--out", f"{out}/run"]
            measure("train, three stages", "mindvl_train", "run", *train)
    finally:
        shutil.rmtree(out)


if __name__ == "__main__":
    main()
