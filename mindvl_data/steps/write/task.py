"""One shard as a task: what it needs to be written anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mindvl_data.steps.write.segments import Segments
from mindvl_data.vision import Resolution


@dataclass(frozen=True)
class DealtImages:
    """The files that the shard's images were dealt to; run int32 [images] into them, offset int64 [images].

    notes: of the shards that share the files. When all are written, the files have had their use.
    """

    paths: Sequence[str]
    run: NDArray[np.int32]
    offset: NDArray[np.int64]
    notes: Sequence[Path]


@dataclass(frozen=True)
class WriteTask:
    """One shard: its packs are `segments` cut at `offsets` (int64 [packs + 1]); `first_pack` numbers them.

    pads: ids of the placeholders. video: whether the set has clips; weighted: whether a loss token of it
    weighs anything else than 1. note: where `write` says what the manifest needs
    to know of it. roots: see Access. dealt: None where embedded images are read from their sources.
    """

    path: Path
    note: Path
    seq_len: int
    first_pack: int
    segments: Segments
    offsets: NDArray[np.int64]
    stores: Mapping[int, Path]
    sources: Sequence[str]
    resolution: Resolution
    media: str
    pads: Sequence[int]
    pad: int
    build_folder: Path | str
    recipe_folder: Path
    roots: Sequence[str]
    video: bool = False
    weighted: bool = False
    dealt: DealtImages | None = None
