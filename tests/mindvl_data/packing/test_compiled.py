"""Kernels: what runs as Python on few samples and what runs as machine code on many make the same packs."""

import numpy as np
import pytest
from numpy.typing import NDArray

from mindvl_data.packing import Packs, compiled, order_packs, plan


def made(
    lengths: NDArray[np.int64], patches: NDArray[np.int64], capacity: int, **limits: int
) -> list[NDArray[np.int64]]:
    packs: Packs = plan(lengths, capacity, patches, seed=3, samples=np.arange(len(lengths)) * 2 // 3, **limits)
    costs = packs.sums(lengths**2), packs.sums(patches)
    order = order_packs(*costs, rule="balanced", step=8, seed=1, name="x")
    return [packs.index, packs.offsets, order]


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 50, 3000])
@pytest.mark.parametrize("limits", [{}, {"max_patches": 9000, "max_samples": 20}], ids=["tokens", "three limits"])
def test_python_and_machine_code_make_the_same_packs(
    monkeypatch: pytest.MonkeyPatch, n: int, limits: dict[str, int]
) -> None:
    rng = np.random.default_rng(n)
    lengths = np.minimum(np.exp(rng.normal(5.5, 1, n)), 2048).astype(np.int64) + 1
    patches = (rng.random(n) * 3 * lengths).astype(np.int64)
    python = made(lengths, patches, 4096, **limits)
    monkeypatch.setattr(compiled, "FEW_SAMPLES", 0)
    machine = made(lengths, patches, 4096, **limits)
    assert all(np.array_equal(a, b) for a, b in zip(python, machine, strict=True))
