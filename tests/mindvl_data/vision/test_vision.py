"""Sizes, grids and pixels of images, held against Pillow and transformers' processors."""

import io
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from mindvl_data import vision
from mindvl_data.recipe.whole import PROCESSORS
from mindvl_data.runtime import plugins
from mindvl_data.vision import BadImage, Resolution
from mindvl_data.vision.header import _metadata_first, _orientation, open_image, plain_header

# What Pillow says about the broken metadata below.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
QUICKSTART = Path(__file__).parents[3] / "recipes" / "quickstart" / "data"
WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)


@cache
def corpus() -> dict[str, bytes]:
    """Every image of the quickstart under a name of its own."""
    images: dict[str, bytes] = {}
    for path in sorted(QUICKSTART.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith((".jpg", ".png", ".webp")):
                    stream = tar.extractfile(member)
                    assert stream is not None
                    images[f"{path.name}/{member.name}"] = stream.read()
    for row, cells in enumerate(pq.read_table(QUICKSTART / "vqa.parquet")["images"].to_pylist()):
        images |= {f"vqa/{row}.{place}": cell["bytes"] for place, cell in enumerate(cells)}
    images |= {path.name: path.read_bytes() for path in sorted((QUICKSTART / "documents/images").iterdir())}
    return images


def drawing(width: int = 60, height: int = 40) -> Image.Image:
    """A picture that no flip or turn leaves the same: a gradient with a red corner at the top left."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    picture = Image.fromarray(np.stack([x, y, 255 - x], axis=2).astype(np.uint8))
    ImageDraw.Draw(picture).rectangle((0, 0, width // 4, height // 4), fill=RED)
    return picture


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def exif(orientation: object) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def reason(data: bytes, limit: int = vision.MAX_IMAGE_PIXELS) -> str:
    """Why an image is refused: by its header if that is enough, else by its pixels."""
    error = refusal(data, limit)
    assert error is not None
    assert error.detail
    return error.reason


def refusal(data: bytes, limit: int) -> BadImage | None:
    try:
        header = vision.read_header(data, limit)
        grid = vision.patch_grid(header.width, header.height, Resolution())
        vision.decode(data, *grid[1:], max_image_pixels=limit)
    except BadImage as error:
        return error
    return None


def pixel(data: bytes, place: tuple[int, int]) -> tuple[int, ...]:
    colour = vision.load_rgb(data).getpixel(place)
    assert isinstance(colour, tuple)
    return colour


# --- the resize rule

bounds = st.tuples(st.integers(1, 2_000_000), st.integers(1, 2_000_000)).map(sorted)
geometry = st.sampled_from([(14, 2), (16, 2), (14, 1), (7, 4)])
sizes = st.one_of(st.integers(1, 300), st.integers(1, 65_535))


@given(sizes, sizes, bounds, geometry)
@settings(max_examples=1000, deadline=None)
def test_the_resize_rule_is_the_published_one(
    width: int, height: int, pixels: list[int], geometry: tuple[int, int]
) -> None:
    resolution = Resolution(*geometry, *pixels)
    try:
        published = smart_resize(height, width, geometry[0] * geometry[1], *pixels)
    except ValueError:
        with pytest.raises(BadImage, match="aspect_ratio"):
            vision.patch_grid(width, height, resolution)
        return
    assert vision.smart_resize(width, height, resolution) == published[::-1]
    grid = vision.patch_grid(width, height, resolution)
    assert grid == (1, published[0] // geometry[0], published[1] // geometry[0])
    assert (
        vision.num_vision_tokens(*grid, geometry[1]) == published[0] * published[1] // (geometry[0] * geometry[1]) ** 2
    )


@given(st.lists(st.tuples(sizes, sizes), min_size=1, max_size=50), bounds, geometry)
@settings(max_examples=300, deadline=None)
def test_a_column_of_sizes_gives_the_grids_of_its_lines(
    pictures: list[tuple[int, int]], pixels: list[int], geometry: tuple[int, int]
) -> None:
    resolution = Resolution(*geometry, *pixels)
    width, height = np.array(pictures).T
    grids = vision.patch_grids(width, height, resolution)
    expected = []
    for picture in pictures:
        try:
            expected.append(vision.patch_grid(*picture, resolution)[1:])
        except BadImage:
            expected.append((0, 0))
    assert grids.dtype == np.int16
    assert grids.tolist() == [list(grid) for grid in expected]
    tokens = vision.num_vision_tokens(1, grids[:, 0], grids[:, 1], geometry[1])
    assert tokens.tolist() == [vision.num_vision_tokens(1, h, w, geometry[1]) for h, w in expected]


def test_an_empty_column_has_no_grids() -> None:
    none = np.empty(0, np.int32)
    assert vision.patch_grids(none, none, Resolution()).shape == (0, 2)


# --- the quickstart's images


# What each family of the table was published with (`preprocessor_config.json`); our upper bound of the first is lower.
PUBLISHED = {
    "qwen2-vl": {"size": {"shortest_edge": 3136, "longest_edge": 1_003_520}},
    "qwen3-vl": {
        "patch_size": 16,
        "size": {"shortest_edge": 65_536, "longest_edge": 16_777_216},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    },
}


def test_every_shipped_processor_is_held_against_a_published_one() -> None:
    assert plugins.names(PROCESSORS) == sorted(PUBLISHED)


@pytest.mark.parametrize("family", PUBLISHED)
def test_grids_from_the_header_are_those_of_the_decoded_picture_and_of_the_published_processor(family: str) -> None:
    processor, rule = Qwen2VLImageProcessorPil(**PUBLISHED[family]), plugins.load(PROCESSORS, family)
    assert len(corpus()) == 347
    for name, data in corpus().items():
        header = vision.read_header(data)
        picture = vision.load_rgb(data)
        assert picture.size == (header.width, header.height), name
        _, grid_h, grid_w = vision.patch_grid(header.width, header.height, rule)
        assert grid_h * grid_w == processor.get_number_of_image_patches(picture.height, picture.width), name


@pytest.mark.slow
@pytest.mark.parametrize("family", PUBLISHED)
def test_patches_equal_the_published_processor(family: str) -> None:
    processor, rule = Qwen2VLImageProcessorPil(**PUBLISHED[family]), plugins.load(PROCESSORS, family)
    for name, data in list(corpus().items())[::6]:
        header = vision.read_header(data)
        grid = vision.patch_grid(header.width, header.height, rule)
        picture = Image.open(io.BytesIO(data))
        # The processor drops an alpha channel: what it makes of transparency is not what a viewer sees.
        published = processor(vision.load_rgb(data) if picture.has_transparency_data else picture)
        assert published["image_grid_thw"].tolist() == [list(grid)], name
        patches = vision.decode(data, *grid[1:], rule.patch, rule.merge, normalisation=rule.normalisation)
        assert patches.shape == published["pixel_values"].shape, name
        np.testing.assert_allclose(patches, published["pixel_values"], rtol=0, atol=1e-5, err_msg=name)


def test_the_header_of_every_quickstart_image_is_pillows() -> None:
    for name, data in corpus().items():
        with Image.open(io.BytesIO(data)) as image:
            header = vision.read_header(data)
            found = (header.width, header.height, header.format, header.orientation)
            assert found == (*image.size, str(image.format).lower(), 1), name
        assert vision.read_header(memoryview(data)) == header


def test_patches_stand_in_merge_blocks_with_the_frame_doubled() -> None:
    """A picture whose every patch has a grey level of its own tells where each patch went."""
    levels = np.arange(4 * 6, dtype=np.uint8).reshape(4, 6)
    picture = Image.fromarray(np.repeat(np.repeat(levels, 14, 0), 14, 1)).convert("RGB")
    patches = vision.decode(encoded(picture, "png"), 4, 6).reshape(24, 3, 2, 14, 14)
    mean, deviation = 0.48145466, 0.26862954
    seen = np.rint((patches[:, 0, 0, 0, 0] * deviation + mean) * 255).astype(int)
    assert seen.tolist() == levels.reshape(2, 2, 3, 2).transpose(0, 2, 1, 3).ravel().tolist()
    assert patches.dtype == np.float32
    assert (patches[:, :, 0] == patches[:, :, 1]).all()


# --- colour: what a viewer shows


def _black_cross(mode: str) -> Image.Image:
    ground = {"RGBA": (0, 0, 0, 0), "LA": (0, 0)}[mode]
    picture = Image.new(mode, (40, 40), ground)
    ImageDraw.Draw(picture).rectangle((15, 0, 25, 39), fill=(0,) * (len(ground) - 1) + (255,))
    return picture


def _palette_with_clear_level(clear: bytes | int) -> bytes:
    picture = Image.new("P", (40, 40), 0)
    picture.putpalette([0, 0, 0, 0, 0, 0, 255, 0, 0])
    ImageDraw.Draw(picture).rectangle((15, 0, 25, 39), fill=1)
    return encoded(picture, "png", transparency=clear)


def _black_on_clear_black() -> dict[str, bytes]:
    """The same drawing in every way to be transparent: a black bar on a ground that is black where unseen."""
    rgb = Image.new("RGB", (40, 40), (0, 0, 1))
    ImageDraw.Draw(rgb).rectangle((15, 0, 25, 39), fill=BLACK)
    grey = rgb.convert("RGB").split()[2]
    grey_16 = Image.fromarray(np.where(np.asarray(grey) == 1, 7, 0).astype(np.uint16))
    return {
        "RGBA png": encoded(_black_cross("RGBA"), "png"),
        "RGBA webp": encoded(_black_cross("RGBA"), "webp", lossless=True),
        "LA png": encoded(_black_cross("LA"), "png"),
        "LA tiff": encoded(_black_cross("LA"), "tiff"),
        "P with tRNS": _palette_with_clear_level(bytes([0, 255, 255])),
        "P with one clear index": _palette_with_clear_level(0),
        "P gif": encoded(_black_cross("RGBA"), "gif"),
        "RGB with tRNS": encoded(rgb, "png", transparency=(0, 0, 1)),
        "L with tRNS": encoded(grey, "png", transparency=1),
        "16 bits with tRNS": encoded(grey_16, "png", transparency=7),
    }


@pytest.mark.parametrize("kind", _black_on_clear_black())
def test_a_black_drawing_on_a_transparent_ground_is_black_on_white(kind: str) -> None:
    data = _black_on_clear_black()[kind]
    assert (pixel(data, (5, 5)), pixel(data, (20, 20))) == (WHITE, BLACK)


def test_what_is_half_transparent_is_half_white() -> None:
    data = encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 128)), "png")
    assert pixel(data, (0, 0)) == (255, 127, 127)


def test_opaque_modes_keep_their_colours() -> None:
    picture = drawing()
    truth = np.asarray(picture).astype(int)
    grey = np.asarray(picture.convert("L").convert("RGB")).astype(int)
    for data, expected, tolerance in [
        (encoded(picture, "png"), truth, 0),
        (encoded(picture, "bmp"), truth, 0),
        (encoded(picture, "tiff"), truth, 0),
        (encoded(picture, "webp", lossless=True), truth, 0),
        (encoded(picture.convert("L"), "png"), grey, 0),
        (encoded(picture.quantize(256), "png"), truth, 40),
        (encoded(picture, "jpeg", quality=100, subsampling=0), truth, 4),
        (encoded(picture, "jpeg", quality=100, subsampling=0, progressive=True), truth, 4),
        (encoded(picture.convert("CMYK"), "jpeg", quality=100), truth, 8),
        (encoded(picture.convert("CMYK"), "tiff"), truth, 4),
    ]:
        shown = np.asarray(vision.load_rgb(data)).astype(int)
        assert np.abs(shown - expected).max() <= tolerance, data[:16]


def test_one_bit_is_black_and_white() -> None:
    data = encoded(drawing().convert("1"), "png")
    assert set(np.unique(np.asarray(vision.load_rgb(data)))) == {0, 255}


def test_an_inverted_adobe_cmyk_shows_as_pillow_shows_it() -> None:
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "jpeg", quality=100)
    assert b"Adobe" in data
    assert np.abs(np.subtract(pixel(data, (8, 8)), RED)).max() <= 3


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(kind: str) -> None:
    levels = np.linspace(0, 65535, 256 * 4).reshape(4, 256).round().astype(np.uint16)
    shown = np.asarray(vision.load_rgb(encoded(Image.fromarray(levels), kind)))[..., 0]
    assert np.abs(shown - levels / 257).max() <= 0.5
    assert len(np.unique(shown)) == 256


def test_sixteen_bit_colour_keeps_its_range() -> None:
    row = b"\0" + struct.pack(">HHH", 0, 32768, 65535) * 4
    data = png(("IHDR", struct.pack(">IIBBBBB", 4, 1, 16, 2, 0, 0, 0)), ("IDAT", zlib.compress(row)))
    assert pixel(data, (0, 0)) == (0, 128, 255)


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    frames = [Image.new("RGB", (32, 24), colour) for colour in [RED, (0, 255, 0), (0, 0, 255)]]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    header = vision.read_header(data)
    assert (header.width, header.height) == (32, 24)
    assert pixel(data, (3, 3)) == RED


def test_numbers_without_a_stated_range_are_refused() -> None:
    for array in [np.zeros((8, 8), np.float32), np.zeros((8, 8), np.int32)]:
        assert reason(encoded(Image.fromarray(array), "tiff")) == "unreadable_image"


# --- orientation

ORIENTED = {"jpeg": {"quality": 100, "subsampling": 0}, "png": {}, "webp": {"lossless": True}, "tiff": {}}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ORIENTED)
def test_orientation_turns_header_and_pixels_alike(kind: str, orientation: int) -> None:
    data = encoded(drawing(), kind, exif=exif(orientation), **ORIENTED[kind])
    header = vision.read_header(data)
    shown = vision.load_rgb(data)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert header.orientation == orientation
    assert (header.width, header.height) == shown.size == ((40, 60) if orientation >= 5 else (60, 40))
    assert shown.tobytes() == expected.tobytes()


def exif_block(kind: int, count: int, value: bytes, order: str = "<") -> bytes:
    """EXIF with nothing but an orientation of the given TIFF type, count and value."""
    magic = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(order + "HHI", 0x0112, kind, count) + value.ljust(4, b"\0")
    return b"Exif\0\0" + magic + struct.pack(order + "IH", 8, 1) + entry + b"\0\0\0\0"


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
@pytest.mark.parametrize(
    ("block", "orientation"),
    [
        (exif_block(3, 1, b"\6"), 6),
        (exif_block(3, 1, b"\0\6", ">"), 6),
        (exif_block(4, 1, b"\6"), 6),
        (exif_block(1, 1, b"\6"), 1),
        (exif_block(3, 1, b"\0"), 1),
        (exif_block(3, 1, b"\x09"), 1),
        (exif_block(3, 2, b"\6\0\6"), 6),
        (exif_block(2, 2, b"6"), 1),
        (exif_block(3, 0, b"\6"), 1),
        (exif_block(99, 1, b"\6"), 1),
    ],
)
def test_an_orientation_of_another_type_is_read_as_pillow_reads_it(kind: str, block: bytes, orientation: int) -> None:
    data = encoded(drawing(), kind, exif=block, **ORIENTED[kind])
    header = vision.read_header(data)
    assert header.orientation == orientation
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert (header.width, header.height) == expected.size
    assert vision.load_rgb(data).tobytes() == expected.tobytes()


def test_broken_exif_does_not_spoil_the_picture() -> None:
    for block in [
        b"Exif\0\0",
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\x05\0",
    ]:
        for options in [{}, {"dpi": (72, 72)}]:
            data = encoded(drawing(), "jpeg", exif=block, **options)
            assert vision.read_header(data).orientation == 1
            assert vision.load_rgb(data).size == (60, 40)


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_xmp_tells_the_orientation_where_exif_does_not(kind: str) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = encoded(drawing(), kind, xmp=xmp)
    assert vision.read_header(data).orientation == 6
    assert vision.load_rgb(data).size == ImageOps.exif_transpose(Image.open(io.BytesIO(data))).size == (40, 60)


def png(*chunks: tuple[str, bytes]) -> bytes:
    body = [
        struct.pack(">I", len(data)) + name.encode() + data + struct.pack(">I", zlib.crc32(name.encode() + data))
        for name, data in (*chunks, ("IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


@pytest.mark.parametrize("early", [b"", exif(3).tobytes()])
def test_exif_behind_the_pixels_of_a_png_counts_and_is_found_without_decoding(early: bytes) -> None:
    rows = zlib.compress((b"\0" + bytes(range(30))) * 20)
    size = ("IHDR", struct.pack(">IIBBBBB", 30, 20, 8, 0, 0, 0, 0))
    front = [("eXIf", early[6:])] if early else []
    late = ("eXIf", exif(6).tobytes()[6:])
    data = png(size, *front, ("IDAT", rows), late)
    assert vision.read_header(data) == vision.ImageHeader(20, 30, "png", 6)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert vision.load_rgb(data).tobytes() == expected.convert("RGB").tobytes()
    undecodable = png(size, *front, ("IDAT", b"not zlib at all"), late)
    assert vision.read_header(undecodable).orientation == 6


# --- hostile and broken input


def test_what_is_no_image_is_unreadable() -> None:
    for data in [
        b"",
        b"\0",
        b"GIF",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"<svg/>",
        b"\xff\xd8\xff",
    ]:
        assert reason(data) == "unreadable_image"


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif", "bmp", "tiff"])
def test_a_header_cut_short_is_refused_and_pixels_cut_short_are_truncated(kind: str) -> None:
    noise = np.random.default_rng(5).integers(0, 255, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    if kind not in ("webp", "tiff"):
        assert vision.read_header(data[: len(data) // 2]).width == 64
    if kind != "tiff":  # its header stands behind the pixels
        assert reason(data[: len(data) // 2]) == "truncated_image"
    for length in range(1, 24):
        assert reason(data[:length]) in ("unreadable_image", "truncated_image")


def test_a_tiff_without_its_last_pixels_is_truncated() -> None:
    data = bytearray(encoded(drawing(), "tiff"))
    directory = struct.unpack_from("<I", data, 4)[0]
    for entry in range(struct.unpack_from("<H", data, directory)[0]):
        place = directory + 2 + 12 * entry
        if struct.unpack_from("<H", data, place)[0] == 273:  # StripOffsets
            struct.pack_into("<I", data, place + 8, len(data) - 100)
    assert reason(bytes(data)) == "truncated_image"


def test_the_name_of_a_file_does_not_matter_and_its_bytes_do() -> None:
    assert vision.read_header(encoded(drawing(), "webp")).format == "webp"


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif", "bmp", "tiff"])
def test_the_pixel_limit_holds_before_decoding(kind: str) -> None:
    data = encoded(drawing(), kind)
    assert vision.read_header(data, 60 * 40).width == 60
    assert reason(data, 60 * 40 - 1) == "image_too_large"
    with pytest.raises(BadImage, match="image_too_large"):
        vision.decode(data, 2, 2, max_image_pixels=100)


def test_a_bomb_is_refused_and_a_large_picture_raises_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    for side, expected in [(10_000, None), (65_535, "image_too_large")]:
        data = png(("IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), ("IDAT", zlib.compress(b"")))
        if expected:
            assert reason(data) == expected
        else:
            assert vision.read_header(data).width == side
    assert not recwarn.list


def test_pillows_settings_stay_as_they_are() -> None:
    script = (
        "from PIL import Image, ImageFile; before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES;"
        "import sys; from mindvl_data import vision; vision.read_header(open(sys.argv[1], 'rb').read());"
        "assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)"
    )
    image = QUICKSTART / "documents/images/doc-000.png"
    subprocess.run([sys.executable, "-c", script, image], check=True, cwd=QUICKSTART.parents[2])


# --- the short cuts past Pillow


@cache
def plain_images() -> list[bytes]:
    return list(_plain_images())


def _plain_images() -> Iterator[bytes]:
    picture = drawing(90, 70)
    clear = picture.convert("RGBA")
    clear.putalpha(128)
    profile = {"icc_profile": b"\0" * 3000}
    yield encoded(picture, "jpeg")
    yield encoded(picture, "jpeg", progressive=True, exif=exif(6), comment=b"hello", **profile)
    yield encoded(picture.convert("L"), "jpeg", exif=exif(8), dpi=(72, 72), restart_marker_rows=1)
    yield encoded(picture.convert("CMYK"), "jpeg")
    for still in (picture, clear):
        for options in ({}, {"lossless": True}, {"exif": exif(5)}, profile, {"lossless": True, **profile}):
            yield encoded(still, "webp", **options)


def by_pillow(data: bytes) -> tuple[int, int, int] | None:
    """Size as stored and orientation, or None where Pillow refuses the file."""
    try:
        image = open_image(data, vision.MAX_IMAGE_PIXELS)
    except BadImage:
        return None
    orientation = _orientation(image)
    width, height = image.size[::-1] if orientation >= 5 else image.size
    return width, height, orientation


def test_the_walk_answers_for_plain_images_as_pillow_does() -> None:
    answered = 0
    for data in [*plain_images(), *(d for d in corpus().values() if not d.startswith(b"\x89PNG"))]:
        header = plain_header(data)
        answered += header is not None
        if header is not None:
            assert (header.width, header.height, header.orientation) == by_pillow(data)
    assert answered == 4 + 8 + 157


def test_a_header_like_the_last_one_is_looked_at_as_closely() -> None:
    """A table of one byte, which Pillow refuses, in a file that is otherwise one just walked."""
    for data in (data for data in plain_images() if data.startswith(b"\xff\xd8")):
        assert plain_header(data) is not None
        place = data.index(b"\xff\xdb\x00C")
        altered = data[: place + 3] + b"\x03" + data[place + 4 :]
        assert by_pillow(altered) is None
        assert plain_header(altered) is None


@st.composite
def altered_headers(draw: st.DrawFn) -> bytes:
    """A plain image with a few bytes changed, most of them of a marker or a chunk's head, perhaps cut short."""
    data = bytearray(draw(st.sampled_from(plain_images())))
    heads = [place + offset for place in range(700) if data[place : place + 1] == b"\xff" for offset in range(6)]
    places = st.one_of(st.integers(2, 40), st.sampled_from([*heads, 40]), st.integers(2, 700))
    for place in draw(st.lists(places, min_size=1, max_size=3)):
        data[min(place, len(data) - 1)] = draw(st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 255])))
    return bytes(data[: draw(st.one_of(st.just(len(data)), st.integers(3, len(data))))])


@given(altered_headers())
@settings(max_examples=800, deadline=None)
def test_the_walk_never_disagrees_with_pillow_on_altered_headers(data: bytes) -> None:
    header = plain_header(data)
    assert header is None or (header.width, header.height, header.orientation) == by_pillow(data)


@given(st.sampled_from(sorted(_black_on_clear_black())), st.data())
@settings(max_examples=500, deadline=None)
def test_broken_bytes_raise_nothing_but_bad_image(kind: str, draw: st.DataObject) -> None:
    data = bytearray(_black_on_clear_black()[kind])
    for place in draw.draw(st.lists(st.integers(0, len(data) - 1), max_size=4)):
        data[place] = draw.draw(st.integers(0, 255))
    error = refusal(bytes(data), 1_000_000)
    reasons = ("unreadable_image", "image_too_large", "truncated_image", "aspect_ratio")
    assert error is None or error.reason in reasons


def test_png_without_late_metadata_is_not_copied() -> None:
    data = encoded(drawing(), "png", exif=exif(6))
    assert _metadata_first(data) is data
