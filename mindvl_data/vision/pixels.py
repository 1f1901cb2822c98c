"""From an encoded image to patches, normalised or in levels 0..255, as the vision tower takes them.

A pixel on its way is one uint32 of four bytes, red first, the fourth without meaning (see `resample`). What
libjpeg-turbo takes without a word of complaint is decoded by it directly; everything else, broken files among it,
by Pillow, which has the same bytes for both.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mindvl_data.machine_code import compiled
from mindvl_data.vision.bad_image import BadImage
from mindvl_data.vision.header import (
    GREY_16,
    MAX_IMAGE_PIXELS,
    ImageHeader,
    check_size,
    open_image,
    plain_header,
    read_header,
)
from mindvl_data.vision.normalisation import CLIP, Normalisation
from mindvl_data.vision.resample import read_only, resample
from mindvl_data.vision.video.rule import TEMPORAL_PATCH

# So many are made RGB at a time.
STRIP_PIXELS: Final = 1 << 22
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(
    data: bytes | memoryview,
    grid_h: int,
    grid_w: int,
    patch: int = 14,
    merge: int = 2,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    normalisation: Normalisation = CLIP,
) -> NDArray[np.float32]:
    """Patches of an encoded image: float32 [grid_h·grid_w, 3·2·patch·patch], in merge-block order.

    Lines run over (h / merge, w / merge, merge, merge); a line is (channel, frame, y, x) flattened, the one
    frame doubled. Raises BadImage as `read_header` does, and `truncated_image` where the pixels end early.
    """
    pixels = resized_rgb(load_pixels(data, max_image_pixels), grid_h * patch, grid_w * patch)
    return patchify(pixels[None], patch, merge, normalisation)


def uint8_patches(
    data: bytes | memoryview,
    grid_h: int,
    grid_w: int,
    patch: int = 14,
    merge: int = 2,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
) -> NDArray[np.uint8]:
    """`decode` before it is normalised: uint8 [grid_h·grid_w, patch·patch·3] in the same order, the frame once.

    A line is (y, x, channel) flattened. Raises BadImage as `decode` does.
    """
    pixels = resized_rgb(load_pixels(data, max_image_pixels), grid_h * patch, grid_w * patch)
    return frame_levels(pixels, patch, merge)


def resized_rgb(pixels: NDArray[np.uint32], height: int, width: int) -> NDArray[np.uint8]:
    """Pixels [any, any] as levels [height, width, 3], resized by the bicubic rule."""
    return _three_bytes(resample(pixels, height, width))


def frame_levels(pixels: NDArray[np.uint8], patch: int, merge: int) -> NDArray[np.uint8]:
    """Levels [height, width, 3] → patches uint8 [grid_h·grid_w, patch·patch·3] (see `uint8_patches`)."""
    grid_h, grid_w = pixels.shape[0] // patch, pixels.shape[1] // patch
    # Rows of a patch stay whole: that copies runs of bytes, and the channels are parted on the device.
    rows = pixels.reshape(grid_h // merge, merge, patch, grid_w // merge, merge, patch * 3)
    return rows.transpose(0, 3, 1, 4, 2, 5).reshape(grid_h * grid_w, -1)


def _three_bytes(pixels: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """[height, width] as uint8 [height, width, 3]."""
    if pixels.size % 4:
        return np.ascontiguousarray(_bytes(pixels)[:, :, :3])
    packed = np.empty(pixels.size // 4 * 3, np.uint32)
    _drop_fourth_bytes(read_only(pixels).ravel(), packed)
    return packed.view(np.uint8).reshape(*pixels.shape, 3)


def load_pixels(data: bytes | memoryview, max_image_pixels: int = MAX_IMAGE_PIXELS) -> NDArray[np.uint32]:
    """The first frame as `load_rgb` shows it, as pixels [height, width]. Raises BadImage as `decode` does."""
    header = plain_header(data)
    if header and header.format == "jpeg":
        check_size(header.width, header.height, max_image_pixels)
        pixels = _by_turbo(data)
        if pixels is not None:
            return _upright(pixels, header)
    header = header or read_header(data, max_image_pixels)
    image = _loaded(data, max_image_pixels, None)
    try:
        pixels = _pixels(image)
    except Exception as error:
        raise _bad(error) from error
    return _upright(pixels, header)


def _by_turbo(data: bytes | memoryview) -> NDArray[np.uint32] | None:
    import simplejpeg

    try:
        if simplejpeg.decode_jpeg_header(data)[2] not in ("YCbCr", "RGB", "Gray"):
            return None  # four inks, which simplejpeg mixes in its own way
        decoded: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGBX")
    except ValueError:  # a warning is enough: Pillow says what is wrong, or shows the picture all the same
        return None
    return decoded.view(np.uint32)[:, :, 0]


def _pixels(image: Image.Image) -> NDArray[np.uint32]:
    """A loaded picture, composited on white where it is transparent."""
    if image.mode in GREY_16:
        image = _grey_8(image)
    clear = image.has_transparency_data
    mode = "RGBA" if clear else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    stored = np.frombuffer(image.tobytes("raw", "RGBA" if clear else "RGBX"), np.uint32)
    stored = stored.reshape(image.height, image.width)
    return on_white(stored) if clear else stored


def on_white(layer: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """[height, width] of red, green, blue and alpha, composited on white."""
    pixels = np.empty(layer.shape, np.uint32)
    _lay_on_white(read_only(np.ascontiguousarray(layer)).ravel(), pixels.ravel())
    return pixels


def _bytes(pixels: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """[height, width] as [height, width, 4]."""
    return pixels.view(np.uint8).reshape(*pixels.shape, 4)


def _upright(pixels: NDArray[np.uint32], header: ImageHeader) -> NDArray[np.uint32]:
    # Pillow turns a TIFF upright while it loads it.
    if header.orientation == 1 or header.format == "tiff":
        return pixels
    if header.orientation >= 5:
        pixels = pixels.T
    rows, columns = _MIRRORED[header.orientation]
    return pixels[::rows, ::columns]


# Steps through rows and columns, the picture's or from orientation 5 on the transposed one's.
_MIRRORED: Final = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}


@compiled
def _lay_on_white(layer: NDArray[np.uint32], pixels: NDArray[np.uint32]) -> None:
    """Pillow's alpha_composite over opaque white, of pixels in a row: 7 more bits, and its division by 255."""
    for i in range(len(layer)):
        pixel = layer[i]
        alpha = pixel >> 24
        white = 255 * (255 - alpha)
        red = ((pixel & 255) * alpha + white << 7) + (0x80 << 7)
        green = ((pixel >> 8 & 255) * alpha + white << 7) + (0x80 << 7)
        blue = ((pixel >> 16 & 255) * alpha + white << 7) + (0x80 << 7)
        red, green, blue = (red >> 8) + red >> 15, (green >> 8) + green >> 15, (blue >> 8) + blue >> 15
        pixels[i] = red | green << 8 | blue << 16


@compiled
def _drop_fourth_bytes(pixels: NDArray[np.uint32], packed: NDArray[np.uint32]) -> None:
    """Four pixels in a row, of four bytes each, become three words."""
    for i in range(len(pixels) // 4):
        a, b, c, d = pixels[4 * i], pixels[4 * i + 1], pixels[4 * i + 2], pixels[4 * i + 3]
        packed[3 * i] = a & 0xFFFFFF | b << 24
        packed[3 * i + 1] = b >> 8 & 0xFFFF | c << 16
        packed[3 * i + 2] = c >> 16 & 0xFF | d << 8


def load_rgb(
    data: bytes | memoryview, max_image_pixels: int = MAX_IMAGE_PIXELS, at_least: int | None = None
) -> Image.Image:
    """The first frame as a viewer shows it: upright, on white, 8-bit RGB.

    Args:
        data: The image file's bytes.
        max_image_pixels: More are refused before anything is decoded.
        at_least: A JPEG may come at the smallest of its scales whose sides are so many pixels, in a fraction of the
            time.

    Raises:
        BadImage: As `decode` does.
    """
    header = read_header(data, max_image_pixels)
    image = _loaded(data, max_image_pixels, at_least)
    try:
        picture = _on_white(image)
    except Exception as error:
        raise _bad(error) from error
    # Pillow turns a TIFF upright while it loads it.
    if header.orientation == 1 or header.format == "tiff":
        return picture
    return picture.transpose(_TRANSPOSE[header.orientation])


def check_pixels(data: bytes | memoryview, max_image_pixels: int = MAX_IMAGE_PIXELS) -> None:
    """Decodes a picture to see that it can be decoded, in 4 bytes a pixel; a JPEG at an eighth of its size, which reads
    all of the file. Raises BadImage as decode does."""
    read_header(data, max_image_pixels)
    image = _loaded(data, max_image_pixels, 1)
    try:
        _on_white(image.crop((0, 0, 1, 1)))
    except Exception as error:
        raise _bad(error) from error


def _loaded(data: bytes | memoryview, max_image_pixels: int, at_least: int | None) -> Image.Image:
    image = open_image(data, max_image_pixels)
    try:
        if at_least:
            image.draft(None, (at_least, at_least))
        image.load()
    except Exception as error:
        raise _bad(error) from error
    return image


def _bad(error: Exception) -> BadImage:
    """Whatever a codec raises on hostile bytes, it is this image's fault and no neighbour's."""
    return BadImage(_why_not_loaded(error), f"{type(error).__name__}: {error}")


def patchify(
    frames: NDArray[np.uint8], patch: int = 14, merge: int = 2, normalisation: Normalisation = CLIP
) -> NDArray[np.float32]:
    """Levels 0..255 [1 or 2, height, width, 3] → × 1/255, mean and deviation → patches (see `decode`).

    One frame is doubled.
    """
    _, height, width, _ = frames.shape
    grid_h, grid_w = height // patch, width // patch
    blocks = frames.reshape(-1, grid_h // merge, merge, patch, grid_w // merge, merge, patch, 3)
    blocks = blocks.transpose(1, 4, 2, 5, 7, 0, 3, 6).reshape(grid_h * grid_w, 3, len(frames), patch, patch)
    levels = np.arange(256) / 255
    patches = np.empty((grid_h * grid_w, 3, TEMPORAL_PATCH, patch, patch), np.float32)
    for channel, (mean, deviation) in enumerate(zip(*normalisation, strict=True)):
        table = ((levels - mean) / deviation).astype(np.float32)
        patches[:, channel] = table[blocks[:, channel]]
    return patches.reshape(grid_h * grid_w, -1)


def _on_white(image: Image.Image) -> Image.Image:
    """A loaded picture as RGB, composited on white where it is transparent; some rows at a time, so that of a large one
    no more than it and the result are in memory."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    picture = Image.new("RGB", image.size)
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        picture.paste(_strip_on_white(strip), (0, top))
    return picture


def _strip_on_white(image: Image.Image) -> Image.Image:
    if image.mode in GREY_16:
        image = _grey_8(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")


def _grey_8(image: Image.Image) -> Image.Image:
    """16-bit grey in 8 bits, 0..65535 → 0..255 rounded: Pillow's own conversion clips at 255.

    A PNG may declare one level transparent; that one is told apart before the levels are merged.
    """
    levels = np.asarray(image).astype(np.uint32)
    grey = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8)))
    return grey


def _why_not_loaded(error: Exception) -> str:
    truncated = isinstance(error, EOFError) or "truncated" in str(error).lower()
    return "truncated_image" if truncated else "unreadable_image"
