"""Rows of CSV and TSV: the first line names the fields, and every value is a text; a row in memory."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from mindvl_data.errors import reading
from mindvl_data.sources import SourceError
from mindvl_data.sources.files import SourceFile
from mindvl_data.tables.schema import Drop

CSV = (".csv", ".tsv")
# Spreadsheets of countries with a decimal comma write the second.
DELIMITERS = ",;\t"


def csv_rows(file: SourceFile) -> Iterator[tuple[str, dict[str, str | None] | Drop]]:
    """(row number, fields) or (row number, Drop) for every row; an empty cell is None.

    Bytes that are not UTF-8 become lone surrogates, as in JSON. Raises SourceError where the file cannot be read on.
    """
    with reading(file.uri, "a file", SourceError), file.open() as handle:
        text = io.TextIOWrapper(handle, "utf-8-sig", "surrogateescape", newline="")
        header = text.readline()
        delimiter = max(DELIMITERS, key=header.count)
        fields = next(csv.reader([header], delimiter=delimiter), [])
        for number, cells in enumerate(_records(csv.reader(text, delimiter=delimiter))):
            if cells:
                yield str(number), _row(fields, cells) if isinstance(cells, list) else cells


def _records(reader: Any) -> Iterator[list[str] | Drop]:
    """What the reader makes of each line; [] for an empty one, which counts as a row and is none."""
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Drop("malformed_record", f"not CSV: {error}")


def _row(fields: list[str], cells: list[str]) -> dict[str, str | None] | Drop:
    if len(cells) != len(fields):
        return Drop("malformed_record", f"{len(cells)} cells under {len(fields)} names of fields")
    return {field: cell or None for field, cell in zip(fields, cells, strict=True)}
