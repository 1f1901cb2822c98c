"""Short cuts past Pillow to the header of a JPEG or a WebP: a walk over its markers or chunks.

Pillow reads 20 thousand JPEG headers a second and 5 thousand WebP headers, a walk several times as many. It
answers only where the file is of the plain kind; at anything odd it gives None, and Pillow decides. Tests
hold the two equal.
"""

import struct

Stored = tuple[int, int, int]  # width and height as stored, and the orientation to be applied

_ORIENTATION_TAG = 0x0112
_SHORT = 3

_SOF = {0xC0, 0xC1, 0xC2}
_SOS, _DQT, _APP1 = 0xDA, 0xDB, 0xE1
_SKIPPED = {0xC4, 0xDD, 0xFE}  # DHT, DRI, COM: nothing in them matters to Pillow either
# Pillow refuses some application segments when they are shorter than this, and Photoshop's for other reasons.
_SHORTEST = {(0xE0, b"JFIF"): 7, (0xE2, b"ICC_"): 14, (0xEE, b"Adob"): 7, (0xED, b"Phot"): 1 << 16}


def walk_jpeg(data: bytes | memoryview) -> Stored | None:
    """What stands before the first scan of a JPEG; None where Pillow must decide."""
    segments = _jpeg_segments(data)
    frames = [payload for marker, payload in segments if marker in _SOF]
    if len(frames) != 1 or not all(_plain(marker, payload) for marker, payload in segments):
        return None
    height, width = struct.unpack_from(">HH", frames[0], 1)
    orientation = _jpeg_orientation([payload for marker, payload in segments if marker == _APP1])
    return (width, height, orientation) if orientation and width and height else None


def _jpeg_segments(data: bytes | memoryview) -> list[tuple[int, bytes]]:
    """(marker, payload) of what matters before the first scan; nothing if the markers do not lead there."""
    segments: list[tuple[int, bytes]] = []
    position, end = 2, len(data)
    while position + 4 <= end and data[position] == 0xFF:
        marker = data[position + 1]
        length = data[position + 2] << 8 | data[position + 3]
        stop = position + 2 + length
        if length < 2 or stop > end:
            break
        if marker == _SOS:
            return segments
        if marker not in _SKIPPED:
            segments.append((marker, bytes(data[position + 4 : stop])))
        position = stop
    return []


def _plain(marker: int, payload: bytes) -> bool:
    if marker == _DQT:  # whole tables of 64 bytes, each behind its number
        return len(payload) % 65 == 0 and all(number < 16 for number in payload[::65])
    if marker in _SOF:  # 8 bits a sample; 1, 3 or 4 components of 3 bytes
        return len(payload) > 8 and payload[0] == 8 and payload[5] in (1, 3, 4) and len(payload) == 6 + 3 * payload[5]
    return 0xE0 <= marker <= 0xEF and len(payload) >= _SHORTEST.get((marker, payload[:4]), 0)


def _jpeg_orientation(app1: list[bytes]) -> int | None:
    exif = [payload[6:] for payload in app1 if payload.startswith(b"Exif\0\0")]
    if not exif:
        # XMP may tell the orientation too, and Pillow looks for it there when EXIF is silent.
        return None if any(payload.startswith(b"http") for payload in app1) else 1
    return _exif_orientation(exif[0]) if len(exif) == 1 else None


def _exif_orientation(tiff: bytes) -> int | None:
    """The orientation in an EXIF block that holds exactly one, as one short; None for Pillow to decide."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return None
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    if start + 2 > len(tiff):
        return None
    (entries,) = struct.unpack_from(order + "H", tiff, start)
    table = tiff[start + 2 : start + 2 + 12 * entries]
    if len(table) != 12 * entries:
        return None
    found = [entry[1:] for entry in struct.iter_unpack(order + "HHIHxx", table) if entry[0] == _ORIENTATION_TAG]
    if len(found) != 1 or found[0][:2] != (_SHORT, 1):
        return None
    orientation = int(found[0][2])
    return orientation if 1 <= orientation <= 8 else None


def walk_webp(data: bytes | memoryview) -> Stored | None:
    """Size of a still WebP without EXIF or XMP (orientation 1); None where Pillow must decide."""
    head = bytes(data[:30])
    end = int.from_bytes(head[4:8], "little") + 8
    if head[8:12] != b"WEBP" or not 30 <= end <= len(data):
        return None
    canvas: tuple[int, int] | None = None
    position = 12
    if head[12:16] == b"VP8X":
        if head[16:20] != b"\x0a\0\0\0" or head[20] & ~_STILL:
            return None
        canvas = 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
        position = _webp_frame(data, 30)
    size = _webp_frame_size(bytes(data[position : position + 18]), end - position)
    return None if size is None or size != (canvas or size) else (*size, 1)


_STILL = 0x10 | 0x20  # flags of VP8X: alpha and colour profile; not animation, XMP or EXIF


def _webp_frame(data: bytes | memoryview, position: int) -> int:
    """Where the picture's own chunk begins, behind the colour profile and the alpha plane."""
    while bytes(data[position : position + 4]) in (b"ICCP", b"ALPH"):
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8 + size + (size & 1)
    return position


def _webp_frame_size(chunk: bytes, left: int) -> tuple[int, int] | None:
    """Size in the first 18 bytes of the VP8 or VP8L chunk that takes up the `left` bytes to the file's end."""
    size = int.from_bytes(chunk[4:8], "little")
    if len(chunk) < 18 or 8 + size + (size & 1) != left:
        return None
    if chunk[:4] == b"VP8L" and chunk[8] == 0x2F and not chunk[12] >> 5:
        bits = int.from_bytes(chunk[9:13], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    # A key frame that is shown, of a known profile, whose first partition fits (RFC 6386, section 9.1).
    tag = int.from_bytes(chunk[8:11], "little")
    shown = tag & 1 == 0 and tag >> 1 & 7 <= 3 and tag >> 4 & 1
    if chunk[:4] == b"VP8 " and shown and tag >> 5 < size and chunk[11:14] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", chunk, 14)
        return (width & 0x3FFF, height & 0x3FFF) if width & 0x3FFF and height & 0x3FFF else None
    return None
