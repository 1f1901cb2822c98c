"""Short cuts past Pillow to the header of a JPEG or a WebP: a walk over its markers or chunks.

Pillow reads 20 thousand JPEG headers a second and 5 thousand WebP headers, a walk several times as many. It
answers only where the file is of the plain kind; at anything odd it gives None, and Pillow decides. Tests
hold the two equal.
"""

import struct

from mindvl_data.vision.floods import MOST_STEPS

Stored = tuple[int, int, int]  # width and height as stored, and the orientation to be applied

_ORIENTATION_TAG = 0x0112
_SHORT = 3

_SOS, _DQT, _APP0, _APP1 = 0xFFDA, 0xFFDB, 0xFFE0, 0xFFE1
_SOF = frozenset({0xFFC0, 0xFFC1, 0xFFC2})
_SKIPPED = frozenset({0xFFC4, 0xFFDD, 0xFFFE})  # DHT, DRI, COM: nothing in them matters to Pillow either
# Pillow refuses some application segments when they are shorter than this, and Photoshop's for other reasons.
_SHORTEST = {(_APP0, b"JFIF"): 7, (0xFFE2, b"ICC_"): 14, (0xFFEE, b"Adob"): 7, (0xFFED, b"Phot"): 1 << 16}
_segment = struct.Struct(">HH").unpack_from
# Most headers end within these bytes. They are copied: indexing `bytes` takes half the time of a memoryview's.
_HEAD_BYTES = 1024


def walk_jpeg(data: bytes | memoryview) -> Stored | None:
    """What stands before the first scan of a JPEG; None where Pillow must decide."""
    end, head = len(data), bytes(data[:_HEAD_BYTES])
    segments = _LAYOUTS.segments(head, end)
    if segments is None:
        segments = _jpeg_segments(head, end)
        if segments:
            _LAYOUTS.add(_Layout(head, segments))
        elif segments is None and end > _HEAD_BYTES:
            segments = _jpeg_segments(data, end)
    if not segments:
        return None
    (start, stop), *app1 = segments
    frame = bytes(data[start:stop])
    # 8 bits a sample; 1, 3 or 4 components of 3 bytes
    if len(frame) < 9 or frame[0] != 8 or frame[5] not in (1, 3, 4) or len(frame) != 6 + 3 * frame[5]:
        return None
    height, width = frame[1] << 8 | frame[2], frame[3] << 8 | frame[4]
    orientation = _jpeg_orientation([bytes(data[start:stop]) for start, stop in app1]) if app1 else 1
    return (width, height, orientation) if orientation and width and height else None


def _jpeg_segments(head: bytes | memoryview, end: int) -> list[tuple[int, int]] | None:
    """Where the one frame's payload lies, then those of APP1, before the first scan.

    None if the markers do not lead there within `head`, the first bytes of `end`; [] at anything odd.
    """
    frames: list[tuple[int, int]] = []
    app1: list[tuple[int, int]] = []
    position = 2
    try:
        for _ in range(MOST_STEPS):
            marker, length = _segment(head, position)
            start = position + 4
            position += 2 + length
            if length < 2 or position > end:
                return []
            if marker in _SKIPPED:
                continue
            if marker == _SOS:
                return frames + app1 if len(frames) == 1 else []
            if marker in _SOF:
                frames.append((start, position))
            elif marker == _APP1:
                app1.append((start, position))
            elif not _plain(marker, head, start, position):
                return []
    except struct.error:
        return None
    return []


def _plain(marker: int, head: bytes | memoryview, start: int, stop: int) -> bool:
    """Whether Pillow reads on behind a segment; the head may end within it, and the walk then begins anew."""
    if marker == _DQT:  # whole tables of 64 bytes, each behind its number
        return (stop - start) % 65 == 0 and max(head[start:stop:65], default=0) < 16
    shortest = _SHORTEST.get((marker, bytes(head[start : min(start + 4, stop)])), 0)
    return _APP0 <= marker <= 0xFFEF and stop - start >= shortest


class _Layout:
    """Where the segments of a head lie, and all that was looked at to know it, in one struct.

    Files of one encoder share it, so that one comparison takes the place of the walk, in a fifth of its time.
    """

    def __init__(self, head: bytes, segments: list[tuple[int, int]]) -> None:
        self.segments = segments
        form, position, marker, self._end = ">", 2, 0, 0
        while marker != _SOS:
            marker, length = _segment(head, position)
            # Marker, length and what `_plain` looks at: an application's name, the numbers of tables.
            seen = 4 if marker in _SKIPPED or marker in _SOF or marker == _SOS else 8
            if marker == _DQT:
                seen = 5 if length == 67 else length + 2
            seen = min(seen, length + 2)
            form += f"{position - self._end}x{seen}s"
            self._end = position + seen
            position += 2 + length
        self._read, self._stop = struct.Struct(form).unpack_from, position
        self._expected = self._read(head)

    def fits(self, head: bytes, end: int) -> bool:
        return self._stop <= end and self._end <= len(head) and self._read(head) == self._expected


class _Layouts:
    """The layouts of the last heads that were walked: a memory, which changes no answer, for any thread."""

    def __init__(self) -> None:
        self._known: tuple[_Layout, ...] = ()

    def segments(self, head: bytes, end: int) -> list[tuple[int, int]] | None:
        for layout in self._known:
            if layout.fits(head, end):
                return layout.segments
        return None

    def add(self, layout: _Layout) -> None:
        self._known = (layout, *self._known[:3])


_LAYOUTS = _Layouts()


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
    for _ in range(2):  # one of each
        if bytes(data[position : position + 4]) in (b"ICCP", b"ALPH"):
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
