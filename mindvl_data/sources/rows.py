"""From files to rows, whatever a file's container: what a format's own file adds is how a row becomes a sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mindvl_data.sources import Asked, Parse, Record, Row, Sample, SourceError, Unusable, attempt, unpacked
from mindvl_data.sources.arrow_rows import arrow_rows, parquet_rows
from mindvl_data.sources.csv_rows import CSV, csv_rows
from mindvl_data.sources.files import SourceFile
from mindvl_data.sources.json_rows import json_rows
from mindvl_data.sources.loaded import ENDING, loaded_rows
from mindvl_data.sources.mds_rows import mds_rows
from mindvl_data.sources.objects import with_objects
from mindvl_data.sources.tar_rows import tar_rows
from mindvl_data.tables.schema import Drop

MDS = (".mds", *(f".mds{end}" for end in unpacked.MDS_CODECS))
TARS = (".tar", *unpacked.TAR_CODECS)
TABLES = {
    ENDING: loaded_rows,
    ".parquet": parquet_rows,
    ".arrow": arrow_rows,
    **dict.fromkeys(TARS, tar_rows),
    **dict.fromkeys(MDS, mds_rows),
}
JSON = (".json", ".jsonl", ".ndjson")
COMPRESSED = (".gz", ".zst")


def samples(file: SourceFile, asked: Asked, columns: Sequence[str], parse: Parse) -> Iterator[Record]:
    """A record for every row of a JSON, JSON Lines, CSV, Parquet, Arrow or MDS file, or of the JSON files in a tar.

    Args:
        columns: The fields that `parse` reads, by our names; a table must have one of them.
    """
    suffix = next((suffix for suffix in TABLES if file.path.endswith(suffix)), None)
    if suffix:
        for key, row in TABLES[suffix](file, columns, asked):
            yield attempt(key, _sample, row, parse, asked)
    elif file.path.removesuffix(".gz").removesuffix(".zst").endswith(JSON):
        for key, value in json_rows(file):
            yield attempt(key, _json_sample, value, parse, asked)
    elif file.path.endswith(CSV):
        for key, value in csv_rows(file):
            yield attempt(key, _json_sample, value, parse, asked)
    else:
        known = ", ".join((*JSON, *CSV, ".parquet", ".arrow", ".tar", ".mds"))
        raise SourceError(
            f"{file.uri}: rows are read from files that end in {known} (JSON and .tar also .gz and .zst, MDS also "
            f"{', '.join(unpacked.MDS_CODECS)})"
        )


def _json_sample(key: str, value: Any, parse: Parse, asked: Asked) -> Sample:
    if isinstance(value, Drop):
        return _sample(key, value, parse, asked)
    if not isinstance(value, dict):
        raise Unusable("malformed_record", f"an entry is an object, this is a {type(value).__name__}")
    return _sample(key, asked.renamed(value), parse, asked)


def _sample(key: str, row: Row | Drop, parse: Parse, asked: Asked) -> Sample:
    if isinstance(row, Drop):
        raise Unusable(row.reason, row.detail)
    sample = parse(key, row)
    if asked.keep:
        sample = sample._replace(data=asked.kept(row))
    return with_objects(sample, row, asked.boxes)
