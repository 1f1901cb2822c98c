"""Intermediate files of a finished build that a disk or a copy has damaged: found when they are used, and made anew."""

import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe
from tests.conftest import QUICKSTART
from tests.end_to_end.test_quickstart import tree

KEPT_BY_STEPS = ("samples", "scores", "tokens", "media")


def nothing(data: bytes) -> bytes:
    return b""


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    where = random.Random(len(data)).randrange(8 * len(data)) if data else 0
    changed = bytearray(data)
    if data:
        changed[where // 8] ^= 1 << where % 8
    return bytes(changed)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart, with a score and a filter that keeps the top of it."""
    folder = Path(shutil.copytree(QUICKSTART, tmp_path_factory.mktemp("recipe") / "quickstart"))
    raw = yaml.safe_load((folder / "recipe.yaml").read_text())
    raw["filters"] = [*raw.get("filters", []), {"name": "longest", "top": 0.9, "of": "words"}]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    build(load_recipe(recipe), out)
    return out


def files_of_steps(out: Path) -> list[Path]:
    return sorted(path for name in KEPT_BY_STEPS for path in (out / name).rglob("*") if path.is_file())


def built_again(recipe: Path, out: Path) -> dict[str, str]:
    """What a build makes of the folder once its sets are gone."""
    for manifest in out.glob("*/manifest.json"):
        shutil.rmtree(manifest.parent)
    build(load_recipe(recipe), out)
    return tree(out)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [nothing, half, flipped])
def test_every_intermediate_file_damaged_at_once(
    recipe: Path, finished: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    for path in files_of_steps(out):
        path.write_bytes(damage(path.read_bytes()))
    assert built_again(recipe, out) == tree(finished)


@pytest.mark.parametrize("place", ["samples/*.parquet", "samples/*.filter-*.npy", "tokens/*/ids.npy", "media/*.bin"])
def test_one_flipped_bit_is_found_named_and_mended(
    recipe: Path, finished: Path, tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    path = next(path for path in sorted(out.glob(place)) if path.stat().st_size)
    path.write_bytes(flipped(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert built_again(recipe, out) == tree(finished)
    assert any("not as it was written; it is made anew" in record.message for record in caplog.records)
