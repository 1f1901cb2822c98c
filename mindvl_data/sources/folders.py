"""Data sets that are a folder: which files of it are the data, in their order."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable
from typing import Any, Final

import yaml

from mindvl_data.errors import reading
from mindvl_data.sources import SourceError
from mindvl_data.sources.braces import braces


def data_files(fs: Any, folder: str) -> list[str]:
    """The data files of a folder that says itself what is in it, [] where it says nothing. Raises SourceError."""
    for name, listed in INDEXES.items():
        index = posixpath.join(folder, name)
        if fs.isfile(index):
            with reading(index, "the list of a data set's files", SourceError):
                return [posixpath.join(folder, path) for path in listed(fs.cat_file(index))]
    return []


def _mds(data: bytes) -> list[str]:
    """MosaicML's index.json: the shards in order, of which the compressed form counts where there is one."""
    shards = json.loads(data)["shards"]
    return [_within((shard["zip_data"] or shard["raw_data"])["basename"]) for shard in shards]


def _saved(data: bytes) -> list[str]:
    """The state.json of Hugging Face `save_to_disk`."""
    return [_within(file["filename"]) for file in json.loads(data)["_data_files"]]


def _saved_splits(data: bytes) -> list[str]:
    splits = json.loads(data)["splits"]
    raise SourceError(f"a folder of splits ({', '.join(splits)}): name one of them as the path")


def _energon(data: bytes) -> list[str]:
    """Energon's split.yaml: the tars of its training part, without what it excludes."""
    split = yaml.safe_load(data)
    excluded = set(split.get("exclude") or ())
    paths = (path for pattern in split["split_parts"]["train"] for path in braces(pattern))
    return [_within(path) for path in paths if path not in excluded]


def _within(path: str) -> str:
    if posixpath.isabs(path) or ".." in path.split("/"):
        raise ValueError(f"{path!r} leads out of the folder")
    return path


INDEXES: Final[dict[str, Callable[[bytes], list[str]]]] = {
    ".nv-meta/split.yaml": _energon,
    "index.json": _mds,
    "state.json": _saved,
    "dataset_dict.json": _saved_splits,
}
