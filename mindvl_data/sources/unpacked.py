"""Compressed tars and MDS shards: unpacked into a temporary file, since their samples are found by place."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import IO, Final

import pyarrow as pa

from mindvl_data.errors import reading
from mindvl_data.sources import SourceError
from mindvl_data.sources.files import SourceFile
from mindvl_data.sources.mapped import FileBytes, map_file

# The name's end that MosaicML's writer gives, and what pyarrow calls it.
MDS_CODECS: Final = {".zstd": "zstd", ".gz": "gzip", ".bz2": "bz2", ".br": "brotli", ".snappy": "snappy"}
COPY_BYTES = 8 << 20
# A shard's places are 32 bits wide: what is longer is no shard but a bomb.
MOST_BYTES = 1 << 32
TAR_CODECS: Final = {".tar.gz": "gzip", ".tgz": "gzip", ".tar.zst": "zstd"}
# Pictures do not compress, and text not by so much: what unpacks to more, and to more than a shard may, is a bomb.
MOST_RATIO = 100
# No snappy makes more of a byte than this.
SNAPPY_RATIO = 32


def mds_bytes(file: SourceFile) -> tuple[FileBytes, str | None]:
    """A shard's bytes, and the uri under which they can be found again: None for what was unpacked here."""
    return _bytes(file, MDS_CODECS, MOST_BYTES)


def tar_bytes(file: SourceFile) -> tuple[FileBytes, str | None]:
    """The same for a tar."""
    return _bytes(file, TAR_CODECS, max(MOST_BYTES, MOST_RATIO * file.size))


def _bytes(file: SourceFile, codecs: Mapping[str, str], most: int) -> tuple[FileBytes, str | None]:
    codec = next((codec for end, codec in codecs.items() if file.path.endswith(end)), None)
    if codec is None:
        return file.bytes(), file.uri
    with tempfile.NamedTemporaryFile() as plain:
        with reading(file.uri, codec, SourceError), file.open() as packed:
            _unpack(packed, plain, codec, most)
        plain.flush()
        # The map outlives the file's name.
        return map_file(plain.name), None


def _unpack(packed: IO[bytes], plain: IO[bytes], codec: str, most: int) -> None:
    if codec == "snappy":
        plain.write(_snappy(packed.read(most)))
        return
    with pa.input_stream(pa.PythonFile(packed, "r"), codec, COPY_BYTES) as stream:
        while data := stream.read(COPY_BYTES):
            plain.write(data)
            if plain.tell() > most:
                raise ValueError(f"more than {most} bytes unpacked")


def _snappy(data: bytes) -> bytes:
    """A raw block, which begins with the length of what it holds: seven bits a byte, the lowest first."""
    size = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(data[: _length(data)]))
    if not data or size > SNAPPY_RATIO * len(data):
        raise ValueError("its length is not that of its content")
    return bytes(pa.decompress(data, size, "snappy", asbytes=True))


def _length(data: bytes) -> int:
    return next((place + 1 for place, byte in enumerate(data[:5]) if byte < 0x80), 5)
