"""Whatever `datasets.load_dataset` opens: a name on the hub or a folder, a configuration, a split, a revision.

Its rows are read as another format reads its own. Pictures and clips stay encoded: their bytes are taken as they lie,
or from the file that a row names, where that is one of the data set's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import Any

from mindvl_data.errors import reading
from mindvl_data.runtime import plugins
from mindvl_data.sources import GROUP, Asked, Record, SourceError
from mindvl_data.sources.files import SourceFile
from mindvl_data.sources.loaded import ENDING, LoadedFile, builder_of, opened


def read(file: SourceFile, asked: Asked) -> Iterator[Record]:
    """A record a row, by the reader that `load.rows` names. Raises SourceError for a file that was not loaded so."""
    if not isinstance(file, LoadedFile):
        raise SourceError(f"{file.uri}: is a file; format: datasets takes what `datasets.load_dataset` opens, by name")
    records: Iterator[Record] = plugins.load(GROUP, file.rows)(file, asked)
    return records


def files(path: Sequence[str], shown: Sequence[str], load: Mapping[str, Any], folder: Path) -> list[SourceFile]:
    """The split as one file.

    Args:
        path: The name, resolved.
        shown: The name as written.
        load: The recipe's section.
        folder: The recipe's.

    Raises:
        SourceError: There is no such data set, configuration or split.
    """
    if util.find_spec("datasets") is None:
        raise SourceError("format: datasets needs the extra [datasets]: pip install 'mindvl[datasets]'")
    if len(path) != 1:
        raise SourceError(f"format: datasets takes one name, these are {len(path)}")
    plugins.load(GROUP, load["rows"])
    local = folder / path[0]
    name = str(local) if local.exists() else path[0]
    options = {key: load[key] for key in ("config", "split", "revision", "streaming")}
    config, split = options["config"] or "default", options["split"]
    uri = f"datasets://{shown[0]}/{config}/{split}" + (f"@{options['revision']}" if options["revision"] else "")
    with reading(uri, "a data set of the library `datasets`", SourceError):
        builder = builder_of(name, options)
        identity = "/".join(map(str, (builder._relative_data_dir(with_hash=True), split)))
        found = LoadedFile(
            place=uri,
            uri=uri,
            path=f"{config}/{split}{ENDING}",
            size=0,
            fingerprint=f"datasets:{identity.removeprefix(str(folder))}",
            image_root=name if local.is_dir() else str(folder),
            image_uri=shown[0],
            name=name,
            options=tuple(options.items()),
            rows=load["rows"],
        )
        return [found.sized(opened(found))]


read.files = files  # type: ignore[attr-defined]
