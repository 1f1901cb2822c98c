"""Headers that nobody would soon be through: millions of pieces of a few bytes, which Pillow steps over or adds up one
by one. Refused before Pillow sees them."""

import struct
from typing import Final

from mindvl_data.vision.bad_image import BadImage

# Steps that a header may take: the chunks of a PNG (libpng's are of 8 KiB: a file of 1 GiB), the segments and padding
# before a JPEG's first scan, the blocks before a GIF's first frame.
MOST_STEPS: Final = 1 << 17
# How many times a TIFF's or EXIF's tags may be as large as the whole.
MOST_COPIES: Final = 16

_SOS = 0xDA
# Markers without a length behind them: padding, restarts, start and end.
_BARE = frozenset({0x00, 0x01, 0xFF, 0xC8, *range(0xD0, 0xDA)})
# Bytes of a value by TIFF's number of its type.
_TIFF_SIZES = dict(enumerate((0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)))


def flooded(what: str) -> BadImage:
    return BadImage("unreadable_image", f"its header has more than {MOST_STEPS:,} {what}")


def check_jpeg(data: bytes | memoryview) -> None:
    """Raises BadImage where Pillow would step over too much on its way to a JPEG's first scan."""
    position = 2
    try:
        for _ in range(MOST_STEPS):
            if data[position] != 0xFF:
                position += 1
                continue
            marker = data[position + 1]
            if marker == _SOS:
                return
            position += 1 if marker in _BARE else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    except IndexError:
        return
    raise flooded("segments or bytes of padding")


def check_gif(data: bytes | memoryview) -> None:
    """Raises BadImage where Pillow would add up too many blocks on its way to a GIF's first frame."""
    try:
        position = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
        within = False  # an extension, which is blocks behind their sizes
        for _ in range(MOST_STEPS):
            size = data[position]
            if within:
                within, position = bool(size), position + 1 + size
            elif size in b",;":
                return
            else:
                within = size == 0x21
                position += 2 if within else 1
    except IndexError:
        return
    raise flooded("blocks")


def check_tiff(data: bytes | memoryview) -> None:
    """Raises BadImage where many tags of a TIFF's first directory have their values in the same bytes: Pillow copies
    each of them."""
    order = "<" if bytes(data[:2]) == b"II" else ">"
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (entries,) = struct.unpack_from(order + "H", data, start)
    except struct.error:
        return
    table = bytes(data[start + 2 : start + 2 + 12 * entries])
    tags = struct.iter_unpack(order + "2xHI4x", table[: len(table) // 12 * 12])
    if sum(min(_TIFF_SIZES.get(kind, 0) * count, len(data)) for kind, count in tags) > MOST_COPIES * len(data):
        raise BadImage("unreadable_image", f"the tags of its header are over {MOST_COPIES} times as large as the file")
