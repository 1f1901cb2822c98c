"""How fast files become patches, beside Pillow, with the same bytes.

    python -m tests.benchmarks.pixels FOLDER [--most 300] [--rounds 5]

FOLDER: JPEG and PNG files, at any depth. Pictures per CPU second from bytes to uint8 patches in merge-block order, by
`vision.uint8_patches` and by Pillow (decode, EXIF, white ground, bicubic, cut with numpy), which take turns; the
middle of the rounds, and of their ratios.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mindvl_data import vision
from tests.mindvl_data.vision.test_pixels import by_pillow

Item = tuple[bytes, int, int]


def items(folder: Path, suffixes: Sequence[str], most: int) -> list[Item]:
    """Files with their grids, at the default bounds; those that cannot be used are left out."""
    found: list[Item] = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes):
        data = path.read_bytes()
        try:
            header = vision.read_header(data)
            _, grid_h, grid_w = vision.patch_grid(header.width, header.height, vision.Resolution())
            vision.load_rgb(data)
        except vision.BadImage:
            continue
        found.append((data, grid_h, grid_w))
        if len(found) == most:
            break
    return found


def rate(function: Callable[..., object], pictures: Sequence[Item]) -> float:
    begun = time.process_time()
    for picture in pictures:
        function(*picture)
    return len(pictures) / (time.process_time() - begun)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--most", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"{'':<8}{'files':>7}{'Pillow':>9}{'ours':>9}{'ratio':>7}")
    for name, suffixes in {"JPEG": (".jpg", ".jpeg"), "PNG": (".png",)}.items():
        pictures = items(options.folder, suffixes, options.most)
        if not pictures:
            continue
        assert all(np.array_equal(by_pillow(*one), vision.uint8_patches(*one)) for one in pictures)
        rounds = [(rate(by_pillow, pictures), rate(vision.uint8_patches, pictures)) for _ in range(options.rounds)]
        pillow, ours = (statistics.median(rates) for rates in zip(*rounds, strict=True))
        ratio = statistics.median(ours / pillow for pillow, ours in rounds)
        print(f"{name:<8}{len(pictures):>7}{pillow:>9.0f}{ours:>9.0f}{ratio:>7.2f}", flush=True)


if __name__ == "__main__":
    main()
