"""Data sets that are a folder: which files of it are the data, in their order."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from mindvl_data.errors import reading
from mindvl_data.media import leads_out
from mindvl_data.runtime import yaml_text
from mindvl_data.sources import SourceError
from mindvl_data.sources.braces import braces


class Listed(NamedTuple):
    """A data file by its path; excluded: the keys of those of its samples that do not belong to the data set."""

    path: str
    excluded: tuple[str, ...] = ()


def data_files(fs: Any, folder: str) -> list[Listed]:
    """The data files of a folder that says itself what is in it, [] where it says nothing. Raises SourceError."""
    for name, listed in INDEXES.items():
        index = posixpath.join(folder, name)
        if fs.isfile(index):
            with reading(index, "the list of a data set's files", SourceError):
                return [Listed(posixpath.join(folder, path), keys) for path, keys in listed(fs.cat_file(index))]
    return []


def _mds(data: bytes) -> list[Listed]:
    """MosaicML's index.json: the shards in order, of which the compressed form counts where there is one."""
    shards = json.loads(data)["shards"]
    return [Listed(_within((shard["zip_data"] or shard["raw_data"])["basename"])) for shard in shards]


def _saved(data: bytes) -> list[Listed]:
    """The state.json of Hugging Face `save_to_disk`."""
    return [Listed(_within(file["filename"])) for file in json.loads(data)["_data_files"]]


def _saved_splits(data: bytes) -> list[Listed]:
    splits = json.loads(data)["splits"]
    raise SourceError(f"a folder of splits ({', '.join(splits)}): name one of them as the path")


def _energon(data: bytes) -> list[Listed]:
    """Energon's split.yaml: the tars of its training part, without what it excludes: whole tars, or TAR/KEY."""
    split = yaml_text.parse(data.decode())
    excluded = {name for pattern in split.get("exclude") or () for name in braces(pattern)}
    paths = [path for pattern in split["split_parts"]["train"] for path in braces(pattern) if path not in excluded]
    keys: dict[str, list[str]] = {path: [] for path in paths}
    for name in sorted(excluded):
        # A key may have slashes of its own.
        for end in (place for place, letter in enumerate(name) if letter == "/"):
            if name[:end] in keys:
                keys[name[:end]].append(name[end + 1 :])
    return [Listed(_within(path), tuple(keys[path])) for path in paths]


def _within(path: str) -> str:
    # In a store also as it is decoded.
    if leads_out(path, in_store=True):
        raise ValueError(f"{path!r} leads out of the folder")
    return path


INDEXES: Final[dict[str, Callable[[bytes], list[Listed]]]] = {
    ".nv-meta/split.yaml": _energon,
    "index.json": _mds,
    "state.json": _saved,
    "dataset_dict.json": _saved_splits,
}
