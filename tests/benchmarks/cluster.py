"""Scan, count and write on one node of one core and on two: wall time, and the share of linear.

    python -m tests.benchmarks.cluster [--samples 8000] [--rounds 1] [--folder DIR]

The corpus is that of `whole`, in 32 tars and as many shards. The nodes are simulated (`ray.cluster_utils`), each of one
core; the head runs no task. Start-up is not counted: cluster, connection and imports are done by a build of the
quickstart before. `one process` is the same build without Ray, in this process, and its CPU seconds are what
docs/scale.md takes as the cost of a sample and of a gigabyte. With as many cores as nodes the driver, Ray's own
processes and all else on the machine take part of the second node: the share is a lower bound then.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mindvl_data.engines import Engine
from mindvl_data.engines.local import LocalEngine
from mindvl_data.engines.ray import RayEngine
from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe
from tests.benchmarks import whole
from tests.conftest import QUICKSTART
from tests.ray_cluster import NODE

FILES = 32
STEPS = ("scan", "count", "write")
LEAST = 0.9
Steps = Mapping[str, float]


@contextmanager
def nodes(count: int) -> Iterator[str]:
    """The address of a cluster of so many nodes of one core, beside a head that runs no task."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
    try:
        for _ in range(count):
            cluster.add_node(**NODE)
        cluster.wait_for_nodes()
        yield cluster.address
    finally:
        cluster.shutdown()


def timed(engine: Engine, clock: Callable[[], float]) -> dict[str, float]:
    """Has the engine note how long the tasks of each function take together."""
    took: dict[str, float] = defaultdict(float)
    run = engine.run

    def noted(function: Any, *rest: Any, **more: Any) -> list[Any]:
        before = clock()
        found = run(function, *rest, **more)
        took[getattr(function, "function", function).__name__] += clock() - before
        return found

    engine.run = noted  # type: ignore[method-assign]
    return took


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measured(engine: Engine, recipe: Path, out: Path, clock: Callable[[], float], shard_bytes: int) -> Steps:
    """Seconds of each step of a build from nothing, after one of the quickstart."""
    with engine:
        build(load_recipe(QUICKSTART / "recipe.yaml"), out / "warm", engine=engine)
        took = timed(engine, clock)
        build(load_recipe(recipe, [f"shard_bytes={shard_bytes}"]), out / "out", engine=engine)
    shutil.rmtree(out)
    return {step: took[step] for step in STEPS} | {"all three": sum(took[step] for step in STEPS)}


def table(one: Steps, two: Steps, alone: Steps, samples: int, size: int) -> Table:
    shown = Table("", "one node, wall", "two nodes", "of linear", "one process, CPU", "CPU µs a sample")
    for step in one:
        share = one[step] / (2 * two[step])
        cost = f"{alone[step] / samples * 1e6:,.0f}"
        shown.add_row(step, f"{one[step]:.2f} s", f"{two[step]:.2f} s", f"{share:.2f}", f"{alone[step]:.2f} s", cost)
    shown.caption = (
        f"{samples:,} samples, {size / 1e9:.2f} GB in {FILES} tars; asked: {LEAST} of linear. Load of the machine at "
        f"the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the corpus and the builds lie meanwhile")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        whole.PER_TAR = -(-arguments.samples // FILES)
        whole.write_corpus(folder, whole.pictures(None), lambda samples, _: samples >= arguments.samples)
        recipe = whole.recipe(folder, QUICKSTART / "tokenizer.json")
        size = sum(path.stat().st_size for path in folder.glob("*.tar"))
        found: dict[int, list[Steps]] = {0: [], 1: [], 2: []}
        for _ in range(arguments.rounds):
            found[0].append(measured(LocalEngine(1), recipe, folder / "alone", cpu, size // FILES))
            for count in (1, 2):
                with nodes(count) as address:
                    engine = RayEngine(address)
                    found[count].append(measured(engine, recipe, folder / str(count), time.perf_counter, size // FILES))
    steps = {
        count: {step: float(np.median([one[step] for one in rounds])) for step in rounds[0]}
        for count, rounds in found.items()
    }
    Console(width=120).print(table(steps[1], steps[2], steps[0], arguments.samples, size))


if __name__ == "__main__":
    main()
