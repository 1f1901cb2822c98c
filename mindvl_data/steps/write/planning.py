"""Whether the images of a set are read where they lie or dealt to its shards first, and the tasks of either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mindvl_data.runtime import mirror as mirrors
from mindvl_data.steps.write.dealing import Dealt, DealTask, group_name, groups, is_scattered, runs
from mindvl_data.steps.write.reads import Ranges
from mindvl_data.steps.write.segments import Segments, image_ranges
from mindvl_data.steps.write.task import DealtImages, WriteTask
from mindvl_data.tables.store import starts_of


def plan_deals(
    tasks: Sequence[WriteTask], segments: Segments, folder: Path, scattered: bool | None = None
) -> tuple[list[DealTask], list[WriteTask]]:
    """What must be dealt to `folder` before a set (all its tasks, and the segments of all) is written, and the tasks.

    scattered: None to find out. A pure function: a build that was killed finds its dealt files again.
    """
    if tasks[0].media != "embed":
        return [], list(tasks)
    ranges = image_ranges({key: path for task in tasks for key, path in task.stores.items()}, segments)
    borders = _image_borders(tasks)
    if scattered is False or (scattered is None and not is_scattered(ranges, borders)):
        return [], list(tasks)
    of_shard = groups(np.array([ranges.size[first:end].sum() for first, end in borders]))
    of_image = np.repeat(of_shard, [end - first for first, end in borders])
    rows, places = runs(ranges, of_image)
    where = (tasks[0].build_folder, tasks[0].recipe_folder, tasks[0].roots)
    deals = [
        DealTask(folder / f"{number:05d}", _used(ranges[mine]), of_image[mine], *where)
        for number, mine in enumerate(rows)
    ]
    folders = [task.folder for task in deals]
    together = [
        [task.note for task, g in zip(tasks, of_shard, strict=True) if g == group]
        for group in range(of_shard.max() + 1)
    ]
    moved = [
        replace(task, dealt=_dealt(folders, int(group), together[group], places, span))
        for task, group, span in zip(tasks, of_shard.tolist(), borders, strict=True)
    ]
    return deals, moved


def _dealt(
    folders: Sequence[Path], group: int, notes: Sequence[Path], places: Dealt, span: tuple[int, int]
) -> DealtImages:
    mine = slice(*span)
    paths = [mirrors.address(folder / group_name(group)) for folder in folders]
    return DealtImages(paths, places.run[mine], places.offset[mine], notes)


def _image_borders(tasks: Sequence[WriteTask]) -> list[tuple[int, int]]:
    """(first, end) of each shard's images among all of the set."""
    starts = starts_of(np.array([task.segments.num_images.sum() for task in tasks]))
    return list(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True))


def _used(ranges: Ranges) -> Ranges:
    """The same ranges with only the uris they need: a task is sent to another process."""
    used, numbers = np.unique(ranges.file, return_inverse=True)
    return Ranges([ranges.uris[i] for i in used.tolist()], numbers, ranges.offset, ranges.size)
