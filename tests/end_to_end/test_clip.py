"""CLIP scores with a small model that the test trains: matched pairs lie above mismatched ones."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from mindvl_data.engines.local import LocalEngine
from mindvl_data.pipeline import asking, build
from mindvl_data.recipe import load_recipe
from mindvl_data.steps.scores import ScoreError
from tests.mindvl_data.crawl import built, crawl, kept, recipe
from tests.torchvision_fits import told

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 50, 220), "yellow": (230, 220, 40)}
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def plain(colour: str, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    noise = rng.integers(-25, 25, (24, 24, 3))
    return Image.fromarray(np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8))


def encoded(colour: str, seed: int = 0) -> bytes:
    out = io.BytesIO()
    plain(colour, seed).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A CLIP of one layer in open_clip's own format, trained to know four colours."""
    told()
    import open_clip

    folder = tmp_path_factory.mktemp("clip")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": preprocess}))
    torch.manual_seed(0)
    model = open_clip.CLIP(**CONFIG)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenise = open_clip.get_tokenizer(f"local-dir:{folder}")
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    texts = tokenise([f"a {colour} square" for colour in COLOURS])
    for step in range(40):
        images = torch.stack([prepare(plain(colour, 100 + step)) for colour in COLOURS])
        logits = 10 * model.encode_image(images, normalize=True) @ model.encode_text(texts, normalize=True).T
        loss = torch.nn.functional.cross_entropy(logits, torch.arange(len(COLOURS)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    yield folder
    sys.modules["torchvision"] = None  # type: ignore[assignment]


def pairs() -> list[dict[str, Any]]:
    """Every colour with its own name, then every colour with another's."""
    names = list(COLOURS)
    own = [{"image": encoded(name, i), "caption": f"a {name} square"} for i, name in enumerate(names)]
    other = [{"image": encoded(name, i + 9), "caption": f"a {names[i - 1]} square"} for i, name in enumerate(names)]
    return [*own, *other]


def test_matched_pairs_score_above_mismatched_ones_and_are_asked_once(tmp_path: Path, clip_folder: Path) -> None:
    crawl(tmp_path / "crawl.parquet", [*pairs(), {"caption": ""}, {"image": encoded("red")[:-40], "caption": "broken"}])
    score = {"by": "clip", "model": str(clip_folder), "batch": 3, "embeddings": True}
    rules = [{"name": "fits", "where": "fit > 0.5", "missing": "drop"}]
    report = built(tmp_path, scores={"fit": score}, filters=rules)
    assert kept(report) == {"0", "1", "2", "3"}
    assert report.work["ask fit"] == 10
    (path,) = (report.out / "scores").glob("fit-*.parquet")
    table = pl.read_parquet(path)
    assert min(table["fit"][:4]) > max(table["fit"][4:8]) + 0.3
    assert table["fit"][8:].to_list() == [None, None]
    cosine = [np.dot(a, b) for a, b in zip(table["fit_image"][:8], table["fit_text"][:8], strict=True)]
    assert table["fit"][:8].to_list() == pytest.approx(cosine, abs=1e-5)
    assert not built(tmp_path, scores={"fit": score}, filters=rules).work
    # Other files with the same content, and one more pair: only that is asked.
    (tmp_path / "crawl.parquet").unlink()
    crawl(tmp_path / "crawl-2.parquet", [{"image": encoded("red", 77), "caption": "a red square"}, *pairs()[:6]])
    moved = built(tmp_path, scores={"fit": score}, filters=rules)
    assert moved.work["ask fit"] == 1
    assert len(kept(moved)) == 5


class Elsewhere(LocalEngine):
    """As a cluster is: what would take the whole machine goes out as tasks, which note their device."""

    elsewhere = True

    def run(self, function: Any, tasks: Any, *rest: Any, device: str = "cpu") -> list[Any]:
        self.devices = [*getattr(self, "devices", []), *[device] * len(tasks)]
        return super().run(function, tasks, *rest)


def test_on_a_cluster_the_same_is_said_by_tasks_of_whole_batches(
    tmp_path: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "TASK_SAMPLES", 4)
    for number in range(2):
        crawl(tmp_path / f"crawl-{number}.parquet", [*pairs(), {"caption": str(number)}], 9 * number)
    scores = {"fit": {"by": "clip", "model": str(clip_folder), "batch": 2, "embeddings": True, "device": "auto"}}
    loaded = load_recipe(recipe(tmp_path, scores=scores, filters=[{"name": "fits", "where": "fit > 0.5"}]))
    here = build(loaded, tmp_path / "here")
    engine = Elsewhere(1)
    there = build(loaded, tmp_path / "there", engine=engine)
    assert there.work == here.work
    assert engine.devices.count("auto") >= 3
    for stage in here.stages:
        files = [(out / stage.name / "manifest.json").read_bytes() for out in (here.out, there.out)]
        assert files[0] == files[1]


def test_a_model_is_asked_only_about_what_is_left_and_a_plan_asks_nobody(tmp_path: Path, clip_folder: Path) -> None:
    crawl(tmp_path / "crawl.parquet", pairs())
    scores = {"fit": {"by": "clip", "model": str(clip_folder)}}
    rules = [
        {"name": "red", "where": "words > 2"},
        {"name": "row", "where": "key <> '0'"},
        {"name": "fit", "where": "fit > 0"},
    ]
    loaded = load_recipe(recipe(tmp_path, scores=scores, filters=rules))
    assert build(loaded, tmp_path / "out", dry_run=True).work["ask fit"] == 0
    assert build(loaded, tmp_path / "out").work["ask fit"] == 7


def test_a_model_that_is_not_there_is_named(tmp_path: Path, clip_folder: Path) -> None:
    crawl(tmp_path / "crawl.parquet", pairs())
    with pytest.raises(ScoreError, match="the CLIP model no-such-model does not load"):
        built(
            tmp_path,
            scores={"fit": {"by": "clip", "model": "no-such-model"}},
            filters=[{"name": "f", "where": "fit > 0"}],
        )
