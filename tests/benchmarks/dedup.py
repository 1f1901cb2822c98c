"""Near-duplicate search over made-up hashes and signatures: is its cost near-linear?

    python -m tests.benchmarks.dedup --pictures 10000000 --texts 10000000

Pictures: 64-bit hashes, one in ten a copy of another with up to 3 bits changed. Texts: signatures of 128 values, one in
ten a copy of another with up to a fifth of its values changed; they lie in a file, as a build's do. CPU and peak
resident memory are those of the search.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mindvl_data.runtime.memory import give_back
from mindvl_data.steps.dedup import Pictures, near_pictures, near_texts
from mindvl_data.tables.columns import SpilledColumn

# Signatures changed together.
PART = 1 << 16


def hashes(count: int, rng: np.random.Generator) -> NDArray[np.uint64]:
    values = rng.integers(0, 2**64, count, dtype=np.uint64)
    copies = count // 10
    values[:copies] = values[-copies:]
    for _ in range(3):
        values[:copies] ^= np.uint64(1) << rng.integers(0, 64, copies, dtype=np.uint64)
    return values


def signatures(count: int, rng: np.random.Generator) -> NDArray[np.uint32]:
    column = SpilledColumn(Path(tempfile.gettempdir()), np.uint32, 128)
    tenth = count // 10
    for _ in range(9):
        values = rng.integers(0, 2**32, (tenth, 128), dtype=np.uint32)
        column.append(values)
    for start in range(0, tenth, PART):  # of the last of them
        some = values[start : start + PART]
        changed = rng.integers(0, 128, (len(some), 26))
        np.put_along_axis(some, changed, rng.integers(0, 2**32, changed.shape, dtype=np.uint32), 1)
        column.append(some)
    return column.values()


def curve(name: str, largest: int, made: Callable[[int, np.random.Generator], Callable[[], int]]) -> None:
    print(f"\n{name}\n{'samples':>12} {'CPU s':>8} {'µs a sample':>12} {'pairs':>10} {'peak MiB':>9}")
    count = largest // 100
    while count <= largest:
        search = made(count, np.random.default_rng(0))
        give_back()
        Path("/proc/self/clear_refs").write_text("5")
        start = time.process_time()
        found = search()
        spent = time.process_time() - start
        peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
        print(f"{count:>12,} {spent:>8.2f} {spent / count * 1e6:>12.2f} {found:>10,} {peak:>9,.0f}")
        count = count * 10 if count * 10 <= largest or count == largest else largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--texts", type=int, default=100_000)
    arguments = parser.parse_args()

    def pictures(count: int, rng: np.random.Generator) -> Callable[[], int]:
        made = Pictures(hashes(count, rng), np.arange(count + 1))
        return lambda: len(near_pictures(made, 3)[0])

    def texts(count: int, rng: np.random.Generator) -> Callable[[], int]:
        made = signatures(count, rng)
        return lambda: len(near_texts(made, 0.7)[0])

    curve("pictures within 3 bits", arguments.pictures, pictures)
    curve("texts of a similarity of 0.7", arguments.texts, texts)


if __name__ == "__main__":
    main()
