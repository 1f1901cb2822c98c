"""Clips of drawings that move, as PyAV writes them: small, and the same on every machine but for the codec's bytes."""

from __future__ import annotations

import io
from fractions import Fraction
from functools import cache
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

# Every codec in a container that holds it: name of the encoder, of the container, pixels.
KINDS = {
    "h264.mp4": ("libx264", "mp4", "yuv420p"),
    "h264.mkv": ("libx264", "matroska", "yuv420p"),
    "h264.avi": ("libx264", "avi", "yuv420p"),
    "vp9.webm": ("libvpx-vp9", "webm", "yuv420p"),
    "vp9.mkv": ("libvpx-vp9", "matroska", "yuv420p"),
    "vp9.mp4": ("libvpx-vp9", "mp4", "yuv420p"),
    "av1.mp4": ("libsvtav1", "mp4", "yuv420p"),
    "av1.webm": ("libsvtav1", "webm", "yuv420p"),
    "mjpeg.avi": ("mjpeg", "avi", "yuvj420p"),
    "mjpeg.mkv": ("mjpeg", "matroska", "yuvj420p"),
    "mjpeg.mp4": ("mjpeg", "mp4", "yuvj420p"),
}
QUIET = {
    "libsvtav1": {"preset": "12", "svtav1-params": "lp=1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
}


def drawing(frame: int, width: int = 96, height: int = 64, dx: int = 3, dy: int = 0) -> NDArray[np.uint8]:
    """A yellow square that moves on a ground whose colour tells the frame: uint8 [height, width, 3]."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = (frame * 37 % 200, 30, 90)
    side = min(width, height) // 4
    x, y = (8 + dx * frame) % (width - side), (8 + dy * frame) % (height - side)
    picture[y : y + side, x : x + side] = (250, 240, 20)
    return picture


@cache
def clip(
    kind: str = "h264.mp4",
    frames: int = 30,
    rate: Fraction | int = 10,
    size: tuple[int, int] = (96, 64),
    pts: tuple[int, ...] | None = None,
    time_base: Fraction | None = None,
    rotation: int = 0,
    audio: bool = False,
    gop: int = 12,
    pixels: str | None = None,
    dx: int = 3,
    dy: int = 0,
) -> bytes:
    """A clip's file, the same of every call: encoders do not give the same bytes twice.

    pts, in `time_base`: where its time stamps are not those of the rate.
    """
    encoder, container, default = KINDS[kind]
    file = io.BytesIO()
    with av.open(file, "w", format=container, options={"fflags": "+bitexact"}) as output:
        stream: Any = output.add_stream(encoder, rate=Fraction(rate), options=QUIET.get(encoder, {}))
        stream.width, stream.height, stream.pix_fmt = *size, pixels or default
        stream.codec_context.gop_size = gop
        stream.codec_context.time_base = time_base or 1 / Fraction(rate)
        if rotation:
            stream.set_display_rotation(rotation)
        sound = output.add_stream("aac" if container == "mp4" else "libopus", rate=48000) if audio else None
        for number in range(frames):
            picture = av.VideoFrame.from_ndarray(drawing(number, *size, dx, dy), format="rgb24")
            picture.pts = number if pts is None else pts[number]
            picture.time_base = time_base or 1 / Fraction(rate)
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
        if sound:
            _silence(output, sound)
    return file.getvalue()


def _silence(output: Any, stream: Any) -> None:
    for number in range(10):
        frame = av.AudioFrame(format="fltp" if stream.name == "aac" else "flt", layout="stereo", samples=960)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.sample_rate, frame.pts, frame.time_base = 48000, 960 * number, Fraction(1, 48000)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def sound(container: str = "mp4") -> bytes:
    """A file of sound alone."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        _silence(output, output.add_stream("aac", rate=48000))
    return file.getvalue()


def every_frame(data: bytes) -> list[NDArray[np.uint8]]:
    """All pictures of a clip in the order of presentation, as they are stored: what a reader is held against."""
    with av.open(io.BytesIO(data)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
