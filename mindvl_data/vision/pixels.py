"""From an encoded image to normalised patches, as the vision tower takes them."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mindvl_data.vision.bad_image import BadImage
from mindvl_data.vision.header import GREY_16, MAX_IMAGE_PIXELS, open_image, read_header
from mindvl_data.vision.normalisation import CLIP, Normalisation

TEMPORAL_PATCH: Final = 2

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
    picture = load_rgb(data, max_image_pixels)
    picture = picture.resize((grid_w * patch, grid_h * patch), Image.Resampling.BICUBIC)
    return patchify(np.asarray(picture), patch, merge, normalisation)


def load_rgb(
    data: bytes | memoryview, max_image_pixels: int = MAX_IMAGE_PIXELS, at_least: int | None = None
) -> Image.Image:
    """The first frame as a viewer shows it: upright, on white, 8-bit RGB. Raises BadImage as decode does.

    at_least: a JPEG may come at the smallest of its scales whose sides are so long, in a fraction of the time.
    """
    header = read_header(data, max_image_pixels)
    image = open_image(data, max_image_pixels)
    try:
        if at_least:
            image.draft(None, (at_least, at_least))
        image.load()
        picture = _on_white(image)
    except Exception as error:
        # Whatever a codec raises on hostile bytes, it is this image's fault and no neighbour's.
        raise BadImage(_why_not_loaded(error), f"{type(error).__name__}: {error}") from error
    # Pillow turns a TIFF upright while it loads it.
    if header.orientation == 1 or header.format == "tiff":
        return picture
    return picture.transpose(_TRANSPOSE[header.orientation])


def patchify(
    pixels: NDArray[np.uint8], patch: int = 14, merge: int = 2, normalisation: Normalisation = CLIP
) -> NDArray[np.float32]:
    """Levels 0..255 [height, width, 3] → × 1/255, mean and deviation → patches (see `decode`)."""
    grid_h, grid_w = pixels.shape[0] // patch, pixels.shape[1] // patch
    blocks = pixels.reshape(grid_h // merge, merge, patch, grid_w // merge, merge, patch, 3)
    blocks = blocks.transpose(0, 3, 1, 4, 6, 2, 5).reshape(grid_h * grid_w, 3, patch, patch)
    levels = np.arange(256) / 255
    patches = np.empty((grid_h * grid_w, 3, TEMPORAL_PATCH, patch, patch), np.float32)
    for channel, (mean, deviation) in enumerate(zip(*normalisation, strict=True)):
        table = ((levels - mean) / deviation).astype(np.float32)
        patches[:, channel] = table[blocks[:, channel]][:, None]
    return patches.reshape(grid_h * grid_w, -1)


def _on_white(image: Image.Image) -> Image.Image:
    """A loaded picture as RGB, composited on white where it is transparent."""
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
