"""The scan and what it does with hostile samples: each has a stated outcome, and its neighbours stay."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mindvl_data.pipeline import BuildReport, build
from mindvl_data.recipe import load_recipe
from mindvl_data.steps.scan import Rules, image_files_changed
from tests.benchmarks.scan_memory import megabytes, write_array, write_large_pictures, write_one_picture, write_rows
from tests.mindvl_data.packs import png
from tests.mindvl_data.sources.scanned import Scanned, read


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def picture(mode: str = "RGB", size: tuple[int, int] = (60, 40)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(), "JPEG", exif=exif)


JPEG = encoded(picture(), "JPEG")
# What lies in the file, and the size that is kept or the reason for the drop: from the header, and when decoded.
HOSTILE: dict[str, tuple[Callable[[], bytes], object, object]] = {
    "cmyk.jpg": (lambda: encoded(picture("CMYK"), "JPEG"), (60, 40), (60, 40)),
    "progressive.jpg": (lambda: encoded(picture(), "JPEG", progressive=True), (60, 40), (60, 40)),
    "rotated.jpg": (rotated, (40, 60), (40, 60)),
    "palette.png": (lambda: encoded(picture("P"), "PNG"), (60, 40), (60, 40)),
    "grey16.png": (lambda: encoded(picture("I;16"), "PNG"), (60, 40), (60, 40)),
    "animated.gif": (
        lambda: encoded(picture(), "GIF", save_all=True, append_images=[picture("L")]),
        (60, 40),
        (60, 40),
    ),
    "mislabelled.png": (lambda: JPEG, (60, 40), (60, 40)),
    "zero.jpg": (lambda: b"", "unreadable_image", "unreadable_image"),
    "text.jpg": (lambda: b"<html>404</html>", "unreadable_image", "unreadable_image"),
    "truncated.jpg": (lambda: JPEG[: len(JPEG) // 2], (60, 40), "truncated_image"),
    "header.jpg": (lambda: JPEG[:100], "unreadable_image", "unreadable_image"),
    "thin.png": (lambda: encoded(picture(size=(1000, 4)), "PNG"), "aspect_ratio", "aspect_ratio"),
    "bomb.png": (lambda: encoded(Image.new("1", (20_000, 10_000)), "PNG"), "image_too_large", "image_too_large"),
    "vector.svg": (lambda: b"<svg/>", "unreadable_image", "unreadable_image"),
    "script.eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n", "unreadable_image", "unreadable_image"),
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA file that names every hostile image, a good one between each two."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "good.png").write_bytes(png(1))
    entries = []
    for name, (make, _, _) in HOSTILE.items():
        (folder / name).write_bytes(make())
        entries += [chat(name), chat("good.png")]
    (folder / "data.json").write_text(json.dumps(entries))
    return folder / "data.json"


def chat(*images: str, text: str = "") -> dict[str, object]:
    turns = [{"from": "human", "value": "<image>" * len(images) + text}, {"from": "gpt", "value": "yes"}]
    return {"image": list(images), "conversations": turns}


def outcome(found: Scanned, key: str) -> object:
    if key in found.drops:
        return found.drops[key][0]
    line = found.kept[found.keys.index(key)]
    return line["width"], line["height"]


@pytest.mark.parametrize("decode", [False, True])
def test_every_hostile_image_has_its_stated_outcome(hostile: Path, decode: bool) -> None:
    found = read(hostile, "llava", rules=Rules(decode=decode))
    for number, (name, (_, header, decoded)) in enumerate(HOSTILE.items()):
        assert outcome(found, str(2 * number)) == (decoded if decode else header), name
        assert outcome(found, str(2 * number + 1)) == (56, 56)
    assert found.found == 2 * len(HOSTILE)


def test_limits_are_drops_with_their_reason(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    entries = [chat("a.png"), chat("a.png", "a.png"), chat(text="long" * 10), chat(text="short")]
    (tmp_path / "data.json").write_text(json.dumps(entries))
    found = read(
        tmp_path / "data.json", "llava", rules=Rules(max_image_pixels=56 * 56, max_images=1, max_text_chars=20)
    )
    assert {key: reason for key, (reason, _) in found.drops.items()} == {"1": "too_many_images", "2": "text_too_long"}
    small = read(tmp_path / "data.json", "llava", rules=Rules(max_image_pixels=56 * 56 - 1))
    assert small.drops["0"][0] == "image_too_large"


def test_what_is_no_file_is_missing_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("link.png")
    names = ["pipe.png", "folder.png", "link.png", "x." * 2500, "a\0b", "nul\ud800"]
    (tmp_path / "data.json").write_text(json.dumps([chat(name) for name in names]))
    reasons = [reason for reason, _ in read(tmp_path / "data.json", "llava").drops.values()]
    assert reasons == ["missing_image"] * 3 + ["missing_image", "outside_root", "missing_image"]


def test_a_changed_image_behind_an_unchanged_file_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "data.json").write_text(json.dumps([chat("a.png"), chat("later.png")]))
    task = read(tmp_path / "data.json", "llava").task
    assert not image_files_changed(task)
    (tmp_path / "later.png").write_bytes(png(2))
    assert image_files_changed(task)
    (tmp_path / "later.png").unlink()
    assert not image_files_changed(task)
    (tmp_path / "a.png").write_bytes(png(3, (64, 64)))
    assert image_files_changed(task)


def test_a_build_heals_when_an_image_changes(recipe_folder: Path, tmp_path: Path) -> None:
    loaded = load_recipe(recipe_folder / "recipe.yaml", ["sources.documents.max_bad=0.1"])

    def built() -> BuildReport:
        return build(loaded, tmp_path / "out")

    built()
    assert not built().work
    images = recipe_folder / "data" / "documents" / "images"
    (images / "doc-000.png").write_bytes(png(9, (200, 100)))
    changed = built()
    assert changed.work["scan"] == changed.work["count"] == 1
    assert not built().work
    (images / "doc-001.png").unlink()
    report = built()
    assert sum(line.reasons.get("missing_image", 0) for line in report.funnel) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form", "write", "most"),
    [
        ("data.json", "sharegpt", lambda path: write_array(path, 90_000_000), 220),
        ("pictures.tar", "webdataset", lambda path: write_large_pictures(path, 4000, 160_000), 125),
        ("rows.parquet", "captions", lambda path: write_rows(path, 160, 1_000_000), 150),
        ("picture.parquet", "captions", lambda path: write_one_picture(path, 400), 350),
    ],
    ids=["array", "tar", "rows", "one picture"],
)
def test_a_large_file_is_scanned_in_a_part_of_its_size(
    tmp_path: Path, name: str, form: str, write: Callable[[Path], None], most: int
) -> None:
    """MiB by which the scan's process grows. Full size: tests/benchmarks/scan_memory.py."""
    write(tmp_path / name)
    assert megabytes(tmp_path / name, form)[0] < most
