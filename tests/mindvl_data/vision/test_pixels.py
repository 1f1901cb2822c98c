"""Patches made by simplejpeg and our kernels are, byte for byte, those of Pillow."""

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from mindvl_data import vision
from mindvl_data.vision import BadImage, Resolution, pixels
from mindvl_data.vision.resample import resample
from tests.mindvl_data.vision.test_vision import corpus, encoded, exif

PATCH, MERGE = 14, 2
# The order of the passes, which decides the rounding, is Pillow 13's.
needs_pillow_13 = pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="rounds by another rule")


def by_pillow(data: bytes, grid_h: int, grid_w: int, patch: int = PATCH, merge: int = MERGE) -> NDArray[np.uint8]:
    picture = vision.load_rgb(data).resize((grid_w * patch, grid_h * patch), Image.Resampling.BICUBIC)
    rows = np.asarray(picture).reshape(grid_h // merge, merge, patch, grid_w // merge, merge, patch * 3)
    return rows.transpose(0, 3, 1, 4, 2, 5).reshape(grid_h * grid_w, -1)


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Smooth enough for a codec, and with values at both ends of the range, where results are clipped."""
    rng = np.random.default_rng(seed)
    channels = len(Image.new(mode, (1, 1)).getbands())
    coarse = rng.integers(0, 2, (max(1, height // 3), max(1, width // 3), channels), np.uint8) * 255
    return Image.frombytes(mode, coarse.shape[1::-1], coarse.tobytes()).resize((width, height), Image.Resampling.BOX)


def rgb(values: NDArray[np.uint32]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(values).view(np.uint8).reshape(*values.shape, 4)[:, :, :3]


def assert_as_pillow(data: bytes) -> None:
    header = vision.read_header(data)
    _, grid_h, grid_w = vision.patch_grid(header.width, header.height, Resolution(max_pixels=100_000))
    assert np.array_equal(vision.uint8_patches(data, grid_h, grid_w), by_pillow(data, grid_h, grid_w))


side = st.integers(1, 150)


@needs_pillow_13
@given(side, side, side, side, st.integers(0, 9))
@settings(max_examples=300, deadline=None)
def test_a_resize_is_pillows_at_any_two_shapes(before: int, across: int, height: int, width: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 256, (before, across, 4), np.uint8)
    values[values < 90] = 0
    found = resample(values.view(np.uint32)[:, :, 0], height, width)
    picture = Image.fromarray(np.ascontiguousarray(values[:, :, :3]))
    assert np.array_equal(rgb(found), picture.resize((width, height), Image.Resampling.BICUBIC))


@needs_pillow_13
@pytest.mark.parametrize("shape", [(3000, 40), (40, 3000), (1000, 999), (1, 1), (17, 2000)])
@pytest.mark.parametrize("to", [(56, 84), (28, 980)])
def test_a_resize_is_pillows_far_from_square(shape: tuple[int, int], to: tuple[int, int]) -> None:
    values = np.random.default_rng(0).integers(0, 256, (*shape, 4), np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(values[:, :, :3]))
    found = resample(values.view(np.uint32)[:, :, 0], *to)
    assert np.array_equal(rgb(found), picture.resize(to[::-1], Image.Resampling.BICUBIC))


@needs_pillow_13
def test_every_picture_of_the_quickstart() -> None:
    for data in corpus().values():
        assert_as_pillow(data)


JPEGS = [
    {"subsampling": 0},
    {"subsampling": 1},
    {"subsampling": 2},
    {"progressive": True},
    {"quality": 5},
    {"restart_marker_rows": 1},
    {"keep_rgb": True, "subsampling": 0},
]


@needs_pillow_13
@pytest.mark.parametrize("options", JPEGS, ids=str)
@pytest.mark.parametrize("size", [(61, 43), (64, 48), (7, 200)])
def test_every_kind_of_jpeg(options: dict[str, object], size: tuple[int, int]) -> None:
    assert_as_pillow(encoded(noise(*size), "jpeg", **options))


@needs_pillow_13
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "YCbCr"])
def test_every_mode_of_a_jpeg(mode: str) -> None:
    assert_as_pillow(encoded(noise(60, 40, mode), "jpeg"))


@needs_pillow_13
@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
def test_every_mode_of_other_formats(mode: str, kind: str) -> None:
    picture = noise(60, 40, "RGB").convert(mode) if mode in ("P", "1") else noise(60, 40, mode)
    assert_as_pillow(encoded(picture.convert("RGB") if (kind, mode) == ("webp", "P") else picture, kind))


@needs_pillow_13
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(orientation: int, kind: str) -> None:
    assert_as_pillow(encoded(noise(60, 40), kind, exif=exif(orientation)))


def test_every_colour_and_transparency_on_white() -> None:
    level, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    layer = Image.fromarray(np.stack([level, 255 - level, alpha, alpha], axis=2))
    found = pixels.load_pixels(encoded(layer, "png"))
    white = Image.new("RGBA", layer.size, "white")
    assert np.array_equal(rgb(found), Image.alpha_composite(white, layer).convert("RGB"))


@needs_pillow_13
@pytest.mark.parametrize(("patch", "merge"), [(16, 2), (14, 1), (8, 3)])
def test_patches_of_other_families(patch: int, merge: int) -> None:
    data, grid = encoded(noise(60, 40), "png"), (2 * merge, 3 * merge)
    found = vision.uint8_patches(data, *grid, patch, merge)
    assert np.array_equal(found, by_pillow(data, *grid, patch, merge))


def outcome(data: bytes, load: object) -> tuple[str, bytes]:
    try:
        return "", np.asarray(load(data)).tobytes()  # type: ignore[operator]
    except BadImage as error:
        return error.reason, b""


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_broken_jpeg_is_what_it_is_to_pillow(draw: st.DataObject) -> None:
    whole = encoded(noise(40, 30), "jpeg", progressive=draw.draw(st.booleans()))
    data = bytearray(whole)
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(2, len(data) - 1))] = draw.draw(st.integers(0, 255))
    broken = bytes(data[: draw.draw(st.integers(len(data) // 2, len(data)))])
    assert outcome(broken, lambda data: rgb(pixels.load_pixels(data))) == outcome(broken, vision.load_rgb)


def test_the_limit_of_pixels_holds_before_a_jpeg_is_decoded() -> None:
    with pytest.raises(BadImage, match="image_too_large"):
        vision.uint8_patches(encoded(noise(60, 40), "jpeg"), 4, 4, max_image_pixels=2000)


def test_a_plain_jpeg_never_reaches_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "open_image", None)
    assert vision.uint8_patches(encoded(noise(60, 40), "jpeg"), 4, 4).shape == (16, 588)
