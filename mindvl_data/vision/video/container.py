"""Opening a container: the demuxer by the first bytes, out of memory, and nothing else on the machine or the network.

FFmpeg opens more than clips: playlists that name other files and URLs, concatenations, devices. None of them is among
the demuxers here, and no protocol is allowed, so that what a clip says can lead nowhere.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from mindvl_data.errors import UserError
from mindvl_data.vision.bad_image import BadImage

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

INSTALL: Final = "reading video needs PyAV: pip install 'mindvl[video]'"
BUFFER_BYTES: Final = 1 << 18
# What stands before the pictures of a Matroska is within these.
HEAD_BYTES: Final = 1 << 16
_PACKET_BYTES = 188
_SEGMENT = b"\x18\x53\x80\x67"


class NoVideoSupportError(UserError):
    """PyAV is not installed."""


def container_of(prefix: bytes) -> str | None:
    """FFmpeg's name of the container whose file begins so (at least 16 bytes); None of what is no clip."""
    if prefix[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"):
        return "mp4"
    if prefix[:4] == b"RIFF" and prefix[8:12] == b"AVI ":
        return "avi"
    for magic, name in _MAGIC.items():
        if prefix.startswith(magic):
            return name
    # A transport stream has this byte in front of every packet.
    transport = prefix[:1] == b"G" and prefix[_PACKET_BYTES : _PACKET_BYTES + 1] == b"G"
    return "mpegts" if transport else None


_MAGIC: Final = {
    b"\x1a\x45\xdf\xa3": "matroska",
    b"OggS": "ogg",
    b"FLV\x01": "flv",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
    b"\x00\x00\x01\xba": "mpeg",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
}
PREFIX_BYTES: Final = _PACKET_BYTES + 1


def has_pyav() -> bool:
    """Whether PyAV is there."""
    try:
        import av  # noqa: F401
    except ImportError:
        return False
    return True


class _View(io.RawIOBase):
    """A file over bytes that lie in memory or in a memory map, which are not copied."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data, self._at = memoryview(data), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence]
        self._at = max(0, start + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = len(self._data) if size < 0 else self._at + size
        found = bytes(self._data[self._at : end])
        self._at += len(found)
        return found


@contextmanager
def opened(data: bytes | memoryview) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its video stream.

    Raises:
        BadImage: `truncated_video` where the file is shorter than it says; `unreadable_video` where the bytes are no
            clip, have no video, or FFmpeg says anything against them within the block.
        NoVideoSupportError: PyAV is not installed.
    """
    name = container_of(bytes(data[:PREFIX_BYTES]))
    if name is None:
        raise BadImage("unreadable_video", f"not a video of a known container: it begins with {bytes(data[:8])!r}")
    if _ends_early(data, name):
        raise BadImage("truncated_video", f"{name}: the file ends before it says it does")
    try:
        import av
    except ImportError as error:
        raise NoVideoSupportError(INSTALL) from error
    try:
        with av.open(_View(data), "r", format=name, options=_OPTIONS, buffer_size=BUFFER_BYTES) as container:
            yield container, _video_stream(container)
    except BadImage:
        raise
    except (av.FFmpegError, ValueError, OverflowError, MemoryError, ArithmeticError, IndexError) as error:
        raise BadImage("unreadable_video", f"{name}: {type(error).__name__}: {error}") from error


_OPTIONS: Final = {"protocol_whitelist": "none", "enable_drefs": "0", "use_absolute_path": "0"}


def _video_stream(container: InputContainer) -> Any:
    """The first stream of moving pictures: the cover of a song is none."""
    import av

    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        held = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise BadImage("unreadable_video", f"no video in it, but {held}")
    # Of a codec that this FFmpeg cannot decode the context is missing.
    if streams[0].codec_context is None:
        raise BadImage("unreadable_video", "its codec is not known to FFmpeg")
    return streams[0]


def _ends_early(data: bytes | memoryview, container: str) -> bool:
    """Whether there are fewer bytes than the container says itself."""
    if container == "mp4":
        return any(stop > len(data) for _, _, stop in boxes(data, 0, len(data)))
    if container == "avi":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if container == "matroska":
        return _segment_end(bytes(data[:HEAD_BYTES])) > len(data)
    return False


def _segment_end(head: bytes) -> int:
    """Where a Matroska's segment ends (RFC 8794, 6.4: sizes of one to eight bytes); 0 where it does not say."""
    start = head.find(_SEGMENT) + len(_SEGMENT)
    if start < len(_SEGMENT) or start >= len(head) or not head[start]:
        return 0
    length = 9 - head[start].bit_length()
    size = int.from_bytes(head[start : start + length]) & (1 << 7 * length) - 1
    unknown = size == (1 << 7 * length) - 1
    return 0 if unknown else start + length + size


def boxes(data: bytes | memoryview, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start of its content, stop) of the boxes of an MP4 in a range; the last may stop behind the range."""
    while start + 8 <= end:
        size, kind = int.from_bytes(data[start : start + 4]), bytes(data[start + 4 : start + 8])
        head = 8
        if size == 1:
            size, head = int.from_bytes(data[start + 8 : start + 16]), 16
        size = end - start if size == 0 else size
        if size < head:
            return
        yield kind, start + head, start + size
        start += size
