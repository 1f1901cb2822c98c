"""Frames that are sought are those of decoding everything, and patches of them those of transformers."""

from __future__ import annotations

import io
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from mindvl_data import vision
from mindvl_data.shards import PackImage
from mindvl_data.vision.bad_image import BadImage
from mindvl_data.vision.media import media_levels, media_patches
from mindvl_data.vision.video.clip import frames_of
from mindvl_data.vision.video.container import NoVideoSupportError
from mindvl_data.vision.video.frame import Frame
from mindvl_data.vision.video.probe import probe
from mindvl_data.vision.video.reading import read_frames
from tests import clips
from tests.mindvl_data.vision.video.published import answers, moving

MADE = {kind: clips.clip(kind) for kind in clips.KINDS}


def rgb(pixels: NDArray[np.uint32]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(pixels).view(np.uint8).reshape(*pixels.shape, 4)[..., :3]


def chosen(data: bytes, indices: list[int]) -> list[Frame]:
    return frames_of(probe(data), np.array(indices, np.int64))


@pytest.mark.parametrize("kind", clips.KINDS)
@settings(max_examples=8, deadline=None)
@given(indices=st.lists(st.integers(0, 29), min_size=1, max_size=6).map(sorted))
def test_sought_frames_are_those_of_full_decoding(kind: str, indices: list[int]) -> None:
    found = [rgb(pixels) for pixels in read_frames(MADE[kind], chosen(MADE[kind], indices))]
    every = clips.every_frame(MADE[kind])
    assert len(found) == len(indices)
    assert all(np.array_equal(picture, every[index]) for picture, index in zip(found, indices, strict=True))


@pytest.mark.parametrize("kind", ["h264.mp4", "h264.avi"])
def test_one_clip_cut_in_several_ways_is_read_again(kind: str) -> None:
    indices = [20, 25, 3, 28, 0]
    found = [rgb(pixels) for pixels in read_frames(MADE[kind], chosen(MADE[kind], indices))]
    every = clips.every_frame(MADE[kind])
    assert all(np.array_equal(picture, every[index]) for picture, index in zip(found, indices, strict=True))


@pytest.mark.parametrize("kind", ["h264.mp4", "h264.mkv"])
@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_turned_clip_is_read_upright(kind: str, rotation: int) -> None:
    data = clips.clip(kind, frames=3, rotation=rotation)
    header = probe(data)
    assert (header.width, header.height) == ((64, 96) if rotation != 180 else (96, 64))
    found = [rgb(pixels) for pixels in read_frames(data, chosen(data, [2]))]
    assert np.array_equal(found[0], np.rot90(clips.every_frame(data)[2], header.rotation // 90))
    assert found[0].shape[:2] == (header.height, header.width)


def test_a_variable_rate_is_read_by_its_time_stamps() -> None:
    stamps = (0, 40, 50, 400, 410, 900, 2000, 2001)
    data = clips.clip("vp9.mkv", frames=8, pts=stamps, time_base=Fraction(1, 1000))
    frames = chosen(data, [1, 3, 7])
    assert [frame.time for frame in frames] == pytest.approx([0.04, 0.4, 2.001])
    found = [rgb(pixels) for pixels in read_frames(data, frames)]
    every = clips.every_frame(data)
    assert all(np.array_equal(a, every[i]) for a, i in zip(found, [1, 3, 7], strict=True))


def test_transparency_is_on_white() -> None:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        stream = output.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "bgra"  # type: ignore[attr-defined]
        pixels = np.zeros((16, 16, 4), np.uint8)
        output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="bgra")))  # type: ignore[attr-defined]
        output.mux(stream.encode(None))  # type: ignore[attr-defined]
    (picture,) = read_frames(file.getvalue(), chosen(file.getvalue(), [0]))
    assert (rgb(picture) == 255).all()


@pytest.mark.parametrize("pixels", ["yuv444p", "yuv422p", "yuv420p10le", "gray"])
def test_odd_pixel_formats_are_read(pixels: str) -> None:
    data = clips.clip("h264.mp4", frames=4, pixels=pixels)
    found = [rgb(picture) for picture in read_frames(data, chosen(data, [1, 3]))]
    assert np.array_equal(found[1], clips.every_frame(data)[3])


def test_a_frame_that_is_not_there_is_an_error_by_name() -> None:
    data = MADE["h264.mp4"]
    with pytest.raises(BadImage, match="frame 7 cannot be decoded"):
        list(read_frames(data, [Frame(7, 0.7, pts=5, key=0)]))
    with pytest.raises(BadImage, match="the clip ends before it"):
        list(read_frames(data, [Frame(99, 9.9)]))


def test_without_pyav_an_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(NoVideoSupportError, match=r"pip install 'mindvl\[video\]'"):
        probe(MADE["h264.mp4"])


def picture_row(pictures: NDArray[np.uint8]) -> tuple[bytes, tuple[Frame, ...]]:
    """A clip that is a row of PNG pictures."""
    data, frames = b"", []
    for number, picture in enumerate(pictures):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        frames.append(Frame(number, number / 2, offset=len(data), size=file.tell()))
        data += file.getvalue()
    return data, tuple(frames)


FAMILIES = {"qwen2-vl": vision.resize.QWEN2_VL, "qwen3-vl": vision.resize.QWEN3_VL}


@pytest.mark.parametrize("family", FAMILIES)
def test_patches_equal_the_published_processors(family: str) -> None:
    rule = FAMILIES[family]
    side = rule.patch * rule.merge * 2
    size = {"shortest_edge": 32 * 32, "longest_edge": 40 * side * side}
    # Of a size that stays, of one that is resized.
    sizes = {"same": (side, 2 * side), "resized": (side + 11, 2 * side - 9)}
    questions = [
        {"what": "patches", "family": family, "frames": 5, "height": h, "width": w, "size": size}
        for h, w in sizes.values()
    ]
    for (name, (height, width)), published in zip(sizes.items(), answers(questions), strict=True):
        data, frames = picture_row(moving(5, height, width))
        t, h, w = published["grid"]
        medium = PackImage(0, (t, h, w), data, frames=(*frames, frames[-1]))
        (patches,) = media_patches([medium], rule.patch, rule.merge, rule.normalisation)
        difference = np.abs(patches - np.array(published["patches"]))
        # Pillow's bicubic filter and torch's have integer weights of other widths: here and there another level.
        level = {"same": 1e-5, "resized": 2.01 / 255 / min(rule.normalisation.deviation)}[name]
        assert difference.max() <= level, name
        assert (difference > level * 0.75).mean() < 0.01, name


@pytest.mark.parametrize("kind", ["h264.mp4", "vp9.webm", "av1.mp4", "mjpeg.avi"])
def test_a_clip_in_one_piece_and_in_pairs_has_the_same_patches(kind: str) -> None:
    data = MADE[kind]
    frames = tuple(chosen(data, [0, 7, 14, 29]))
    whole = PackImage(0, (2, 4, 6), data, frames=frames)
    pairs = [PackImage(0, (1, 4, 6), data, frames=frames[i : i + 2]) for i in (0, 2)]
    for make in (media_patches, media_levels):
        (together,) = make([whole])
        assert np.array_equal(together, np.concatenate(list(make(pairs))))


def test_levels_and_patches_say_the_same() -> None:
    data = MADE["h264.mp4"]
    medium = PackImage(0, (1, 4, 6), data, frames=tuple(chosen(data, [3, 9])))
    (levels,), (patches,) = media_levels([medium]), media_patches([medium])
    mean, deviation = (np.array(values)[:, None, None] for values in vision.CLIP)
    values = levels.reshape(24, 2, 14, 14, 3).transpose(0, 4, 1, 2, 3)
    expected = (values / 255 - mean[..., None]) / deviation[..., None]
    assert np.allclose(expected.reshape(24, -1), patches, atol=1e-6)


def test_pictures_among_clips_are_what_they_are_alone() -> None:
    data, frames = picture_row(moving(2, 40, 40))
    picture = data[: frames[0].size]
    clip = PackImage(0, (1, 4, 4), data, frames=frames)
    made = list(media_patches([PackImage(0, (1, 4, 4), picture), clip, PackImage(0, (1, 4, 4), picture)]))
    assert np.array_equal(made[0], vision.decode(picture, 4, 4))
    assert np.array_equal(made[0], made[2])
    halves = [made[1].reshape(16, 3, 2, 196)[:, :, number] for number in (0, 1)]
    assert np.array_equal(halves[0], made[0].reshape(16, 3, 2, 196)[:, :, 0])
    assert not np.array_equal(*halves)
