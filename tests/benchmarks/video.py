"""Frames out of clips: sought, beside decoding everything and (where it loads) torchcodec, in one run.

    python -m tests.benchmarks.video [--hour]

Clips of 10 s, 3 min and, with `--hour`, 1 h (h264 in MP4, 320 x 180, 24 frames a second, a key frame every 2 s), of
which 16 frames are wanted. CPU seconds a clip and resident memory; on a shared machine only their ratios mean much.
"""

from __future__ import annotations

import io
import resource
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import numpy as np

from mindvl_data.vision.video.clip import frames_of
from mindvl_data.vision.video.probe import probe
from mindvl_data.vision.video.reading import read_frames
from tests.clips import drawing

SIZE, RATE, GOP, WANTED = (320, 180), 24, 48, 16


def encoded(seconds: int) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream: Any = output.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.gop_size = GOP
        for number in range(seconds * RATE):
            picture = av.VideoFrame.from_ndarray(drawing(number, *SIZE, 3, 1), format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, RATE)
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    return file.getvalue()


def repeated(data: bytes, times: int) -> bytes:
    """The same clip so many times in a row, without encoding it again."""
    file = io.BytesIO()
    with av.open(io.BytesIO(data)) as source:
        packets = [packet for packet in source.demux(video=0) if packet.size]
        length = source.streams.video[0].duration
    with av.open(file, "w", format="mp4") as output, av.open(io.BytesIO(data)) as source:
        stream = output.add_stream_from_template(source.streams.video[0])
        for number in range(times):
            for packet in packets:
                again = av.Packet(bytes(packet))
                again.pts, again.dts = packet.pts + number * length, packet.dts + number * length
                again.time_base, again.stream, again.is_keyframe = packet.time_base, stream, packet.is_keyframe
                output.mux(again)
    return file.getvalue()


def sought(data: bytes, indices: np.ndarray) -> int:
    return sum(1 for _ in read_frames(data, frames_of(probe(data), indices)))


def sought_known(data: bytes, indices: np.ndarray) -> Callable[[], int]:
    """As a trainer reads: where each frame is stands in the shard."""
    frames = frames_of(probe(data), indices)
    return lambda: sum(1 for _ in read_frames(data, frames))


def everything(data: bytes, indices: np.ndarray) -> int:
    wanted = {*indices.tolist()}
    with av.open(io.BytesIO(data)) as container:
        pictures = (
            frame.to_ndarray(format="rgb24")
            for number, frame in enumerate(container.decode(video=0))
            if number in wanted
        )
        return sum(1 for _ in pictures)


def torchcodec(data: bytes, indices: np.ndarray) -> int:
    from torchcodec.decoders import VideoDecoder

    return len(VideoDecoder(data, num_ffmpeg_threads=1).get_frames_at(indices.tolist()).data)


def cpu(call: Callable[[], int]) -> tuple[float, int]:
    start = time.process_time()
    found = call()
    return time.process_time() - start, found


def main() -> None:
    three = encoded(180)
    made = {"10 s": encoded(10), "3 min": three}
    if "--hour" in sys.argv:
        made["1 h"] = repeated(three, 20)
    for name, data in made.items():
        header = probe(data)
        indices = np.linspace(0, header.frames - 1, WANTED).round().astype(np.int64)
        ways: dict[str, Callable[[], int]] = {
            "sought, as a trainer reads": sought_known(data, indices),
            "header and sought": lambda data=data, indices=indices: sought(data, indices),
            "header alone": lambda data=data: probe(data).frames,
            "everything decoded": lambda data=data, indices=indices: everything(data, indices),
        }
        try:
            from torchcodec.decoders import VideoDecoder  # noqa: F401

            ways["torchcodec"] = lambda data=data, indices=indices: torchcodec(data, indices)
        except Exception as error:  # noqa: BLE001, whatever it lacks
            print(f"torchcodec does not load: {str(error).splitlines()[0]}", file=sys.stderr)
        print(f"{name}: {header.frames} frames, {len(data) / 1e6:.1f} MB")
        for way, call in ways.items():
            seconds, _ = cpu(call)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
            print(f"  {way:28} {seconds:8.3f} CPU s, {1 / seconds:8.1f} clips a CPU second, {memory} MiB at most")


if __name__ == "__main__":
    main()
