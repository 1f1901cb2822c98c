"""A data set that the library `datasets` has opened, as rows: undecoded, labels by their names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import fsspec

from mindvl_data.errors import reading
from mindvl_data.sources import Asked, Row, SourceError
from mindvl_data.sources.arrow_rows import wanted
from mindvl_data.sources.arrow_values import python_values
from mindvl_data.sources.files import SourceFile
from mindvl_data.tables.schema import Drop

# What the rows readers know such a file by.
ENDING = ".loaded"
BATCH_ROWS = 64
ENCODED = ("Image", "Video", "Audio")


@dataclass(frozen=True)
class LoadedFile(SourceFile):
    """A split of a data set. options: config, split, revision, streaming. rows: the format of its rows."""

    name: str = ""
    options: tuple[tuple[str, Any], ...] = ()
    rows: str = ""

    def changed(self) -> bool:
        """Never: the library reads what it once prepared, or the revision that it resolved."""
        return False

    def sized(self, found: Any) -> LoadedFile:
        """The same with the bytes of its tables; of a stream what its publisher says."""
        table = getattr(found, "data", None)
        return replace(self, size=int(table.nbytes if table is not None else (found.info.dataset_size or 0)))


def builder_of(name: str, options: dict[str, Any]) -> Any:
    """What the library prepares it with. Raises whatever it raises."""
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset_builder(name, options["config"], revision=options["revision"])


@cache
def opened(file: LoadedFile) -> Any:
    """The split, prepared once on this machine, or streamed. Raises whatever the library raises."""
    import datasets

    options = dict(file.options)
    datasets.disable_progress_bars()
    return datasets.load_dataset(
        file.name,
        options["config"],
        split=options["split"],
        revision=options["revision"],
        streaming=options["streaming"],
    )


def loaded_rows(file: SourceFile, columns: Sequence[str], asked: Asked) -> Iterator[tuple[str, Row | Drop]]:
    """(row number, row) for every row; a Drop for one whose picture lies outside of the data set."""
    assert isinstance(file, LoadedFile)
    with reading(file.uri, "a data set of the library `datasets`", SourceError):
        found = opened(file)
        features = found.features or found._resolve_features().features
        names = wanted(list(features), columns, asked, file)
        kinds = {name: features[name] for name in names}
        number = 0
        for batch in found.select_columns(names).with_format("arrow").iter(BATCH_ROWS):
            values = [python_values(batch.column(name).combine_chunks()) for name in names]
            for line in zip(*values, strict=True):
                yield str(number), _row(file, dict(zip(names, line, strict=True)), kinds, asked)
                number += 1


def _row(file: LoadedFile, row: dict[str, Any], kinds: dict[str, Any], asked: Asked) -> Row | Drop:
    try:
        return asked.renamed({name: _value(file, value, kinds[name]) for name, value in row.items()})
    except _Outside as error:
        return Drop("outside_root", str(error))
    except OSError as error:
        return Drop("missing_image", str(error))


class _Outside(Exception):  # noqa: N818 - a record's fault
    """A picture that is no part of the data set."""


def _value(file: LoadedFile, value: Any, kind: Any) -> Any:
    """A value with labels by their names, and the bytes of what it names by a path."""
    name = type(kind).__name__
    if value is None:
        return None
    if name == "ClassLabel":
        return kind.names[value] if 0 <= value < len(kind.names) else None
    if name in ENCODED and isinstance(value, dict):
        return value if value.get("bytes") is not None else {**value, "bytes": _read(file, str(value.get("path")))}
    inner = getattr(kind, "feature", None) or (kind[0] if isinstance(kind, list) and kind else None)
    if isinstance(value, list) and inner is not None:
        return [_value(file, one, inner) for one in value]
    return value


def _read(file: LoadedFile, path: str) -> bytes:
    """The bytes of a file of the data set: below its folder, in the library's own caches, or of its repository."""
    if "://" in path:
        if f"hf://datasets/{file.name}" not in path:
            raise _Outside(f"{path!r} is not of the data set {file.name}")
    elif not any(Path(path).resolve().is_relative_to(root) for root in _roots(file)):
        raise _Outside(f"{path!r} is not a file of the data set {file.name}")
    with fsspec.open(path, "rb") as handle:
        data: bytes = handle.read()
        return data


def _roots(file: LoadedFile) -> list[Path]:
    from datasets import config

    caches = (config.HF_DATASETS_CACHE, config.HF_HUB_CACHE if hasattr(config, "HF_HUB_CACHE") else None)
    found = [Path(os.fspath(place)).resolve() for place in caches if place]
    return [*([Path(file.name).resolve()] if Path(file.name).is_dir() else []), *found]
