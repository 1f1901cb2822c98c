"""What transformers' processor of a folder makes of a clip, asked in a process of its own.

It imports torchvision, which the tests' processes hide (see `tests/conftest.py`).
`python -m tests.mindvl_train.weights.published.asked_videos` reads folders and clips as JSON and writes arrays.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests import clips

QUESTION = "Where does it go?"


def made_of(folders: Mapping[str, tuple[Path, Path]], out: Path) -> dict[str, dict[str, NDArray[Any]]]:
    """ids, patches, grid, seconds and kinds that the processor of each folder makes of a clip and QUESTION.

    Args:
        folders: the processor's and the file of the clip, by a name.
        out: a folder for the arrays.
    """
    asked = {name: [str(folder), str(clip)] for name, (folder, clip) in folders.items()}
    command = [sys.executable, "-m", __name__, str(out)]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name: dict(np.load(out / f"{name}.npz")) for name in folders}


def main() -> None:
    from tests.torchvision_fits import told

    told()
    for name, (folder, clip) in json.load(sys.stdin).items():
        np.savez(Path(sys.argv[1]) / f"{name}.npz", **_made(folder, Path(clip)))


def _made(folder: str, clip: Path) -> dict[str, Any]:
    from transformers import AutoProcessor
    from transformers.video_utils import VideoMetadata

    processor = AutoProcessor.from_pretrained(folder)
    content = [{"type": "video"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    frames = np.stack(clips.every_frame(clip.read_bytes()))
    metadata = VideoMetadata(total_num_frames=len(frames), fps=10.0, duration=len(frames) / 10)
    made = processor(text=[text], videos=[frames], video_metadata=[[metadata]], return_tensors="np")
    seconds = made.get("second_per_grid_ts", [0.0])
    return {
        "ids": made["input_ids"][0],
        "patches": made["pixel_values_videos"],
        "grid": made["video_grid_thw"][0],
        "seconds": np.asarray(seconds, np.float32),
        "kinds": made["mm_token_type_ids"][0],
    }


if __name__ == "__main__":
    main()
