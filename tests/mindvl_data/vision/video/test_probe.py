"""What a header says of a clip without decoding it, and what becomes of files that are none or lie."""

from __future__ import annotations

import io
import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mindvl_data.vision.bad_image import BadImage
from mindvl_data.vision.header import read_header
from mindvl_data.vision.video.container import container_of
from mindvl_data.vision.video.probe import probe
from mindvl_data.vision.video.rule import QWEN2_VIDEO, QWEN3_VIDEO
from tests import clips

REASONS = {"unreadable_video", "truncated_video", "image_too_large", "video_too_long"}
MADE = {kind: clips.clip(kind) for kind in clips.KINDS}


@pytest.mark.parametrize("kind", clips.KINDS)
def test_the_header_says_what_decoding_finds(kind: str) -> None:
    header = probe(MADE[kind])
    assert header.frames == len(clips.every_frame(MADE[kind])) == 30
    assert (header.width, header.height, header.rotation) == (96, 64, 0)
    assert header.codec == kind.partition(".")[0]
    assert (header.rate, header.variable, header.has_audio) == (10.0, False, False)
    assert header.duration == pytest.approx(3.0)
    assert header.times().tolist() == pytest.approx([i / 10 for i in range(30)])


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from([*clips.KINDS]),
    frames=st.integers(1, 40),
    rate=st.sampled_from([1, 12, 25, Fraction(30000, 1001)]),
    gop=st.integers(1, 20),
)
def test_frames_and_tokens_by_the_header_are_those_of_the_decoded_clip(
    kind: str, frames: int, rate: Fraction, gop: int
) -> None:
    data = clips.clip(kind, frames=frames, rate=rate, gop=gop)
    header, every = probe(data), clips.every_frame(data)
    assert header.frames == len(every) == frames
    for rule in (QWEN2_VIDEO, QWEN3_VIDEO):
        sizes = [rule.resized(frames, *size, 28) for size in ((header.width, header.height), every[0].shape[1::-1])]
        assert sizes[0] == sizes[1]
        assert rule.chosen(header.frames, header.rate).max() < len(every)


@pytest.mark.parametrize("kind", ["h264.mp4", "vp9.webm"])
def test_sound_is_found(kind: str) -> None:
    header = probe(clips.clip(kind, audio=True))
    assert header.has_audio
    assert header.frames == 30


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(25), Fraction(24000, 1001), Fraction(60)])
@pytest.mark.parametrize("kind", ["h264.mp4", "h264.mkv", "vp9.webm"])
def test_a_constant_rate_is_the_headers(kind: str, rate: Fraction) -> None:
    header = probe(clips.clip(kind, frames=40, rate=rate))
    assert header.rate == pytest.approx(float(rate), rel=1e-3)
    assert not header.variable


def test_a_variable_rate_has_the_times_of_its_stamps() -> None:
    stamps = (0, 40, 50, 400, 410, 900, 2000, 2001)
    header = probe(clips.clip("vp9.mkv", frames=8, pts=stamps, time_base=Fraction(1, 1000)))
    assert header.variable
    assert header.times() == pytest.approx(np.array(stamps) / 1000)
    assert header.rate == pytest.approx(7 / 2.001)


@pytest.mark.parametrize("kind", [kind for kind in clips.KINDS if kind != "h264.mp4"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.97])
def test_a_file_that_was_cut_is_said_to_be(kind: str, share: float) -> None:
    data = MADE[kind]
    with pytest.raises(BadImage, match="truncated_video"):
        probe(data[: int(len(data) * share)])


def test_a_lying_duration_is_not_believed() -> None:
    data = bytearray(MADE["h264.mp4"])
    for name, offset in ((b"mvhd", 20), (b"mdhd", 20), (b"tkhd", 24)):
        at = data.index(name) + offset
        data[at : at + 4] = struct.pack(">I", 2**31 - 1)
    header = probe(bytes(data))
    assert header.frames == 30
    assert header.duration == pytest.approx(3.0)


@pytest.mark.parametrize("rate", [0, 10**6])
def test_an_impossible_rate_is_that_of_the_stamps(rate: int) -> None:
    data = bytearray(MADE["mjpeg.avi"])
    # Scale and rate of the stream's header: rate / scale frames a second.
    at = data.index(b"vidsMJPG") + 20
    data[at : at + 8] = struct.pack("<II", 1, rate)
    try:
        header = probe(bytes(data))
    except BadImage as error:
        assert error.reason == "unreadable_video"  # noqa: PT017, either outcome is stated
    else:
        assert header.frames == 30
        assert np.isfinite(header.duration)
        assert 0 < header.rate <= 10**6


def test_negative_and_repeated_time_stamps() -> None:
    stamps = (-300, -200, -100, 0, 100, 200)
    header = probe(clips.clip("vp9.mkv", frames=6, pts=stamps, time_base=Fraction(1, 1000)))
    assert header.frames == 6
    assert header.times()[0] == 0.0
    repeated = repeated_stamps()
    header = probe(repeated)
    # Of frames with one time stamp the first is shown.
    assert header.frames == 4
    assert header.pts is not None
    assert (np.diff(header.pts) > 0).all()


def repeated_stamps() -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        stream = output.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"  # type: ignore[attr-defined]
        for number, stamp in enumerate([0, 100, 100, 200, 200, 300]):
            picture = av.VideoFrame.from_ndarray(clips.drawing(number), format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, 10)
            for packet in stream.encode(picture):  # type: ignore[attr-defined]
                packet.pts = packet.dts = stamp
                packet.time_base = Fraction(1, 1000)
                output.mux(packet)
    return file.getvalue()


def test_sound_alone_and_a_cover_are_no_clip() -> None:
    with pytest.raises(BadImage, match="unreadable_video: no video in it, but audio"):
        probe(clips.sound())


def test_a_container_without_frames_is_no_clip() -> None:
    with pytest.raises(BadImage, match="unreadable_video"):
        probe(clips.clip("h264.mkv", frames=0))


def test_a_picture_is_no_clip_and_a_clip_no_picture() -> None:
    file = io.BytesIO()
    Image.new("RGB", (20, 20)).save(file, "PNG")
    with pytest.raises(BadImage, match="not a video of a known container"):
        probe(file.getvalue())
    with pytest.raises(BadImage, match=r"unreadable_image: .*a video \(mp4\)"):
        read_header(MADE["h264.mp4"])


def test_a_playlist_opens_nothing() -> None:
    for text in (b"#EXTM3U\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n", b"<MPD></MPD>"):
        assert container_of(text) is None
        with pytest.raises(BadImage, match="unreadable_video"):
            probe(text)


def test_limits_hold() -> None:
    with pytest.raises(BadImage, match="video_too_long: more than 20 frames"):
        probe(MADE["h264.mp4"], max_frames=20)
    with pytest.raises(BadImage, match="image_too_large"):
        probe(MADE["h264.mp4"], max_image_pixels=1000)


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from([*clips.KINDS]), seed=st.integers(0, 2**32 - 1), times=st.integers(1, 20))
def test_damaged_bytes_are_a_reason_or_a_header_and_never_a_crash(kind: str, seed: int, times: int) -> None:
    draw = np.random.default_rng(seed)
    data = bytearray(MADE[kind])
    head = draw.random() < 0.7
    for at in draw.integers(0, min(len(data), 1500) if head else len(data), times).tolist():
        data[at] = int(draw.integers(256))
    try:
        header = probe(bytes(data))
    except BadImage as error:
        assert error.reason in REASONS  # noqa: PT017, either is an outcome
    else:
        assert header.frames > 0
        assert header.rate > 0
        assert np.isfinite(header.times()).all()
        assert (np.diff(header.times()) > 0).all()
