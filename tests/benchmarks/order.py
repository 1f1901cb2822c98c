"""Does an order of level steps cost learning? `python -m tests.benchmarks.order [--seeds 5]`

The drawings of tests/end_to_end, in the same packs but in three orders, trained by the same seeds, a process a core:
`shuffled`; `balanced` with whole optimizer steps of alike packs; and `balanced` with halves of them. Prints how level
each is, and the loss and the share of right answers on held-out questions: mean and standard deviation over seeds, and
the same of the difference to `shuffled` within a seed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe
from tests.end_to_end import test_drawings

STEP = test_drawings.RUN["stages"]["multitask"]["global_batch"]
ORDERS = {
    "shuffled": {"rule": "shuffled", "step": STEP},
    "steps": {"rule": "balanced", "step": STEP},
    "halves": {"rule": "balanced", "step": STEP // 2},
}


class Outcome(NamedTuple):
    """Of one run on held-out questions."""

    loss: float
    accuracy: float


def sets(folder: Path) -> None:
    """The drawings' sets in `built-ORDER`: equal but for the order of their packs."""
    test_drawings.write_data(folder)
    for name, order in ORDERS.items():
        path = folder / f"recipe-{name}.yaml"
        path.write_text(yaml.safe_dump(test_drawings.RECIPE | {"order": order}))
        build(load_recipe(path), folder / f"built-{name}")


def write_run(folder: Path, order: str) -> None:
    """The drawings' run over the sets of an order."""
    run = test_drawings.RUN | {"data": str(folder / f"built-{order}")}
    (folder / f"train-{order}.yaml").write_text(yaml.safe_dump(run, sort_keys=False))


def trained(folder: Path, order: str, seed: int) -> Outcome:
    """Trains and asks."""
    out = folder / f"run-{order}-{seed}"
    _command("run", folder / f"train-{order}.yaml", "--set", f"seed={seed}", "--out", out)
    held_out = folder / f"built-{order}" / "heldout-512" / "manifest.json"
    kinds = json.loads(_command("evaluate", out, held_out, "--json"))["kinds"].values()
    return Outcome(*(statistics.mean(kind[name] for kind in kinds) for name in Outcome._fields))


def _command(*arguments: object) -> str:
    command = [sys.executable, "-m", "mindvl_train", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def _balance(folder: Path, order: str) -> dict[str, float]:
    manifest = json.loads((folder / f"built-{order}" / "multitask-512" / "manifest.json").read_text())
    balance: dict[str, float] = manifest["packing"]["cost_balance"][ORDERS[order]["rule"]]
    return balance


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"


def main() -> None:
    """Builds, trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=list(ORDERS))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "drawings"
        sets(folder)
        for order in asked.orders:
            write_run(folder, order)
            print(f"{order}: slowest pack × the average in its group: {_balance(folder, order)}")
        jobs = [(order, seed) for seed in range(1, asked.seeds + 1) for order in asked.orders]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            outcomes = dict(zip(jobs, pool.map(lambda job: trained(folder, *job), jobs), strict=True))
    for order in asked.orders:
        show(order, [outcomes[order, seed] for seed in range(1, asked.seeds + 1)])
    if "shuffled" in asked.orders:
        for order in asked.orders:
            pairs = [(outcomes[order, seed], outcomes["shuffled", seed]) for seed in range(1, asked.seeds + 1)]
            show(f"{order} − shuffled", [Outcome(*np.subtract(one, other)) for one, other in pairs])


def show(name: str, outcomes: Sequence[Outcome]) -> None:
    """Every seed's loss and accuracy, and their spread."""
    for field, values in zip(Outcome._fields, zip(*outcomes, strict=True), strict=True):
        print(f"{name:<20} {field:<10}" + "".join(f"{value:>9.4f}" for value in values) + f"   {_spread(values)}")


if __name__ == "__main__":
    main()
