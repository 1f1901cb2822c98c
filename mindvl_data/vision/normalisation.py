"""The mean and deviation that a vision tower expects of its pixels: another family's make wrong pixels."""

from typing import Final, NamedTuple

Channels = tuple[float, float, float]


class Normalisation(NamedTuple):
    """Of red, green and blue on a scale of 0 to 1: pixels become (value / 255 - mean) / deviation."""

    mean: Channels
    deviation: Channels


# The statistics of OpenAI's CLIP, which Qwen2-VL's image processor was published with.
CLIP: Final = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
