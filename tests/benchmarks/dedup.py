"""Near-duplicate search over made-up hashes and signatures: is its cost near-linear?

    python -m tests.benchmarks.dedup --pictures 10000000 --texts 1000000

Pictures: 64-bit hashes, one in ten a copy of another with up to 3 bits changed. Texts: signatures of 128 values, one in
ten a copy of another with up to a fifth of its values changed.
"""

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mindvl_data.steps.dedup import Pictures, near_pictures, near_texts


def hashes(count: int, rng: np.random.Generator) -> NDArray[np.uint64]:
    values = rng.integers(0, 2**64, count, dtype=np.uint64)
    copies = count // 10
    values[:copies] = values[-copies:]
    for _ in range(3):
        values[:copies] ^= np.uint64(1) << rng.integers(0, 64, copies, dtype=np.uint64)
    return values


def signatures(count: int, rng: np.random.Generator) -> NDArray[np.uint32]:
    values = rng.integers(0, 2**32, (count, 128), dtype=np.uint32)
    copies = count // 10
    changed = rng.integers(0, 128, (copies, 26))
    values[:copies] = values[-copies:]
    np.put_along_axis(values[:copies], changed, rng.integers(0, 2**32, (copies, 26), dtype=np.uint32), 1)
    return values


def curve(name: str, largest: int, search: Callable[[int, np.random.Generator], int]) -> None:
    print(f"\n{name}\n{'samples':>12} {'CPU s':>8} {'µs a sample':>12} {'pairs':>10} {'peak MiB':>9}")
    count = largest // 100
    while count <= largest:
        start = time.process_time()
        found = search(count, np.random.default_rng(0))
        spent = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{count:>12,} {spent:>8.2f} {spent / count * 1e6:>12.2f} {found:>10,} {peak:>9,.0f}")
        count = count * 10 if count * 10 <= largest or count == largest else largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--texts", type=int, default=100_000)
    arguments = parser.parse_args()

    def pictures(count: int, rng: np.random.Generator) -> int:
        return len(near_pictures(Pictures(hashes(count, rng), np.arange(count + 1)), 3)[0])

    def texts(count: int, rng: np.random.Generator) -> int:
        return len(near_texts(signatures(count, rng), 0.7)[0])

    curve("pictures within 3 bits", arguments.pictures, pictures)
    curve("texts of a similarity of 0.7", arguments.texts, texts)


if __name__ == "__main__":
    main()
