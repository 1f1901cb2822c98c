"""A model opened from a run and from its export answers the same, and the commands that ask it say so."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from mindvl_data.manifest import read_manifest
from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe
from mindvl_data.stream import PackStream
from mindvl_train.answers import asking, shown
from mindvl_train.answers.opened import Opened, open_model
from mindvl_train.cli import app
from mindvl_train.config.loading import load_config
from mindvl_train.data.batch import collate
from mindvl_train.loop.run import train
from mindvl_train.loop.tokenizer_fit import FitError
from mindvl_train.weights.average import average_folders
from mindvl_train.weights.processing import of_manifest, read_processing
from mindvl_train.weights.published.exporting import export_model
from mindvl_train.weights.published.importing import import_model
from tests import clips
from tests.conftest import QUICKSTART
from tests.mindvl_train.short_runs import Stop, StopAt
from tests.mindvl_train.synthetic import mixed_packs, write_data_set

TOKENIZER = QUICKSTART / "tokenizer.json"
QUESTION, ANSWER = "\nWhat is <|im_end|> on this page?", "A red square."
MODEL: dict[str, Any] = {
    "vision": {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2},
    "decoder": {
        "vocab_size": 4096,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 12,
        "qkv_bias": True,
        "mrope_section": [2, 2, 2],
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`page.png`, `data/` with a chat with it and one without, `run/` of one step, and its export `out/`."""
    folder = tmp_path_factory.mktemp("asked")
    rng = np.random.default_rng(2)
    Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((171, 101)).save(folder / "page.png")
    chats = [{"id": name, "conversations": _turns(name)} for name in ("image", "text")]
    chats[0]["image"] = "page.png"
    (folder / "chat.json").write_text(json.dumps(chats))
    recipe = {
        "name": "chat",
        "seed": 1,
        "tokenizer": str(TOKENIZER),
        "resolution": {"patch": 14, "merge": 2, "min_pixels": 3136, "max_pixels": 12845056},
        "sources": {"chat": {"format": "llava", "path": "chat.json", "kind": "document"}},
        "stages": {"sft": {"seq_len": 192, "budget": {"epochs": 1}, "mixture": {"chat": 1.0}}},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    build(load_recipe(folder / "recipe.yaml"), folder / "data")
    stage = {"manifest": "sft-192/manifest.json", "lr": {"*": 1e-2}, "until": {"packs": 1}, "global_batch": 1}
    config = {"name": "chat", "data": str(folder / "data"), "model": {"name": "vlm", "config": MODEL}}
    (folder / "train.yaml").write_text(yaml.safe_dump(config | {"stages": {"sft": stage}}))
    train(load_config(folder / "train.yaml"), "train.yaml", folder / "run")
    export_model(folder / "run", folder / "out", tokenizer=TOKENIZER)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Opened:
    return open_model(folder / "run")


def test_a_run_and_its_export_answer_the_same(folder: Path, run: Opened) -> None:
    exported = open_model(folder / "out")
    for image in (folder / "page.png", None):
        said = asking.answer(run, TOKENIZER, QUESTION, image, 8)
        assert said == asking.answer(exported, None, QUESTION, image, 8)
        assert said


@pytest.mark.parametrize("name", ["image", "text"])
def test_a_prompt_has_the_ids_that_a_build_gives_it(folder: Path, run: Opened, name: str) -> None:
    from tokenizers import Tokenizer

    (pack,) = PackStream(folder / "data" / "sft-192")
    segments = [
        pack.tokens[start:stop].tolist()
        for start, stop in zip(pack.cu_seqlens[:2].tolist(), pack.cu_seqlens[1:3].tolist(), strict=True)
    ]
    built = next(ids for ids in segments if (run.layout.image_pad in ids) == (name == "image"))
    media = shown.picture(run, (folder / "page.png").read_bytes()) if name == "image" else []
    prompt = asking._prompt(run, Tokenizer.from_file(str(TOKENIZER)), QUESTION, media).tokens.tolist()
    assert built[: len(prompt)] == prompt
    assert built[len(prompt) :].count(run.special_ids["im_end"]) == 1


def test_a_set_of_another_tokenizer_is_refused(folder: Path, run: Opened, tmp_path: Path) -> None:
    run.for_set(read_manifest(folder / "data" / "sft-192"))
    other = write_data_set(tmp_path / "other", mixed_packs(2, 24))
    with pytest.raises(FitError, match="is token"):
        run.for_set(read_manifest(other))


def test_a_clip_is_asked_behind_a_picture(folder: Path, run: Opened, tmp_path: Path) -> None:
    """Of a model that was trained without videos: their token is its tokenizer's."""
    clip, page = tmp_path / "clip.mkv", folder / "page.png"
    clip.write_bytes(clips.clip("h264.mkv", frames=8))
    said = asking.answer(run, TOKENIZER, QUESTION, page, 8, clip)
    assert said == asking.answer(open_model(folder / "out"), None, QUESTION, page, 8, clip)
    read = asking._tokenizer(run, TOKENIZER)
    knowing = asking._knowing_videos(run, read)
    media = [*shown.picture(run, page.read_bytes()), *shown.clip(run, clip.read_bytes())]
    prompt = asking._prompt(knowing, read, QUESTION, media)
    assert [image.is_video for image in prompt.images] == [False, True]
    assert len(collate([prompt], knowing.layout).placeholders) == sum(i.num_patches for i in prompt.images) // 4


@pytest.mark.parametrize(("name", "content"), [("gone.mp4", None), ("text.mp4", b"no clip at all, but text")])
def test_a_clip_that_cannot_be_read_is_named(run: Opened, tmp_path: Path, name: str, content: bytes | None) -> None:
    if content:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(asking.AskError, match=name):
        asking.answer(run, TOKENIZER, QUESTION, None, 1, tmp_path / name)


def test_a_set_with_videos_tells_a_model_which_token_is_theirs(run: Opened, tmp_path: Path) -> None:
    stated = {"sha256": run.tokenizer_sha256, "vocab_size": 4096, "special_ids": run.special_ids | {"video_pad": 4095}}
    manifest = read_manifest(write_data_set(tmp_path / "moving", mixed_packs(2, 24), **stated))
    assert run.layout.video_pad is None
    assert run.for_set(manifest).layout.video_pad == 4095


def test_a_model_without_its_tokenizer_says_so(run: Opened) -> None:
    with pytest.raises(asking.AskError, match="--tokenizer"):
        asking.answer(run, None, QUESTION, None, 1)


def test_evaluate_counts_the_answers_of_every_source(folder: Path) -> None:
    found = json.loads(_command("evaluate", folder / "run", folder / "data" / "sft-192", "--json").stdout)
    assert found["total"] == found["sources"]["chat"] == found["kinds"]["document"]
    assert (found["total"]["samples"], found["total"]["answers"]) == (2, 2)
    assert "document" in _command("evaluate", folder / "out", folder / "data" / "sft-192").stdout


def test_resolve_writes_the_best_bounds_into_the_export(folder: Path, tmp_path: Path) -> None:
    bounds = ["--min-pixels", "784,3136", "--max-pixels", "3136,50176", "--generate", "2"]
    where = ["--eval", folder / "data" / "sft-192", "--plot", tmp_path / "p.png", "--write", folder / "out"]
    found = json.loads(_command("resolve", folder / "out", *where, *bounds, "--json").stdout)
    assert len(found["points"]) == 4
    processor = json.loads((folder / "out" / "preprocessor_config.json").read_text())
    assert [processor[name] for name in ("min_pixels", "max_pixels")] == [
        found["best"][name] for name in ("min_pixels", "max_pixels")
    ]
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_what_a_model_is_asked_with_lies_beside_its_weights_wherever_they_go(folder: Path, tmp_path: Path) -> None:
    """A checkpoint, an export, an import of it, an average, a run from that, and what is asked of each."""
    trained = of_manifest(read_manifest(folder / "data" / "sft-192"))
    (checkpoint,) = (folder / "run" / "checkpoints").iterdir()
    export_model(folder / "run", tmp_path / "out", tokenizer=TOKENIZER)
    import_model(tmp_path / "out", None, tmp_path / "model", seed=0)
    average_folders([tmp_path / "model", tmp_path / "model"], None, tmp_path / "mean")
    average_folders([folder / "run", folder / "run"], None, tmp_path / "drawn")
    export_model(tmp_path / "drawn", tmp_path / "mean-out", tokenizer=TOKENIZER)
    for place in (checkpoint, *(tmp_path / name for name in ("out", "model", "mean", "drawn", "mean-out"))):
        assert read_processing(place) == trained
    config = yaml.safe_load((folder / "train.yaml").read_text())
    config["model"] = {"name": "vlm", "weights": str(tmp_path / "mean")}
    config["stages"]["sft"]["until"] = {"packs": 2}
    config["checkpoint"] = {"every_steps": 1}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(Stop):
        train(load_config(tmp_path / "train.yaml"), "train.yaml", tmp_path / "run", [StopAt("step", 2)])
    # Nobody needs the weights any more that the run began from: not to go on, nor to be asked or exported.
    shutil.rmtree(tmp_path / "mean")
    train(load_config(tmp_path / "train.yaml"), "train.yaml", tmp_path / "run")
    export_model(tmp_path / "run", tmp_path / "again")
    assert read_processing(tmp_path / "again") == trained
    for name in ("tokenizer.json", "chat_template.jinja", "preprocessor_config.json", "generation_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert asking.answer(open_model(tmp_path / "run"), None, QUESTION, folder / "page.png", 1) is not None


def test_generate_prints_an_answer_or_one_message(folder: Path, tmp_path: Path) -> None:
    asked = ["generate", folder / "run", QUESTION, "--image", folder / "page.png", "--limit", "3"]
    assert _command(*asked, "--tokenizer", TOKENIZER).stdout.strip()
    (tmp_path / "no.png").write_bytes(b"no picture")
    for wrong, said in [
        (["generate", folder / "run", "?"], "--tokenizer"),
        (["generate", tmp_path, "?"], "neither a model folder"),
        (["generate", folder / "run", "?", "--tokenizer", TOKENIZER, "--image", tmp_path / "no.png"], "no.png"),
    ]:
        result = _command(*wrong, code=2)
        assert said in result.stderr


def _turns(name: str) -> list[dict[str, str]]:
    question = f"<image>{QUESTION}" if name == "image" else QUESTION
    return [{"from": "human", "value": question}, {"from": "gpt", "value": ANSWER}]


def _command(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def test_the_model_is_in_evaluation_on_its_device(run: Opened) -> None:
    assert not run.model.training
    assert run.device == torch.device("cpu")
