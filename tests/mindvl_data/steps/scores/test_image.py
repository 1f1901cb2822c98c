"""Scores of pictures: on real encoded images, through the scan's pointers."""

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageDraw, ImageFilter

from mindvl_data.steps.scores import Wanted
from mindvl_data.steps.scores.compute import Pictures, ScoreTask, score
from mindvl_data.steps.scores.image import perceptual_hashes
from tests.mindvl_data.sources.scanned import Scanned, read


def encoded(image: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def scene(seed: int, size: int = 200) -> Image.Image:
    """Shapes before a gradient: something that has low frequencies of its own."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(np.linspace(0, 255, size * size, dtype=np.uint8).reshape(size, size)).convert("RGB")
    draw = ImageDraw.Draw(image)
    for _ in range(8):
        x, y, r = (int(v) for v in rng.integers(0, size, 3))
        draw.ellipse(
            (x - r // 3, y - r // 3, x + r // 3, y + r // 3), fill=tuple(int(v) for v in rng.integers(0, 255, 3))
        )
    return image.filter(ImageFilter.GaussianBlur(1))


def scanned(folder: Path, images: list[list[bytes]]) -> Scanned:
    rows = [{"texts": [{"user": "what?", "assistant": "that"}], "images": [{"bytes": b} for b in i]} for i in images]
    pl.DataFrame(rows, schema_overrides={"images": pl.List(pl.Struct({"bytes": pl.Binary}))}).write_parquet(
        folder / "fine.parquet"
    )
    return read(folder / "fine.parquet", "finevision")


def column(found: Scanned, name: str) -> list:
    (found.task.samples.parent / "media").mkdir(exist_ok=True)
    media = found.task.media
    if media.exists():
        media.rename(found.task.samples.parent / "media" / media.name)
    out = found.task.samples.parent / f"{name}.parquet"
    pictures = Pictures(found.task.samples.parent, ("",), found.task.samples.parent.parent, 10**8)
    score(ScoreTask(found.task.samples, {out: Wanted(name, name)}, pictures))
    return pl.read_parquet(out)[name].to_list()


def test_blankness_is_the_share_of_the_commonest_tone_of_the_blankest_image(tmp_path: Path) -> None:
    white = encoded(Image.new("RGB", (90, 90), "white"))
    half = encoded(Image.fromarray(np.repeat([[0, 255]], 64, 0).astype(np.uint8).repeat(32, 1)))
    broken = encoded(scene(1), "JPEG")[:-2000]
    found = scanned(tmp_path, [[white], [half], [half, white], [], [half, broken]])
    assert column(found, "blankness") == [1.0, 0.5, 1.0, None, None]


def test_bytes_per_pixel_needs_no_decoding(tmp_path: Path) -> None:
    image = encoded(Image.new("RGB", (90, 60), "white"))
    found = scanned(tmp_path, [[image, image], []])
    assert column(found, "bytes_per_pixel") == [pytest.approx(len(image) / (90 * 60)), None]


def test_pictures_that_look_alike_have_hashes_alike_and_others_have_not() -> None:
    def hashed(image: Image.Image) -> int:
        small = image.convert("L").resize((64, 64), Image.Resampling.BOX)
        return int(perceptual_hashes(np.asarray(small)[None])[0])

    for seed in range(6):
        image, other = scene(seed), scene(seed + 100)
        smaller = Image.open(io.BytesIO(encoded(image.resize((120, 120)), "JPEG", quality=60)))
        assert (hashed(image) ^ hashed(smaller)).bit_count() <= 3
        assert (hashed(image) ^ hashed(other)).bit_count() > 10
    assert hashed(Image.new("L", (64, 64), 0)) == hashed(Image.new("L", (80, 80), 0))
