"""An image's header: its size as a viewer shows it, read without decoding a pixel."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from mindvl_data.vision.bad_image import BadImage
from mindvl_data.vision.floods import MOST_STEPS, check_gif, check_jpeg, check_tiff, flooded
from mindvl_data.vision.video.container import container_of
from mindvl_data.vision.walk import walk_jpeg, walk_webp

MAX_IMAGE_PIXELS: Final = 178_956_970
GREY_16: Final = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})

_ORIENTATION_TAG = 0x0112
_READABLE = GREY_16 | {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
_JPEG, _PNG, _RIFF = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF"
_PLUGINS: dict[bytes, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    # Not JPEG's factory: the further pictures of a camera's MPO are previews and depth maps.
    _JPEG: JpegImagePlugin.JpegImageFile,
    _PNG: PngImagePlugin.PngImageFile,
    _RIFF: WebPImagePlugin.WebPImageFile,
    b"GIF87a": GifImagePlugin.GifImageFile,
    b"GIF89a": GifImagePlugin.GifImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
    b"II\x2a\x00": TiffImagePlugin.TiffImageFile,
    b"MM\x00\x2a": TiffImagePlugin.TiffImageFile,
}
# Before Pillow opens it; a PNG's chunks are looked at in any case.
_FLOODS: dict[bytes, Callable[[bytes | memoryview], None]] = {
    _JPEG: check_jpeg,
    b"GIF87a": check_gif,
    b"GIF89a": check_gif,
    b"II\x2a\x00": check_tiff,
    b"MM\x00\x2a": check_tiff,
}


class ImageHeader(NamedTuple):
    """Width and height in pixels after `orientation` (EXIF, 1..8) is applied; `format` in lower case."""

    width: int
    height: int
    format: str
    orientation: int


def read_header(data: bytes | memoryview, max_image_pixels: int = MAX_IMAGE_PIXELS) -> ImageHeader:
    """Size, format and orientation of an encoded image; no pixel is decoded.

    Raises BadImage: `unreadable_image`, `image_too_large`, and of a WebP that ends early `truncated_image`.
    """
    if header := plain_header(data):
        check_size(header.width, header.height, max_image_pixels)
        return header
    image = open_image(_metadata_first(data), max_image_pixels)
    orientation = _orientation(image)
    width, height = image.size
    # Pillow gives a TIFF's size as it is after orientation already.
    if orientation >= 5 and image.format != "TIFF":
        width, height = height, width
    return ImageHeader(width, height, str(image.format).lower(), orientation)


def open_image(data: bytes | memoryview, max_image_pixels: int) -> ImageFile.ImageFile:
    """Pillow's image, not loaded yet, within the limit and of a mode that can be made RGB. Raises BadImage.

    Not by `Image.open`: that tries plugins which must not see untrusted bytes (EPS runs Ghostscript), and
    warns by a global limit, which no thread can change for itself.
    """
    magic, plugin = _plugin(bytes(data[:16]))
    if magic in _FLOODS:
        _FLOODS[magic](data)
    try:
        image = plugin(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise BadImage("image_too_large", str(error)) from error
    except Exception as error:
        # Whatever a plugin raises on hostile bytes, it is this image's fault and no neighbour's.
        raise BadImage(_why_not_opened(data), f"{type(error).__name__}: {error}") from error
    check_size(*image.size, max_image_pixels)
    if image.mode not in _READABLE:
        raise BadImage("unreadable_image", f"pixels of mode {image.mode} have no stated range")
    return image


def _plugin(prefix: bytes) -> tuple[bytes, Callable[[io.BytesIO], ImageFile.ImageFile]]:
    for magic, plugin in _PLUGINS.items():
        if prefix.startswith(magic):
            return magic, plugin
    if clip := container_of(prefix):
        raise BadImage("unreadable_image", f"not an image but a video ({clip})")
    raise BadImage("unreadable_image", f"not an image of a known format: it begins with {prefix[:8]!r}")


def check_size(width: int, height: int, max_image_pixels: int) -> None:
    """Raises BadImage `image_too_large`."""
    if width * height > max_image_pixels:
        raise BadImage("image_too_large", f"{width}x{height} is over the limit of {max_image_pixels} pixels")


def _why_not_opened(data: bytes | memoryview) -> str:
    # libwebp takes the whole file or nothing, so an early end shows already here.
    if bytes(data[:4]) == _RIFF and int.from_bytes(data[4:8], "little") + 8 > len(data):
        return "truncated_image"
    return "unreadable_image"


def plain_header(data: bytes | memoryview) -> ImageHeader | None:
    """The header of a JPEG or a WebP of the plain kind; None where Pillow must decide (see `walk`)."""
    magic = bytes(data[:4])
    if magic == _RIFF:
        name, stored = "webp", walk_webp(data)
    elif magic.startswith(_JPEG):
        name, stored = "jpeg", walk_jpeg(data)
    else:
        return None
    if stored is None:
        return None
    width, height, orientation = stored
    if orientation >= 5:
        width, height = height, width
    return ImageHeader(width, height, name, orientation)


def _orientation(image: ImageFile.ImageFile) -> int:
    """EXIF orientation, else that of XMP; 1 where it is absent or makes no sense."""
    try:
        check_tiff(image.info.get("exif", b"").removeprefix(b"Exif\0\0"))
        # Not PngImageFile.getexif: it decodes the picture in search of what stands behind the pixels.
        value = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001 -- broken metadata does not spoil a picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _metadata_first(data: bytes | memoryview) -> bytes | memoryview:
    """A PNG whose EXIF or XMP stands behind its pixels, as one without pixels; anything else as it is."""
    if bytes(data[:8]) != _PNG:
        return data
    chunks = list(_png_chunks(data))
    names = [name for name, _, _ in chunks]
    pixels = names.index(b"IDAT") if b"IDAT" in names else len(names)
    late = [chunk for chunk in chunks[pixels:] if chunk[0] in (b"eXIf", b"iTXt", b"zTXt", b"tEXt")]
    if not late:
        return data
    kept = b"".join(bytes(data[start:stop]) for _, start, stop in chunks[:pixels] + late)
    return _PNG + kept + struct.pack(">I4sI", 0, b"IDAT", zlib.crc32(b"IDAT"))


def _png_chunks(data: bytes | memoryview) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, stop) of every whole chunk of the first frame. Raises BadImage where they are too many."""
    position, seen_pixels = len(_PNG), False
    for _ in range(MOST_STEPS):
        if position + 12 > len(data):
            return
        length, name = struct.unpack_from(">I4s", data, position)
        stop = position + 12 + length
        # The control chunk of an animation's second frame: Pillow reads no further for the first.
        if stop > len(data) or (name == b"fcTL" and seen_pixels):
            return
        yield name, position, stop
        position, seen_pixels = stop, seen_pixels or name == b"IDAT"
    raise flooded("chunks")
