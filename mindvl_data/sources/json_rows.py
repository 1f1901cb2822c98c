"""Rows of JSON: an array of objects (`.json`) or one object a line, plain, gzip or zstd; a few rows in memory."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Protocol

import pyarrow as pa

from mindvl_data.errors import reading
from mindvl_data.sources import RECORD_BYTES, Piece, SourceError
from mindvl_data.sources.files import SourceFile
from mindvl_data.tables.schema import Drop

CODECS = {".gz": "gzip", ".zst": "zstd"}
CHUNK_BYTES = 4 << 20
# What may stand between the values of an array.
SPACE = " \t\r\n"
DECODER = json.JSONDecoder()


def json_rows(file: SourceFile) -> Iterator[tuple[str, Any]]:
    """(row number, value) or (row number, Drop) for every row. Raises SourceError where the file cannot be read on.

    Bytes that are not UTF-8 become lone surrogates in the texts: what becomes of those is the scan's rule.
    """
    codec = next((codec for end, codec in CODECS.items() if file.path.endswith(end)), None)
    with ExitStack() as stack:
        stack.enter_context(reading(file.uri, codec or "a file", SourceError))
        handle = stack.enter_context(file.open())
        if codec:
            handle = stack.enter_context(pa.input_stream(pa.PythonFile(handle, "r"), codec, CHUNK_BYTES))
        first = file.piece.first_row if file.piece else 0
        for number, value in _whole(handle, file) if file.piece is None else _piece(handle, file.piece):
            if value is not None:
                yield str(first + number), value


def is_array(first: bytes, path: str) -> bool:
    """Whether a file that begins so is one JSON array, and not a line a row."""
    return first.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[") and ".json" in Path(path).suffixes


def _whole(handle: IO[bytes], file: SourceFile) -> Iterator[tuple[int, Any]]:
    first = handle.read(CHUNK_BYTES)
    text = first.removeprefix(codecs.BOM_UTF8)
    return enumerate(_array(handle, text.lstrip(), file)) if is_array(first, file.path) else _lines(handle, text)


def _piece(handle: IO[bytes], piece: Piece) -> Iterator[tuple[int, Any]]:
    handle.seek(piece.start)
    part = _Part(handle, piece.stop - piece.start)
    first = part.read(CHUNK_BYTES)
    return _lines(part, first if piece.start else first.removeprefix(codecs.BOM_UTF8))


class _Part:
    """The next bytes of a file, as a file that ends where they do."""

    def __init__(self, handle: IO[bytes], left: int) -> None:
        self._handle = handle
        self._left = left

    def read(self, size: int) -> bytes:
        data = self._handle.read(min(size, self._left))
        self._left -= len(data)
        return data


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _lines(handle: _Readable, data: bytes) -> Iterator[tuple[int, Any]]:
    """The number and value of every line; None for an empty one, which counts as a row and is none."""
    number = 0
    while data:
        # A gigabyte of empty lines packs into a few kilobytes: those of a whole chunk are counted and not looked at.
        if data.isspace():
            number += data.count(b"\n")
            data = handle.read(CHUNK_BYTES)
            continue
        *lines, data = data.split(b"\n")
        for line in lines:
            yield number, _value(line)
            number += 1
        if len(data) > RECORD_BYTES:
            yield number, Drop("text_too_long", f"a line of more than {RECORD_BYTES} bytes")
            number += 1
            data = _rest_of_line(handle)
            continue
        chunk = handle.read(CHUNK_BYTES)
        if not chunk:
            yield number, _value(data)
            return
        data += chunk


def _rest_of_line(handle: _Readable) -> bytes:
    while chunk := handle.read(CHUNK_BYTES):
        _, newline, rest = chunk.partition(b"\n")
        if newline:
            return rest
    return b""


def _value(line: bytes) -> Any:
    if not line or line.isspace():
        return None
    try:
        # Where files were joined, each brought its mark.
        value = json.loads(line.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        return Drop("malformed_record", f"not JSON: {error}")
    return Drop("malformed_record", "null is no record") if value is None else value


def _array(handle: IO[bytes], data: bytes, file: SourceFile) -> Iterator[Any]:
    """The values of an array, decoded one by one as its bytes come in."""
    decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    text, position, number = decode(data), 1, 0
    while True:
        position = _skip(text, position, SPACE)
        if text[position : position + 1] == "]":
            if (text[position + 1 :] + decode(handle.read(CHUNK_BYTES))).strip():
                raise SourceError(f"{file.uri}: goes on behind the end of its array; one array a file")
            return
        try:
            # A number at the end of what is read may go on in what is not: it is decoded with what follows it.
            value, stop = DECODER.raw_decode(text, position)
            stop = _skip(text, stop, SPACE)
            if stop == len(text):
                raise json.JSONDecodeError("the array does not end", text, stop)
        except (ValueError, RecursionError) as error:
            chunk = handle.read(max(CHUNK_BYTES, len(text) - position))
            if not chunk or len(text) - position > RECORD_BYTES or isinstance(error, RecursionError):
                raise SourceError(f"{file.uri}: not JSON from entry {number} on ({error})") from error
            text, position = text[position:] + decode(chunk), 0
            continue
        if text[stop] not in ",]":
            raise SourceError(f"{file.uri}: not JSON after entry {number}: {text[stop : stop + 20]!r}")
        position = stop + (text[stop] == ",")
        yield Drop("malformed_record", "null is no record") if value is None else value
        number += 1


def _skip(text: str, position: int, what: str) -> int:
    while position < len(text) and text[position] in what:
        position += 1
    return position
