"""The fields of a shard's images as columns: where they stand, and their bytes or where those lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mindvl_data.shards import binary_array, bytes_array
from mindvl_data.shards.layout import FRAME
from mindvl_data.steps.write.segments import spans
from mindvl_data.tables.store import IN_A_ROW, SOUGHT, starts_of

Fields = dict[str, pa.Array]
SHA256 = pa.binary(32)


@dataclass(frozen=True)
class Embedded:
    """n images that were read: their bytes in a row, int64 [n] how many, and of each the SHA-256, uint8 [n, 32].

    own: bool [n], false of a clip's further entries, which have the bytes of its first and none of their own.
    """

    data: memoryview
    sizes: NDArray[np.int64]
    own: NDArray[np.bool_]
    sha256: NDArray[np.uint8]

    def cut(self, some: slice) -> Embedded:
        first, size = int(self.sizes[: some.start].sum()), int(self.sizes[some].sum())
        return Embedded(self.data[first : first + size], self.sizes[some], self.own[some], self.sha256[some])


def placed(starts: NDArray[np.int64], grids: NDArray[np.int64]) -> Fields:
    """starts: of the first placeholder in its pack, [n]; grids: [n, 3]."""
    sides = {name: pa.array(grids[:, i], pa.int16()) for i, name in enumerate(("grid_t", "grid_h", "grid_w"))}
    return {"start": pa.array(starts, pa.int32()), **sides}


def embedded(images: Embedded) -> Fields:
    return {
        "bytes": bytes_array(pa.py_buffer(images.data), images.sizes, images.own),
        "sha256": binary_array(images.sha256, SHA256),
    }


def referenced(rows: NDArray[Any], uris: Sequence[str]) -> Fields:
    """rows: IMAGE [n]; uris: what their `uri` numbers."""
    return {
        "uri": pa.array(uris, pa.string()).take(pa.array(rows["uri"])),
        "offset": pa.array(rows["offset"], pa.int64()),
        "size": pa.array(rows["size"], pa.int64()),
        "sha256": binary_array(rows["sha256"], SHA256, rows["has_sha256"]),
    }


def shown(clips: NDArray[Any], frames: NDArray[Any]) -> Fields:
    """clips: CLIP [n], whose `start` and `count` are of their frames, FRAME."""
    counts = clips["count"].astype(np.int64)
    rows = frames[spans(clips["start"], counts)]
    missing = {
        **dict.fromkeys(("pts", "key"), rows["by"] != SOUGHT),
        **dict.fromkeys(("offset", "size"), rows["by"] != IN_A_ROW),
    }
    columns = [pa.array(rows[field.name], field.type, mask=missing.get(field.name)) for field in FRAME]
    offsets = pa.array(starts_of(counts), pa.int32())
    return {
        "seconds_per_grid": pa.array(np.where(counts > 0, clips["seconds"], 0)),
        "frames": pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(columns, fields=list(FRAME))),
    }
