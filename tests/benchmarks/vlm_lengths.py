"""Lengths and patches of an invented native-resolution image-text corpus, the same for every packer.

The mix is a published one, not measured on a data set: captions and instructions with one photo, document
pages, samples of 2-8 photos, text alone. Deterministic in (n, seed).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Samples = tuple[NDArray[np.int32], NDArray[np.int32]]

# Shares of caption, instruction, page, several photos, text.
MIXES = {
    "shipped": (0.45, 0.30, 0.10, 0.07, 0.08),
    "text-heavy": (0.10, 0.15, 0.05, 0.05, 0.65),
    "document-heavy": (0.10, 0.15, 0.60, 0.05, 0.10),
    "many images": (0.20, 0.15, 0.05, 0.50, 0.10),
}
TEXT_MEDIAN = (60, 220, 300, 220, 350)
TEXT_SIGMA = (0.7, 0.9, 0.8, 0.9, 1.1)
CELL = 28  # pixels of a vision token's side
MOST_CELLS = 16384
PATCHES = 4  # of a vision token


def samples(n: int, mix: str = "shipped", seed: int = 20261121) -> Samples:
    """Text tokens and vision tokens of n samples, int32."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(5, n, p=MIXES[mix])
    scale = np.array(TEXT_SIGMA)[kind] * rng.standard_normal(n)
    text = np.maximum(4, np.exp(np.log(np.array(TEXT_MEDIAN)[kind]) + scale)).astype(np.int32)
    vision = np.zeros(n, np.int32)
    vision[kind < 2] = _images(rng, int((kind < 2).sum()), (640, 480), (0.45, 0.18))
    vision[kind == 2] = _images(rng, int((kind == 2).sum()), (1240, 1754), (0.15, 0.03))
    several = np.flatnonzero(kind == 3)
    if len(several):
        count = rng.integers(2, 9, len(several))
        photos = _images(rng, int(count.sum()), (640, 480), (0.45, 0.18))
        vision[several] = np.add.reduceat(photos, np.concatenate([[0], np.cumsum(count)[:-1]]))
    return text, vision


def clipped(text: NDArray[np.int32], vision: NDArray[np.int32], capacity: int) -> Samples:
    """Length and patches of each sample, cut at `capacity` tokens."""
    lengths = np.minimum(text + vision, capacity).astype(np.int32)
    return lengths, (PATCHES * np.minimum(vision, lengths)).astype(np.int32)


def uniform_mid(n: int, capacity: int, seed: int = 7) -> NDArray[np.int32]:
    """The hard set: nothing small to fill the gaps, lengths uniform in 0.1 … 0.6 of the capacity."""
    rng = np.random.default_rng(seed + capacity)
    return rng.integers(int(0.1 * capacity), int(0.6 * capacity) + 1, n).astype(np.int32)


def _images(rng: np.random.Generator, n: int, size: tuple[int, int], sigmas: tuple[float, float]) -> NDArray[np.int32]:
    """Vision tokens of images of a log-normal size and aspect, by the Qwen2-VL rule without its lower bound."""
    scale, aspect = np.exp(rng.normal(0, sigmas[0], n)), np.exp(rng.normal(0, sigmas[1], n))
    width, height = size[0] * scale * aspect, size[1] * scale / aspect
    rows, columns = (np.maximum(np.round(side / CELL), 1) for side in (height, width))
    shrink = np.sqrt(height * width / (MOST_CELLS * CELL * CELL))
    over = rows * columns > MOST_CELLS
    rows = np.where(over, np.floor(height / shrink / CELL), rows)
    columns = np.where(over, np.floor(width / shrink / CELL), columns)
    return (rows * columns).astype(np.int32)
