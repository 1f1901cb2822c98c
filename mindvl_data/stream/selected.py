"""What an epoch selects of a set, packed anew over the shards that are there.

A selected epoch has packs of its own: segments of the set's packs, taken together in the order in which the epoch would
have come to them, a window at a time, so that reads stay as near to each other as they were. Nothing is written: every
rank computes the same plan, and its name, a hash of all of it, is what a saved position belongs to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.manifest import Manifest, ManifestError, open_shard
from mindvl_data.media import Access
from mindvl_data.packing import order_packs, plan_windows
from mindvl_data.shards import Pack, SegmentTable, joined, joined_tables
from mindvl_data.stream.epochs import epoch_order
from mindvl_data.stream.reading import PackReader

# Samples that are packed together: some hundred packs, which a few dozen shards hold.
WINDOW = 8192
OPEN_SHARDS = 64


@dataclass(frozen=True)
class SelectedEpoch:
    """Packs of segments that lie in a set's shards.

    Attributes:
        manifest: the set.
        pack, number: int64, int32 [segments], the pack that each lies in and its number there, new pack by new pack.
        offsets: int64 [packs + 1], where the new packs begin in them.
        weights: float32 [segments], what a loss token of each weighs besides.
        costs: int64 [packs, 2], Σ l² and patches.
        name: a hash of all of it.
    """

    manifest: Manifest
    pack: NDArray[np.int64]
    number: NDArray[np.int32]
    offsets: NDArray[np.int64]
    weights: NDArray[np.float32]
    costs: NDArray[np.int64]
    name: str

    @property
    def num_packs(self) -> int:
        return len(self.offsets) - 1


def segments_of(manifest: Manifest) -> SegmentTable:
    """Every real segment of a set, without reading tokens or image bytes.

    Raises:
        ManifestError, ShardError, StoreError: a shard is not what the manifest says.
    """
    tables, first = [], 0
    for shard in manifest.shards:
        with open_shard(manifest, shard, first) as reader:
            tables.append(reader.segments())
        first += shard.packs
    return joined_tables(tables)


def select_epoch(
    manifest: Manifest,
    segments: SegmentTable,
    kept: NDArray[np.bool_],
    weights: NDArray[np.floating[Any]],
    epoch: int,
) -> SelectedEpoch:
    """Pack what is kept of a set for one of its epochs: full packs, levelled within the steps of the set's order.

    Args:
        manifest: the set.
        segments: all of it, see `segments_of`.
        kept: bool [segments].
        weights: [segments], of those that are not kept any.
        epoch: whose order of packs the segments are taken in.

    Raises:
        ManifestError: nothing is kept.
    """
    if not kept.any():
        raise ManifestError(f"{manifest.where}: epoch {epoch} would keep none of its {len(segments):,} segments")
    place = np.empty(manifest.num_packs, np.int64)
    step = int(manifest.order["step"])
    place[epoch_order(manifest.id, epoch, manifest.num_packs, step, manifest.borders)] = np.arange(len(place))
    chosen = np.flatnonzero(kept)
    chosen = chosen[np.argsort(place[segments.pack[chosen]], kind="stable")]
    lengths, patches = segments.length[chosen], segments.patches[chosen]
    seed, samples = int(manifest.order["seed"]), _repeated(segments, chosen)
    most = _limits(manifest)
    packs, borders = plan_windows(lengths, manifest.seq_len, WINDOW, patches, *most, seed=seed, samples=samples)
    costs = np.stack([packs.sums(lengths, power=2), packs.sums(patches)], axis=1)
    rule = "shuffled" if manifest.order["rule"] == "shuffled" else "balanced"
    how = {"rule": rule, "step": int(manifest.order["step"]), "seed": seed, "name": f"{manifest.id}\0epoch {epoch}"}
    order = order_packs(costs[:, 0], costs[:, 1], borders=borders, **how)  # type: ignore[arg-type]
    packs, costs = packs.reordered(order), costs[order]
    taken = chosen[packs.index]
    offsets = packs.offsets.astype(np.int64)
    found = (segments.pack[taken], segments.number[taken], offsets, weights[taken].astype(np.float32))
    digest = hashlib.sha256(f"selected epoch 1\0{manifest.id}\0".encode())
    for column in found:
        digest.update(np.ascontiguousarray(column).tobytes())
    return SelectedEpoch(manifest, *found, costs, digest.hexdigest())


class SelectedReader(PackReader):
    """The packs of a selected epoch by their place."""

    def __init__(self, selected: SelectedEpoch, access: Access) -> None:
        super().__init__(selected.manifest, access, OPEN_SHARDS)
        self._selected = selected

    def number(self, epoch: int, place: int) -> int:
        """The order is the plan's own."""
        return place

    def read(self, number: int) -> Pack:
        """A pack with the bytes of all its images. Raises ManifestError."""
        chosen, manifest = self._selected, self._selected.manifest
        span = slice(int(chosen.offsets[number]), int(chosen.offsets[number + 1]))
        places = zip(chosen.pack[span].tolist(), chosen.number[span].tolist(), strict=True)
        segments = [self.segment(pack, inner) for pack, inner in places]
        return joined(segments, chosen.weights[span].tolist(), manifest.seq_len, int(manifest.tokenizer["pad_id"]))

    def costs(self, number: int) -> NDArray[np.int64]:
        """Σ l² and patches, int64 [2]."""
        return np.asarray(self._selected.costs[number])


def _repeated(segments: SegmentTable, chosen: NDArray[np.int64]) -> NDArray[np.int32] | None:
    """A number a sample for each of the chosen, where some are there several times: draws of one stay apart."""
    if not segments.repeat[chosen].any():
        return None
    halves = segments.ids[chosen]
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    new = np.append(True, (halves[order[1:]] != halves[order[:-1]]).any(axis=1))
    numbers = np.empty(len(chosen), np.int32)
    numbers[order] = np.cumsum(new) - 1
    return numbers


def _limits(manifest: Manifest) -> tuple[int | None, int | None]:
    """The most patches and samples of a pack, as the set's recipe says: None is any number, as in the build."""
    stage: Mapping[str, Any] = manifest.data["recipe"].get("stages", {}).get(manifest.data["stage"], {})
    return stage.get("max_patches"), stage.get("max_samples")
