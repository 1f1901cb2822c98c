"""`format: datasets`: what the library opens, read as rows, with its pictures, labels and splits."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from mindvl_data.manifest import packs_of, read_manifest
from mindvl_data.pipeline import build, check
from mindvl_data.recipe import RecipeError, load_recipe
from mindvl_data.sources import SourceError
from tests.conftest import QUICKSTART
from tests.mindvl_data.packs import png

TALK = [{"role": "user", "content": "<image>what?"}, {"role": "assistant", "content": "a boat"}]


def recipe(folder: Path, load: dict[str, Any], path: str = "set", **source: Any) -> Path:
    made = {"format": "datasets", "path": path, "kind": "any", "load": load, **source}
    stages = {"one": {"seq_len": 512, "budget": {"epochs": 1}, "mixture": {"mine": 1.0}}}
    raw = {"name": "r", "tokenizer": str(QUICKSTART / "tokenizer.json"), "sources": {"mine": made}, "stages": stages}
    (folder / "recipe.yaml").write_text(json.dumps(raw))
    return folder / "recipe.yaml"


def parquet(
    folder: Path, rows: list[dict[str, Any]], features: datasets.Features | None = None, split: str = "train"
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    made = datasets.Dataset.from_list(rows, features=features)
    made.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_s_rows_become_samples_with_their_pictures(tmp_path: Path, streaming: bool) -> None:
    features = datasets.Features(
        {
            "messages": [{"role": datasets.Value("string"), "content": datasets.Value("string")}],
            "images": [datasets.Image()],
        }
    )
    pictures = [png(number, (64, 64)) for number in range(3)]
    rows = [{"messages": TALK, "images": [{"bytes": data, "path": None}]} for data in pictures]
    parquet(tmp_path / "set", rows, features)
    parquet(tmp_path / "set", rows[:1], features, "test")
    loaded = load_recipe(recipe(tmp_path, {"rows": "messages", "streaming": streaming}))
    assert check(loaded, tmp_path / "out").sound
    report = build(loaded, tmp_path / "out", workers=2)
    assert (report.funnel[0].entered, report.funnel[0].left) == (3, 3)
    manifest = read_manifest(tmp_path / "out" / "one-512")
    embedded = sorted(bytes(image.data) for pack in packs_of(manifest) for image in pack.images if image.data)
    assert embedded == sorted(pictures)
    again = build(load_recipe(loaded.path), tmp_path / "out")
    assert not again.work


def test_a_split_and_labels_by_their_names(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = [{"image": {"bytes": png(n, (64, 64)), "path": None}, "label": n % 2} for n in range(4)]
    parquet(tmp_path / "set", rows[:1], features)
    parquet(tmp_path / "set", rows, features, "validation")
    load = {"rows": "captions", "split": "validation"}
    report = build(load_recipe(recipe(tmp_path, load, columns={"caption": "label"})), tmp_path / "out")
    assert report.funnel[0].left == 4
    looked = check(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "other").looked["mine"]
    assert ("cat", True) in looked.rendered


def test_a_folder_of_pictures_with_their_captions(tmp_path: Path) -> None:
    (tmp_path / "set" / "train").mkdir(parents=True)
    lines = []
    for number in range(2):
        (tmp_path / "set" / "train" / f"{number}.png").write_bytes(png(number, (64, 64)))
        lines.append(json.dumps({"file_name": f"{number}.png", "text": f"caption {number}"}))
    (tmp_path / "set" / "train" / "metadata.jsonl").write_text("\n".join(lines))
    report = build(load_recipe(recipe(tmp_path, {"rows": "captions"})), tmp_path / "out")
    assert report.funnel[0].left == 2


def test_a_row_cannot_name_a_file_of_this_machine(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(decode=False), "caption": datasets.Value("string")})
    (tmp_path / "secret.png").write_bytes(png(1, (64, 64)))
    rows = [{"image": {"bytes": None, "path": str(tmp_path / "secret.png")}, "caption": "x y z"}]
    rows += [{"image": {"bytes": png(2, (64, 64)), "path": None}, "caption": "x y z"}] * 2
    parquet(tmp_path / "set", rows, features)
    report = build(load_recipe(recipe(tmp_path, {"rows": "captions"}, max_bad=0.5)), tmp_path / "out")
    assert report.funnel[0].reasons == {"outside_root": 1}


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    parquet(tmp_path / "set", [{"text": "some text"}])
    with pytest.raises(SourceError, match=r"sources\.mine\.path: .*nothing"):
        build(load_recipe(recipe(tmp_path, {"rows": "text", "split": "nothing"})), tmp_path / "out")
    with pytest.raises(SourceError, match="did you mean 'messages'"):
        build(load_recipe(recipe(tmp_path, {"rows": "mesages"})), tmp_path / "out")
    with pytest.raises(RecipeError, match="belong together"):
        load_recipe(recipe(tmp_path, {"rows": "text"}, format="text"))
