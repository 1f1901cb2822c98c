"""Small files that would cost much: each is refused by name, or read within a stated bound, in a second."""

import io
import struct
import subprocess
import sys
import time
import zlib

import pytest
from PIL import Image

from mindvl_data import vision
from mindvl_data.vision import BadImage
from mindvl_data.vision.floods import MOST_COPIES, MOST_STEPS

PNG = b"\x89PNG\r\n\x1a\n"
SIZE = 8 << 20


def encoded(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(out, kind)
    return out.getvalue()


def chunk(name: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I4s", len(data), name) + data + struct.pack(">I", zlib.crc32(name + data))


def tiff_of_overlapping_tags(entries: int = 4000) -> bytes:
    """Every tag's value is the whole file."""
    size = 8 + 2 + 12 * entries
    tags = b"".join(struct.pack("<HHII", 1000 + i, 7, size, 0) for i in range(entries))
    return b"II\x2a\0\x08\0\0\0" + struct.pack("<H", entries) + tags


def webp_of_profiles() -> bytes:
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + b"\x20\0\0\0" + bytes(6) + b"ICCP\0\0\0\0" * (SIZE // 8)
    return b"RIFF" + struct.pack("<I", len(body)) + body


FLOODS = {
    "png of zeros": PNG + bytes(SIZE),
    "png of empty chunks": encoded("png")[:33] + chunk(b"teSt") * (SIZE // 12),
    "png of empty pixels": encoded("png")[:33] + chunk(b"IDAT") * (SIZE // 12),
    "jpeg of comments": b"\xff\xd8" + b"\xff\xfe\0\2" * (SIZE // 4),
    "jpeg of padding": b"\xff\xd8\xff\xfe\0\2" + b"\xff" * SIZE,
    "jpeg of nothing": b"\xff\xd8\xff\xfe\0\2" + bytes(SIZE),
    "gif of comments": encoded("gif")[:13] + b"!\xfe" + b"\1x" * (SIZE // 2),
    "gif of junk": encoded("gif")[:13] + b"\1" * SIZE,
    "tiff of one value": tiff_of_overlapping_tags(),
    "webp of profiles": webp_of_profiles(),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_refused_in_time(name: str) -> None:
    begun = time.process_time()
    with pytest.raises(BadImage) as caught:
        vision.read_header(FLOODS[name])
    assert caught.value.reason == "unreadable_image"
    assert time.process_time() - begun < 2


def test_exif_of_overlapping_tags_is_passed_over() -> None:
    data = encoded("png")
    flooded = data[:33] + chunk(b"eXIf", tiff_of_overlapping_tags()) + data[33:]
    begun = time.process_time()
    assert vision.read_header(flooded) == vision.ImageHeader(40, 30, "png", 1)
    assert time.process_time() - begun < 2


def test_what_is_large_and_no_flood_is_read() -> None:
    """Many pieces of pixels, much metadata, and padding as encoders write it."""
    data = encoded("png")
    assert vision.read_header(data[:33] + chunk(b"IDAT") * (MOST_STEPS // 2) + data[33:]).width == 40
    jpeg = encoded("jpeg")
    segments = (b"\xff\xef" + struct.pack(">H", 60_000) + bytes(59_998)) * 200 + b"\xff" * 1000
    assert vision.read_header(jpeg[:2] + segments + jpeg[2:]).width == 40
    gif = encoded("gif")
    start = 13 + (3 << (gif[10] & 7) + 1 if gif[10] & 0x80 else 0)
    comment = b"!\xfe" + (b"\xff" + bytes(255)) * 2000 + b"\0"
    assert vision.read_header(gif[:start] + comment + gif[start:]).width == 40
    assert vision.read_header(tiff_of_few_tags()).width == 40


def tiff_of_few_tags() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 30)).save(out, "tiff", tiffinfo={270: "x" * (1 << 20)})
    assert MOST_COPIES > 1
    return out.getvalue()


PEAK = """
import resource, sys
from mindvl_data import vision
data = open(sys.argv[1], "rb").read()
getattr(vision, sys.argv[2])(open(sys.argv[3], "rb").read())  # what is loaded once
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
getattr(vision, sys.argv[2])(data)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(("function", "bytes_a_pixel"), [("check_pixels", 4), ("load_rgb", 8)])
def test_a_large_picture_takes_a_stated_memory(
    tmp_path_factory: pytest.TempPathFactory, function: str, bytes_a_pixel: int
) -> None:
    folder, side = tmp_path_factory.mktemp("large"), 6000
    for name, size in (("large.png", side), ("small.png", 8)):
        Image.new("RGBA", (size, size), (9, 8, 7, 6)).save(folder / name, compress_level=1)
    command = [sys.executable, "-c", PEAK, str(folder / "large.png"), function, str(folder / "small.png")]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) << 10
    assert grown < (bytes_a_pixel + 2) * side * side


def test_strips_are_the_whole() -> None:
    """Modes with transparency, of more rows than a strip has."""
    gradient = Image.linear_gradient("L").resize((3000, 3001))
    layer = Image.merge("RGBA", [gradient, gradient.rotate(90, expand=False), gradient, gradient.rotate(180)])
    out = io.BytesIO()
    layer.save(out, "png", compress_level=1)
    white = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    assert vision.load_rgb(out.getvalue()).tobytes() == white.tobytes()
