"""Exports: a packed set, or the samples drawn for it, in the formats that other loaders read.

One writer a format, found by name through the entry points `mindvl_data.exports`: a function of an iterator of
records, the folder to fill and what it is made of. A folder appears whole, by rename, or not at all.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mindvl_data import atomic
from mindvl_data.errors import UserError
from mindvl_data.exports.records import Record, packs, samples
from mindvl_data.manifest import Manifest
from mindvl_data.runtime import plugins
from mindvl_data.stream import PackStream

GROUP = "mindvl_data.exports"
Writer = Callable[[Iterator[Record], Path, Manifest], None]

__all__ = ["GROUP", "ExportError", "Record", "Writer", "export"]


class ExportError(UserError):
    """An export that cannot be made; the message says why and what to do."""


def export(
    manifest: Manifest,
    format_name: str,
    folder: Path,
    whole_packs: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    media_root: str | Path | None = None,
    allow: Sequence[str] = (),
) -> int:
    """Write the samples in the order of the mixture, or the packs.

    What an export that was killed left is removed, and all is written again.

    Args:
        manifest: Of the set.
        format_name: One of the table of writers.
        folder: To be made.
        whole_packs: The packs themselves, in the place of the samples drawn for them.
        progress: Called with the packs done, and of how many.
        media_root: See `media.access_to`, as `allow`.
        allow: Where else images may be read.

    Returns:
        How many records were written.

    Raises:
        ExportError: The folder is there, or the format has no place for what the set holds.
        PluginError: There is no such format.
        ManifestError: A shard is not sound.
        MediaError: A referenced image changed.
    """
    writer: Writer = plugins.load(GROUP, format_name)
    if whole_packs and (getattr(writer, "samples_only", False) or getattr(writer, "no_packs", False)):
        raise ExportError(f"--packs: {format_name} is a list of samples, packs cannot be written to it")
    if folder.exists():
        raise ExportError(f"{folder}: exists already; name a folder that does not, or remove it")
    stream = PackStream(manifest, media_root=media_root, allow=allow)
    images = not getattr(writer, "samples_only", False)
    for left in folder.parent.glob(f"{glob.escape(folder.name)}.*.partial"):
        atomic.remove(left)
    with atomic.whole(folder) as partial:
        partial.mkdir(parents=True)
        records = packs(stream, progress) if whole_packs else samples(stream, partial, progress, images)
        counted = _Counted(records)
        writer(counted, partial, manifest)
    return counted.count


class _Counted:
    """An iterator that counts."""

    def __init__(self, records: Iterator[Record]) -> None:
        self._records = records
        self.count = 0

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        record = next(self._records)
        self.count += 1
        return record
