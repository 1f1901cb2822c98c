"""How long a picture may be for its width: the one limit that the families' resize rules share."""

from typing import Final

from mindvl_data.vision.bad_image import BadImage

MAX_ASPECT: Final = 200


def check_aspect(width: int, height: int) -> None:
    """Raises BadImage `aspect_ratio` where one side is over MAX_ASPECT times the other."""
    if max(height, width) / min(height, width) > MAX_ASPECT:
        raise BadImage("aspect_ratio", f"{width}x{height}: one side is over {MAX_ASPECT} times the other")
