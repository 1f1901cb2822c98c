"""A subset by uid, as DataComp publishes them: a sorted .npy of 128-bit numbers, each as two u8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.errors import reading
from mindvl_data.sources import SourceError

UID = np.dtype("u8,u8")
HEX_DIGITS = 32


class UidSubset:
    """How often a subset lists a uid. The file is searched where it lies: one of 1.4 billion uids fits no memory.

    Raises SourceError where it is no such file, or not sorted (as far as a look at its ends and a sample tells).
    """

    def __init__(self, path: Path) -> None:
        with reading(str(path), "a .npy file", SourceError):
            self._uids: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(self._uids, np.ndarray):
            raise SourceError(f"{path}: is an archive of arrays, not one .npy file")
        if self._uids.dtype != UID or self._uids.ndim != 1:
            raise SourceError(f"{path}: holds {self._uids.dtype}, not a row of (u8, u8)")
        look = self._uids[np.linspace(0, len(self._uids) - 1, min(len(self._uids), 1 << 16)).astype(np.int64)]
        if np.any(np.lexsort((look["f1"], look["f0"])) != np.arange(len(look))):
            raise SourceError(f"{path}: its uids are not sorted; np.sort it, as DataComp does")

    def times(self, uids: Sequence[str | None]) -> list[int]:
        """For every uid (32 hexadecimal digits, any other is in no subset) how often it is listed."""
        high, low, valid = _halves(uids)
        times = self._first(high, low, strict=True) - self._first(high, low, strict=False)
        return np.where(valid, times, 0).tolist()  # type: ignore[no-any-return]

    def _first(self, high: NDArray[np.uint64], low: NDArray[np.uint64], strict: bool) -> NDArray[np.int64]:
        """The first place whose uid is not below (strict: is above) each one asked for: a bisection of all at once."""
        start = np.zeros(len(high), np.int64)
        stop = np.full(len(high), len(self._uids), np.int64)
        while np.any(open_ := start < stop):
            middle = (start + stop) // 2
            there = self._uids[np.minimum(middle, len(self._uids) - 1)]
            below = (there["f0"] < high) | ((there["f0"] == high) & (there["f1"] < low))
            if strict:
                below |= (there["f0"] == high) & (there["f1"] == low)
            start = np.where(open_ & below, middle + 1, start)
            stop = np.where(open_ & ~below, middle, stop)
        return start


def _halves(uids: Sequence[str | None]) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.bool_]]:
    """The two words of every uid, and whether it is one: 32 hexadecimal digits. All of them at once."""
    valid = np.array([uid is not None and len(uid) == HEX_DIGITS and uid.isascii() for uid in uids], bool)
    named = "".join(uid for uid, one in zip(uids, valid, strict=True) if one and uid is not None)
    values = DIGITS[np.frombuffer(named.encode(), np.uint8)].reshape(-1, HEX_DIGITS)
    words = np.zeros((len(uids), 2), np.uint64)
    words[valid] = (values[:, ::2] << 4 | values[:, 1::2] & 15).view(">u8")
    valid[valid] = (values < 16).all(axis=1)
    return words[:, 0], words[:, 1], valid


def _digit_values() -> NDArray[np.uint8]:
    """What each byte is worth as a hexadecimal digit; 255 for what is none."""
    values = np.full(256, 255, np.uint8)
    for number, digit in enumerate(b"0123456789abcdef"):
        values[[digit, ord(chr(digit).upper())]] = number
    return values


DIGITS = _digit_values()
