"""What an image becomes: its size from the header, its grid of patches, and its pixels as patches.

The build counts vision tokens with these functions and the trainer decodes with them, so that the two cannot
disagree. Standard library, numpy and Pillow only; Pillow's global settings are neither read nor changed here.

    bytes ── read_header ──► width, height (upright) ── patch_grid ──► (t, h, w) ── num_vision_tokens
      └───── decode(bytes, h, w): upright → on white → RGB → bicubic → normalised → patches

JPEG, PNG, WebP, GIF, BMP and TIFF are read, whatever a file's name says. Of an animation the first frame
counts; clips are the business of `vision.video`, and `media_patches` makes patches of both. EXIF and XMP
orientation is applied, transparency is composited on white, 16-bit grey is scaled to 8 bits; palettes, one bit,
CMYK and YCbCr become RGB. Everything else is a `BadImage` with its reason.
"""

from mindvl_data.vision.bad_image import BadImage
from mindvl_data.vision.header import MAX_IMAGE_PIXELS, ImageHeader, read_header
from mindvl_data.vision.media import Medium, media_levels, media_patches
from mindvl_data.vision.normalisation import CLIP, Normalisation
from mindvl_data.vision.pixels import check_pixels, decode, load_rgb, patchify, uint8_patches
from mindvl_data.vision.resize import Resolution, num_vision_tokens, patch_grid, patch_grids, smart_resize
from mindvl_data.vision.video.frame import Frame
from mindvl_data.vision.video.rule import VideoRule

__all__ = [
    "CLIP",
    "MAX_IMAGE_PIXELS",
    "BadImage",
    "Frame",
    "ImageHeader",
    "Medium",
    "Normalisation",
    "Resolution",
    "VideoRule",
    "check_pixels",
    "decode",
    "load_rgb",
    "media_levels",
    "media_patches",
    "num_vision_tokens",
    "patch_grid",
    "patch_grids",
    "patchify",
    "read_header",
    "smart_resize",
    "uint8_patches",
]
