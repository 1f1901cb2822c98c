"""What can be said of pictures: from their sizes for nothing, from their pixels at the price of decoding them."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mindvl_data.steps.scores import THUMBNAIL, Thumbnails

LEVELS = 16
HASH_SIDE = 8


def bytes_per_pixel(image_bytes: pl.Series, pixels: pl.Series) -> pl.Series:
    """Bytes of a sample's images over their pixels: Float64 [n]; null without images. Low: flat or badly compressed."""
    return image_bytes / pixels


def blankness(thumbnails: Thumbnails) -> pl.Series:
    """How much of the blankest image is one tone: Float64 [n], 1 where all of it is; null where one does not decode.

    The share of a 64 by 64 thumbnail's pixels in the commonest of 16 grey tones. Decodes every image.
    """
    tones = (thumbnails.levels // (256 // LEVELS)).reshape(-1, THUMBNAIL**2)
    place = tones + (np.arange(len(tones)) * LEVELS)[:, None]
    counts = np.bincount(place.ravel(), minlength=len(tones) * LEVELS).reshape(-1, LEVELS)
    return _largest(counts.max(axis=1) / THUMBNAIL**2, thumbnails)


def image_hash(thumbnails: Thumbnails) -> pl.Series:
    """The perceptual hash of every image: List(UInt64) [n], null for one that does not decode. Decodes every image."""
    hashes = pl.Series(perceptual_hashes(thumbnails.levels))
    hashes = hashes.set(pl.Series(~thumbnails.sound), None)
    counts = np.diff(thumbnails.starts)
    rows = pl.DataFrame({"sample": np.repeat(np.arange(len(counts)), counts), "hash": hashes})
    found = rows.group_by("sample", maintain_order=True).agg("hash")
    samples = pl.DataFrame({"sample": np.arange(len(counts))})
    joined = samples.join(found, on="sample", how="left", maintain_order="left")["hash"]
    return joined.fill_null(pl.Series([[]], dtype=pl.List(pl.UInt64)).first())


def perceptual_hashes(levels: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """64 bits a picture, uint64 [images]: alike for pictures that look alike.

    pHash (Zauner 2010): the lowest 8 by 8 frequencies of the discrete cosine transform, each one bit: above the median
    of them or not.

    Args:
        levels: uint8 [images, 64, 64].
    """
    size = levels.shape[-1]
    angles = np.outer(np.arange(HASH_SIDE), np.arange(size) * 2 + 1) * np.pi / (2 * size)
    basis = np.cos(angles)
    low = basis @ levels.astype(np.float64) @ basis.T
    # Rounded, so that a frequency that a flat picture has not is zero on every machine.
    flat = np.round(low.reshape(-1, HASH_SIDE**2), 6)
    bits = flat > np.median(flat, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64)


def _largest(values: NDArray[np.float64], thumbnails: Thumbnails) -> pl.Series:
    """The largest value over each sample's images; null without images or where one is not sound."""
    counts = np.diff(thumbnails.starts)
    values = np.where(thumbnails.sound, values, np.inf)
    largest = np.full(len(counts), np.nan)
    some = counts > 0
    if some.any():
        largest[some] = np.maximum.reduceat(values, thumbnails.starts[:-1][some])
    return pl.Series(np.where(np.isinf(largest), np.nan, largest), nan_to_null=True)
