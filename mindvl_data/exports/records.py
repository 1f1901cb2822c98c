"""What is exported, one record at a time: a pack as it is trained on, or a sample as its source has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.errors import UserError
from mindvl_data.exports.texts import Texts
from mindvl_data.manifest import Manifest, ManifestError, packs_of, unknown_sources
from mindvl_data.shards import Pack, PackImage
from mindvl_data.stream import PackStream
from mindvl_data.vision import read_header
from mindvl_data.vision.video.container import PREFIX_BYTES, container_of

SUFFIXES = {"jpeg": "jpg", "tiff": "tif"}
CLIP_SUFFIXES = {"matroska": "mkv", "mpegts": "ts", "asf": "wmv", "mpeg": "mpg"}


@dataclass(frozen=True)
class Record:
    """meta: text, whole numbers, or lists and objects of them. arrays: [seq_len] each. images: (suffix, bytes), of
    pictures and clips; a clip stands there once, whatever the number of its entries."""

    key: str
    meta: Mapping[str, Any]
    images: Sequence[tuple[str, bytes]]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def packs(stream: PackStream, progress: Callable[[int, int], None]) -> Iterator[Record]:
    """Every pack of a stream in its order."""
    manifest = stream.manifest
    for number, pack in enumerate(stream):
        _check_sources(manifest, pack)
        yield Record(
            key=f"{number:09d}",
            meta={
                "num_tokens": pack.num_tokens,
                "cu_seqlens": pack.cu_seqlens.tolist(),
                "sample_ids": [uid.hex() for uid in pack.sample_ids],
                "sources": list(pack.sources),
                "repeats": list(pack.repeats),
                "image_starts": [image.start for image in pack.images],
                "image_grids": [list(image.grid) for image in pack.images],
                **_frames(pack),
            },
            images=files_of(pack.images),
            arrays={
                "tokens": pack.tokens,
                "loss_mask": pack.loss_mask.astype(np.uint8),
                **({} if pack.loss_weights is None else {"loss_weight": pack.loss_weights}),
            },
        )
        progress(number + 1, manifest.num_packs)


def samples(
    stream: PackStream, scratch: Path, progress: Callable[[int, int], None], images: bool = True
) -> Iterator[Record]:
    """Every draw in the order of the packs, its text as the source has it: whole, also where the pack holds a cut.

    Args:
        scratch: A folder for the texts meanwhile.
        images: Whether the records have theirs.
    """
    manifest = stream.manifest
    with Texts(manifest, scratch) as texts:
        number = 0
        for done, pack in enumerate(stream if images else packs_of(manifest), 1):
            _check_sources(manifest, pack)
            for segment, mine in enumerate(_by_segment(pack)):
                uid = pack.sample_ids[segment]
                said = texts[uid]
                yield Record(
                    key=f"{number:09d}",
                    meta={
                        "sample_id": uid.hex(),
                        "source": pack.sources[segment],
                        "repeat": pack.repeats[segment],
                        "uid": said["uid"] or "",
                        "messages": said["messages"],
                        "tools": said["tools"] or [],
                    },
                    images=files_of(mine) if images else [],
                )
                number += 1
            progress(done, manifest.num_packs)


def _check_sources(manifest: Manifest, pack: Pack) -> None:
    """Raises ManifestError where a pack names a source that the manifest has not: files are called after them."""
    if strange := unknown_sources(manifest, pack):
        raise ManifestError(
            f"{manifest.where}: pack {pack.index} names the source {strange[0]!r}, which the manifest has not; "
            "`python -m mindvl_data verify` lists what else is wrong"
        )


def _by_segment(pack: Pack) -> list[list[PackImage]]:
    """The images of each real segment."""
    found: list[list[PackImage]] = [[] for _ in pack.sample_ids]
    starts = np.array([image.start for image in pack.images], np.int64)
    for image, segment in zip(pack.images, np.searchsorted(pack.cu_seqlens, starts, side="right") - 1, strict=True):
        found[int(segment)].append(image)
    return found


def _frames(pack: Pack) -> dict[str, Any]:
    """Of a pack with clips, which file of `images` each entry is of, and the seconds of the frames that it shows."""
    if not any(image.is_video for image in pack.images):
        return {}
    shared = [bool(again) for again in _shared(pack.images)]
    files = (np.cumsum(~np.array(shared, bool)) - 1).tolist()
    times = [[frame.time for frame in image.frames] for image in pack.images]
    return {"image_files": files, "image_times": times}


def _shared(images: Sequence[PackImage]) -> Iterator[bool]:
    """Whether each is the same clip as the one before, looked at further on."""
    before = None
    for image in images:
        again = before is not None and image.is_video and image.data is before.data
        yield bool(again and before is not None and before.frames[-1].index <= image.frames[0].index)
        before = image


def files_of(images: Sequence[PackImage]) -> list[tuple[str, bytes]]:
    """(suffix, bytes) of each picture and clip."""
    return [_file(image) for image, again in zip(images, _shared(images), strict=True) if not again]


def _file(image: PackImage) -> tuple[str, bytes]:
    assert image.data is not None
    data = bytes(image.data)
    if image.is_video and (container := container_of(data[:PREFIX_BYTES])):
        return CLIP_SUFFIXES.get(container, container), data
    if image.is_video:
        raise UserError(
            "a clip is a list of frames, which no export has a file for: export packs as they are, or from data "
            "whose clips are files"
        )
    name = read_header(data).format
    return SUFFIXES.get(name, name), data
