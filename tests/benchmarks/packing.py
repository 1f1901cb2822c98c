"""The packers that the package index has and ours, on the same lengths in one run.

    pip install -e .[bench]
    python tests/benchmarks/packing.py [--large]

Each packer runs in a process of its own, alone, on the same NumPy array; what it needs converted is converted
before the clock starts, and its packs are checked after it has stopped: every sample once, none over capacity.
CPU s is process time (median of three); memory is what the peak grew by, lengths and result included; balance is
Σ of the steps' maxima over Σ of their means, 64 packs a step, in the packer's own order (ours: `order: balanced`,
then `shuffled`). --large adds ten million samples (minutes) and a hundred.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from vlm_lengths import MIXES, clipped, samples, uniform_mid

from mindvl_data.packing import Packs, minimum_packs, order_packs, plan, plan_windows, step_balance
from mindvl_data.packing.compiled import FEW_SAMPLES, TIMES_WITHIN_TOKENS

STEP = 64
COMPILED_FROM = FEW_SAMPLES * TIMES_WITHIN_TOKENS
CAPACITIES = (4096, 8192, 32768)
Column = NDArray[np.int32]
Problem = tuple[str, int, int]  # mix, samples, capacity


@dataclass(frozen=True)
class Packer:
    """`run` packs what `prepare` made of (lengths, patches); `index` turns its answer into Packs."""

    run: Callable[[Any, Column, int], Any]
    prepare: Callable[[Column], Any] = lambda lengths: lengths
    index: Callable[[Any], Packs] = lambda packs: packs
    most: int = 10_000_000
    ours: bool = False
    needs: str | None = None


def of_lists(packs: list[list[int]]) -> Packs:
    """Packs from lists of sample numbers."""
    offsets = np.cumsum([0, *map(len, packs)])
    return Packs(np.fromiter((i for pack in packs for i in pack), np.int64, int(offsets[-1])), offsets, 0)


def lightbinpack(lengths: Column, patches: Column, capacity: int) -> list[list[int]]:
    """Its fastest packer, best-fit decreasing."""
    return list(importlib.import_module("lightbinpack").obfd(lengths, capacity))


def binpacking(lengths: dict[int, int], patches: Column, capacity: int) -> list[list[int]]:
    """First fit by volume; quadratic."""
    return [list(pack) for pack in importlib.import_module("binpacking").to_constant_volume(lengths, capacity)]


def seqpacker(lengths: Column, patches: Column, capacity: int) -> list[list[int]]:
    """Its default, optimised best-fit decreasing."""
    return list(importlib.import_module("seqpacker").pack_sequences(lengths, capacity).bins)


PACKERS = {
    "mindvl, balance=False": Packer(lambda lengths, _, capacity: plan(lengths, capacity, balance=False), ours=True),
    "mindvl": Packer(lambda lengths, patches, capacity: plan(lengths, capacity, patches), ours=True),
    "lightbinpack obfd": Packer(lightbinpack, index=of_lists, needs="lightbinpack"),
    "seqpacker": Packer(seqpacker, index=of_lists, needs="seqpacker"),
    "binpacking": Packer(
        binpacking,
        prepare=lambda lengths: dict(enumerate(lengths.tolist())),
        index=of_lists,
        most=10_000,
        needs="binpacking",
    ),
}


def problem(mix: str, n: int, capacity: int) -> tuple[Column, Column]:
    """Lengths and patches."""
    if mix == "uniform_mid":
        lengths = uniform_mid(n, capacity)
        return lengths, np.zeros_like(lengths)
    return clipped(*samples(n, mix), capacity)


def store(case: Problem, folder: str) -> None:
    """Write the problem, so that a packer's process has no memory from making it."""
    for name, column in zip(("lengths", "patches"), problem(*case), strict=True):
        np.save(f"{folder}/{name}.npy", column)


def measured(name: str, case: Problem, folder: str) -> list[str]:
    """One line of the table; runs in a process of its own."""
    packer = PACKERS[name]
    lengths, patches = np.load(f"{folder}/lengths.npy"), np.load(f"{folder}/patches.npy")
    capacity = case[2]
    if packer.ours:  # compiled, or read from numba's cache, before the clock starts
        packer.run(lengths[:COMPILED_FROM], patches[:COMPILED_FROM], capacity)
    given = packer.prepare(lengths)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(3):
        start = time.process_time()
        answer = packer.run(given, patches, capacity)
        seconds.append(time.process_time() - start)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before + lengths.nbytes / 1024
    packs = packer.index(answer)
    bound = minimum_packs(np.bincount(lengths, minlength=capacity + 1), capacity)
    check(packs, lengths, capacity)
    fill = lengths.sum() / (len(packs) * capacity)
    balance = [f"{a:.3f}  {p:.3f}" for a, p in balances(packs, lengths, patches, packer.ours)]
    return [
        name, f"{np.median(seconds):.3f}", f"{len(packs):,}", f"+{len(packs) - bound:,}", f"{fill:.4%}",
        f"{grown / 1024:,.0f}", *balance, *[""] * (2 - len(balance)),
    ]  # fmt: skip


def check(packs: Packs, lengths: Column, capacity: int) -> None:
    """Every sample once, no pack over capacity."""
    assert (np.bincount(packs.index, minlength=len(lengths)) == 1).all()
    assert packs.sums(lengths).max() <= capacity


def balances(packs: Packs, lengths: Column, patches: Column, ours: bool) -> Iterator[tuple[float, float]]:
    """Σ l² and patches of the steps, in the packer's own order or in both of ours."""
    costs = packs.sums(lengths.astype(np.int64) ** 2), packs.sums(patches)
    if not ours:
        yield step_balance(costs[0], STEP), step_balance(costs[1], STEP)
        return
    for rule in ("balanced", "shuffled"):
        order = order_packs(*costs, rule=rule, step=STEP, seed=0, name="benchmark")
        yield step_balance(costs[0][order], STEP), step_balance(costs[1][order], STEP)


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result from a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def peers(console: Console, cases: list[Problem]) -> None:
    """The table of packers, one block a case."""
    table = Table(
        "packer", *(name for name in ("CPU s", "packs", "over bound", "fill", "MB", "Σ l²  patches", "shuffled"))
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for mix, n, capacity in cases:
        table.add_section()
        table.add_row(f"[bold]{mix}, {n:,} samples, capacity {capacity:,}")
        with tempfile.TemporaryDirectory() as folder:
            alone(store, (mix, n, capacity), folder)
            for name, packer in PACKERS.items():
                if packer.needs and importlib.util.find_spec(packer.needs) is None:
                    table.add_row(name, "not installed")
                elif n <= packer.most:
                    table.add_row(*alone(measured, name, (mix, n, capacity), folder))
    console.print(table)


def steps_line(mix: str, capacity: int) -> list[str]:
    """Both balances of 2M samples of a mix in the order written."""
    lengths, patches = problem(mix, 2_000_000, capacity)
    packs = plan(lengths, capacity, patches)
    (attention, vision), (shuffled_attention, shuffled_vision) = balances(packs, lengths, patches, True)
    return [
        mix, f"{capacity:,}", f"{len(packs) // STEP:,}", f"+{len(packs) - packs.minimum_packs}", f"{attention:.4f}",
        f"{vision:.4f}", f"{shuffled_attention:.2f}", f"{shuffled_vision:.2f}",
    ]  # fmt: skip


def limits_line(capacity: int, balance: bool, max_samples: int | None) -> list[str]:
    """Tokens and patches at 1.15 × the mean, on 1M samples."""
    lengths, patches = problem("shipped", 1_000_000, capacity)
    one = plan(lengths, capacity, balance=balance)
    most = int(1.15 * patches.sum(dtype=np.int64) / len(one))
    patches = np.minimum(patches, most)  # what alone breaks the limit would be an error
    start = time.process_time()
    packs = plan(lengths, capacity, patches, most, max_samples, balance)
    seconds = time.process_time() - start
    check(packs, lengths, capacity)
    assert packs.sums(patches).max() <= most
    assert max_samples is None or np.diff(packs.offsets).max() <= max_samples
    lost = 100 * lengths.sum() / capacity * (1 / len(one) - 1 / len(packs))
    return [
        f"{capacity:,}", str(balance), str(max_samples or "any"), f"{(one.sums(patches) > most).mean():.1%}",
        f"{seconds:.2f}", f"+{len(packs) - packs.minimum_packs}", f"{lost:.4f}",
    ]  # fmt: skip


def windows_line(window: int) -> list[str]:
    """Windows over 1M samples at 8192."""
    lengths, patches = problem("shipped", 1_000_000, 8192)
    start = time.process_time()
    packs, _ = plan_windows(lengths, 8192, window, patches)
    seconds = time.process_time() - start
    check(packs, lengths, 8192)
    return [f"{window:,}", f"{seconds:.2f}", f"{lengths.sum() / len(packs) / 8192:.4%}"]


def hundred_million(folder: str) -> list[str]:
    """100M lengths, unbalanced."""
    lengths = np.tile(np.load(f"{folder}/lengths.npy"), 10)
    plan(lengths[:COMPILED_FROM], 8192, balance=False)
    start = time.process_time()
    packs = plan(lengths, 8192, balance=False)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return [f"{seconds:.2f}", f"{len(packs):,}", f"+{len(packs) - packs.minimum_packs}", f"{peak:.2f}"]


def listed(console: Console, title: str, columns: str, lines: list[list[str]]) -> None:
    """A small table."""
    table = Table(*columns.split("|"), title=title, title_justify="left")
    for line in lines:
        table.add_row(*line)
    console.print(table)


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="ten and a hundred million samples too")
    large = parser.parse_args().large
    console = Console(width=130)
    sizes = (10_000, 1_000_000, 10_000_000) if large else (10_000, 1_000_000)
    cases = [("shipped", n, capacity) for n in sizes for capacity in (CAPACITIES if n > 10_000 else (8192,))]
    peers(console, [*cases, ("uniform_mid", 1_000_000, 8192)])
    grid = [(mix, capacity) for mix in MIXES for capacity in CAPACITIES]
    listed(
        console,
        f"Steps of {STEP} packs, 2M samples: max / mean",
        "mix|capacity|steps|over bound|Σ l²|patches|Σ l² shuffled|patches shuffled",
        [alone(steps_line, *case) for case in grid],
    )
    listed(
        console,
        "Patches at most 1.15 × the mean, 1M samples",
        "capacity|balance|max_samples|over the limit without it|CPU s|over bound|points of fill lost",
        [
            alone(limits_line, capacity, *rest)
            for capacity in CAPACITIES
            for rest in ((False, None), (True, None), (True, 128))
        ],
    )
    listed(
        console,
        "Windows, 1M samples at 8,192",
        "window|CPU s|fill",
        [alone(windows_line, window) for window in (1_000, 10_000, 100_000)],
    )
    if large:
        with tempfile.TemporaryDirectory() as folder:
            alone(store, ("shipped", 10_000_000, 8192), folder)
            listed(
                console,
                "100M lengths at 8,192, balance=False (peak: the whole process, the lengths included)",
                "CPU s|packs|over bound|peak GiB",
                [alone(hundred_million, folder)],
            )


if __name__ == "__main__":
    main()
