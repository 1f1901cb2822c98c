"""Folders that appear whole and stay: filled beside their place, flushed to the disk, renamed."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mindvl_data.atomic import sync


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill; it appears as `out`, whole and on the disk, when the block ends, and not if that raises.

    What an earlier process left half-written beside it is removed.
    """
    unfinished = out.with_name(f".unfinished-{out.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        for path in (*unfinished.rglob("*"), unfinished):
            sync(path)
        unfinished.rename(out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    sync(out.parent)
