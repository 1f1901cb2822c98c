"""What transformers' video processors say, asked in a process of its own.

They import torchvision, which the tests' processes hide (see `tests/conftest.py`), because transformers takes another
way through pictures where it finds it. `python -m tests.mindvl_data.vision.video.published` reads questions as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


def answers(questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One process for all questions: what `main` makes of each, a dictionary of `what` and its arguments."""
    command = [sys.executable, "-m", __name__]
    done = subprocess.run(command, input=json.dumps(questions), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def moving(frames: int, height: int, width: int) -> NDArray[np.uint8]:
    """Waves that move, as both sides make them: uint8 [frames, height, width, 3]."""
    frame, y, x, channel = np.ogrid[:frames, :height, :width, :3]
    return (127.5 + 127 * np.sin(x / 9 + y / 7 + frame + channel)).astype(np.uint8)


def main() -> None:
    questions = json.load(sys.stdin)
    json.dump(
        [{"chosen": _chosen, "resized": _resized, "patches": _patches}[q.pop("what")](**q) for q in questions],
        sys.stdout,
    )


@cache
def _processor(family: str) -> Any:
    from tests.torchvision_fits import told

    told()
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    return {"qwen2-vl": Qwen2VLVideoProcessor, "qwen3-vl": Qwen3VLVideoProcessor}[family]()


def _chosen(family: str, frames: int, rate: float, **how: Any) -> dict[str, Any]:
    from transformers.video_utils import VideoMetadata

    metadata = VideoMetadata(total_num_frames=frames, fps=rate)
    return {"indices": np.asarray(_processor(family).sample_frames(metadata, **how)).tolist()}


def _resized(family: str, frames: int, width: int, height: int, capped: bool) -> dict[str, Any]:
    import torch
    from transformers.image_utils import SizeDict

    processor = _processor(family)
    factor = processor.patch_size * processor.merge_size
    try:
        # A picture without memory of its own: its shape alone is looked at.
        video = torch.zeros(1, 1, 1, 1, 1, dtype=torch.uint8).expand(1, frames, 1, height, width)
        processor.__class__.__mro__[1].resize = lambda self, image, size, resample: (size.width, size.height)
        size = processor.resize(
            video, SizeDict(**dict(processor.size)), None, factor=factor, temporal_factor=2, cap_pixels_per_frame=capped
        )
    except ValueError:
        return {"size": None}
    return {"size": list(size)}


def _patches(family: str, frames: int, height: int, width: int, size: dict[str, int]) -> dict[str, Any]:
    video = moving(frames, height, width).transpose(0, 3, 1, 2)
    made = _processor(family)(
        [video], do_sample_frames=False, size=size, cap_pixels_per_frame=False, return_tensors="np"
    )
    values = np.asarray(made["pixel_values_videos"], np.float64)
    return {"grid": np.asarray(made["video_grid_thw"])[0].tolist(), "patches": values.round(6).tolist()}


if __name__ == "__main__":
    main()
