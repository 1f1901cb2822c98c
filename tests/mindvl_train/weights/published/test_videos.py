"""A clip asked through transformers' processor out of an export, and through ours: the same ids and pixels."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from mindvl_data.vision import Normalisation, VideoRule
from mindvl_train.answers import asking, shown
from mindvl_train.answers.opened import Opened
from mindvl_train.data.batch import collate
from mindvl_train.models.spec import ModelInputs
from mindvl_train.models.vit import VisionConfig
from mindvl_train.weights.published.folder import tokenizer_sha256
from mindvl_train.weights.published.processor import adapt, write_processor
from mindvl_train.weights.published.videos import published_rule, write_video_processor
from tests import clips
from tests.conftest import QUICKSTART
from tests.mindvl_train.synthetic import tiny_model
from tests.mindvl_train.weights.published.asked_videos import QUESTION, made_of
from tests.mindvl_train.weights.published.test_processor import KIND

TOKENIZER = QUICKSTART / "tokenizer.json"
SPECIAL = ("vision_start", "vision_end", "image_pad", "video_pad")
CHATML = {"prefix": "<|im_start|>{role}\n", "suffix": "<|im_end|>\n", "default_system": None}
SIZES = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 1}
TOWERS = {
    "qwen2-vl": VisionConfig(**SIZES),
    "qwen3-vl": VisionConfig(**SIZES, num_position_embeddings=9, patch_size=16, **KIND),
}
# Sides in whole tokens: nothing is resized, which torchvision does a little otherwise than Pillow.
CLIPS = {"qwen2-vl": (112, 84), "qwen3-vl": (96, 64)}
RULES = {
    "qwen2-vl, by the second": VideoRule("qwen2-vl", fps=3, min_pixels=3136),
    "qwen2-vl, few": VideoRule("qwen2-vl", fps=0.1, min_frames=2, min_pixels=3136, total_pixels=705_600),
    "qwen2-vl, so many": VideoRule("qwen2-vl", frames=6, min_pixels=3136),
    "qwen3-vl, odd": VideoRule("qwen3-vl", fps=1.7, min_pixels=4096, max_pixels=786_432),
    "qwen3-vl, most": VideoRule("qwen3-vl", fps=9, max_frames=8, min_pixels=4096, max_pixels=786_432),
    "qwen3-vl, capped": VideoRule("qwen3-vl", min_pixels=4096, max_pixels=786_432, frame_pixels=32_768),
}


@dataclass(frozen=True)
class Asked:
    """What transformers made of the clip, and what answers it here."""

    theirs: dict[str, Any]
    opened: Opened
    clip: bytes


def _data(rule: VideoRule) -> dict[str, Any]:
    resolution = {"patch": 0, "merge": 2, "min_pixels": 3136, "max_pixels": 200_704, "video": rule.described()}
    return {"tokenizer": {"sha256": tokenizer_sha256(TOKENIZER)}, "chat_template": CHATML, "resolution": resolution}


def _folder(folder: Path, name: str, rule: VideoRule) -> Path:
    """As an export writes it: of a model that was drawn, or, of every other, of one that was published."""
    folder.mkdir()
    data, tower = _data(rule), TOWERS[rule.family]
    write_processor(TOKENIZER, data, tower, folder)
    if "so many" not in name and "most" not in name:
        return folder
    # One that says otherwise, in transformers' newest form.
    other = replace(rule, fps=5.0, frames=None, max_frames=4, max_pixels=50_176)
    write_video_processor(folder, other, tower)
    whole = json.loads((folder / "video_preprocessor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps({"video_processor": whole}))
    adapt(folder, data, {}, tower)
    return folder


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Asked]:
    home = tmp_path_factory.mktemp("asked")
    folders, opened, files = {}, {}, {}
    for number, (name, rule) in enumerate(RULES.items()):
        files[name] = home / f"{number}.mp4"
        files[name].write_bytes(clips.clip("h264.mp4", size=CLIPS[rule.family]))
        folders[name] = _folder(home / str(number), name, rule)
        opened[name] = _opened(rule, folders[name])
    theirs = made_of({name: (folder, files[name]) for name, folder in folders.items()}, home)
    return {name: Asked(theirs[name], opened[name], files[name].read_bytes()) for name in RULES}


def _opened(rule: VideoRule, folder: Path) -> Opened:
    tower = TOWERS[rule.family]
    model = tiny_model(vision=tower.model_dump())
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    ids = {
        name: tokenizer.token_to_id(f"<|{name}|>") for name in ("vision_start", "vision_end", "image_pad", "video_pad")
    }
    normalisation = Normalisation(tower.mean, tower.deviation)
    inputs = ModelInputs(4096, tower.patch_size, 2, normalisation)
    return Opened(model, inputs.layout(ids), torch.device("cpu"), ids, _data(rule), folder, inputs)


@pytest.mark.parametrize("name", RULES)
def test_a_clip_has_the_ids_patches_and_times_of_transformers(asked: dict[str, Asked], name: str) -> None:
    theirs, opened, data = asked[name].theirs, asked[name].opened, asked[name].clip
    media = shown.clip(opened, data)
    prompt = asking._prompt(opened, Tokenizer.from_file(str(TOKENIZER)), QUESTION, media)
    assert prompt.tokens.tolist() == theirs["ids"].tolist()
    batch = collate([prompt], opened.layout)
    assert batch.placeholders.tolist() == np.flatnonzero(theirs["kinds"] == 2).tolist()
    assert sum(image.grid[0] for image in prompt.images) == theirs["grid"][0]
    assert prompt.images[0].grid[1:] == tuple(theirs["grid"][1:])
    torch.testing.assert_close(batch.patches, torch.from_numpy(theirs["patches"]), atol=1e-6, rtol=0)
    assert np.float32(prompt.images[0].seconds_per_grid) == theirs["seconds"][0]


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_read_back_from_the_processor(asked: dict[str, Asked], name: str) -> None:
    rule, opened = RULES[name], asked[name].opened
    assert published_rule(opened.homes, TOWERS[rule.family]) == rule
