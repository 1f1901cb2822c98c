"""A small model trained on clips sees which way things go: it answers what was held out, and no longer once the frames
of a clip are shuffled in time."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe
from tests.conftest import QUICKSTART
from tests.end_to_end import moving
from tests.end_to_end.test_drawings import RUN as DRAWINGS_RUN
from tests.end_to_end.test_drawings import _accuracy, _finished, _read, _script, _start

pytestmark = pytest.mark.slow
NUMBER, SEED = 1000, 2
USES = ("heldout", "shuffled")
RECIPE: dict[str, Any] = {
    "name": "moving",
    "seed": 1,
    "tokenizer": "tokenizer.json",
    "chat_template": "qwen2-vl",
    "media": "embed",
    "video": {"frames": moving.TRACKS**2, "min_pixels": 784, "max_pixels": 50176},
    "sources": {
        "questions": {"format": "llava", "path": "questions.json", "kind": "instruction"},
        **{
            f"{use}-{kind}": {"format": "llava", "path": f"{use}-{kind}.json", "kind": kind}
            for use in USES
            for kind in moving.KINDS
        },
    },
    "stages": {
        "sft": {"seq_len": 512, "budget": {"epochs": 1}, "mixture": {"questions": 1}},
        **{
            use: {
                "seq_len": 512,
                "budget": {"epochs": 1},
                "mixture": {f"{use}-{kind}": 1 / len(moving.KINDS) for kind in moving.KINDS},
            }
            for use in USES
        },
    },
}
TOWER, DECODER = (DRAWINGS_RUN["model"]["config"][part] for part in ("vision", "decoder"))
RUN: dict[str, Any] = DRAWINGS_RUN | {
    "name": "moving",
    "model": {
        "name": "vlm",
        "config": {
            # From pair to pair of frames is a quarter of a second, and one position.
            "vision": TOWER | {"tokens_per_second": 4},
            # The vocabulary is the data's.
            "decoder": {key: value for key, value in DECODER.items() if key != "vocab_size"},
        },
    },
    "stages": {
        "sft": {
            "manifest": "sft-512/manifest.json",
            "lr": {"*": 2.0e-3},
            "schedule": {"name": "wsd", "warmup": 0.02, "decay": 0.2, "floor": 0.1},
            "until": {"epochs": 20},
        }
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, their tokenizer, and the packed sets in `built/`."""
    folder = tmp_path_factory.mktemp("moving") / "data"
    moving.write(folder, NUMBER, seed=1)
    trainer = _script(QUICKSTART / "train_tokenizer.py")
    roles = {"human": "user", "gpt": "assistant"}
    texts = [sample["conversations"] for sample in _read(folder / "questions.json")]
    corpus = (text for turns in texts for text in trainer.turns((roles[turn["from"]], turn["value"]) for turn in turns))
    trainer.train(corpus, vocabulary=400).save(str(folder / "tokenizer.json"))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    build(load_recipe(folder / "recipe.yaml"), folder / "built")
    return folder


@pytest.fixture(scope="module")
def accuracy(folder: Path) -> dict[str, dict[str, float]]:
    """Right answers by set and by kind of question."""
    (folder / "train.yaml").write_text(yaml.safe_dump(RUN, sort_keys=False))
    data = f"data={folder / 'built'}"
    _finished(_start("run", folder / "train.yaml", "--set", f"seed={SEED}", "--set", data, "--out", folder / "run"))
    return {use: _accuracy(folder / "run", folder, use) for use in USES}


def test_no_combination_that_is_asked_was_trained_on() -> None:
    everything = moving.movings(NUMBER, seed=1)
    tested = {each.combination for each in everything if moving.held_out(each)}
    assert tested
    assert not tested & {each.combination for each in everything if not moving.held_out(each)}


def test_frames_tell_the_direction_by_their_order_alone() -> None:
    """Whichever way it goes, the same places are seen once each."""
    for seed in range(8):
        seen = [sorted(moving.places(moving.Moving("red", "ring", way, seed))) for way in moving.DIRECTIONS]
        assert all(places == seen[0] for places in seen)
        assert len(set(seen[0])) == moving.TRACKS**2


def test_every_frame_is_looked_at(folder: Path) -> None:
    manifest = json.loads((folder / "built" / "sft-512" / "manifest.json").read_text())
    assert manifest["resolution"]["video"]["frames"] == moving.TRACKS**2


def test_held_out_questions_are_answered(accuracy: dict[str, dict[str, float]], folder: Path) -> None:
    for kind in moving.KINDS:
        assert accuracy["heldout"][kind] >= 3 * _most_frequent(folder, kind)


def test_shuffled_frames_leave_the_rate_of_the_most_frequent_answer(
    accuracy: dict[str, dict[str, float]], folder: Path
) -> None:
    # Of some 200 answers: three standard errors.
    assert accuracy["shuffled"]["direction"] <= _most_frequent(folder, "direction") + 0.09
    # What it looks like is seen in any order.
    assert accuracy["shuffled"]["colour"] >= 3 * _most_frequent(folder, "colour")


def _most_frequent(folder: Path, kind: str) -> float:
    """What not looking at clips can reach."""
    answers = [sample["conversations"][1]["value"] for sample in _read(folder / f"heldout-{kind}.json")]
    return max(answers.count(answer) for answer in set(answers)) / len(answers)
