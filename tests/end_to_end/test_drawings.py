"""A small model trained through all stages looks at the picture: it answers what was held out, and no longer once
pictures are exchanged."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe
from mindvl_train.cli import app
from tests.conftest import QUICKSTART
from tests.end_to_end import drawings

pytestmark = pytest.mark.slow
SEEDS = (1, 2, 3)
NUMBER = 2000


def _alike(use: str) -> dict[str, float]:
    return {f"{use}-{kind}": 1 / len(drawings.KINDS) for kind in drawings.KINDS}


RECIPE: dict[str, Any] = {
    "name": "drawings",
    "seed": 1,
    "tokenizer": "tokenizer.json",
    "chat_template": "qwen2-vl",
    "media": "embed",
    "resolution": {"patch": 14, "merge": 2, "min_pixels": 3136, "max_pixels": 50176},
    # A step of few packs is not to be of captions alone: docs/packing.md.
    "order": {"rule": "shuffled", "step": 4},
    "sources": {
        "captions": {"format": "llava", "path": "captions.json", "kind": "caption", "render": "caption"},
        "questions": {"format": "llava", "path": "questions.json", "kind": "instruction"},
        **{
            f"{use}-{kind}": {"format": "llava", "path": f"{use}-{kind}.json", "kind": kind}
            for use in ("heldout", "exchanged")
            for kind in drawings.KINDS
        },
    },
    "stages": {
        "warmup": {"seq_len": 512, "budget": {"tokens": 30_000}, "mixture": {"captions": 1}},
        "multitask": {"seq_len": 512, "budget": {"epochs": 1}, "mixture": {"captions": 0.6, "questions": 0.4}},
        "sft": {"seq_len": 512, "budget": {"epochs": 1}, "mixture": {"questions": 1}},
        **{use: {"seq_len": 512, "budget": {"epochs": 1}, "mixture": _alike(use)} for use in ("heldout", "exchanged")},
    },
}

RUN: dict[str, Any] = {
    "name": "drawings",
    "model": {
        "name": "vlm",
        "config": {
            "vision": {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2},
            "decoder": {
                "vocab_size": 400,
                "hidden_size": 96,
                "intermediate_size": 192,
                "num_hidden_layers": 2,
                "num_attention_heads": 3,
                "num_key_value_heads": 3,
                "head_dim": 32,
                "qk_norm": True,
                # Rows and columns: where in the picture a token stands.
                "mrope_section": [4, 6, 6],
            },
        },
    },
    "optimizer": {"weight_decay": 0.05, "betas": [0.9, 0.95], "clip_grad_norm": 1.0},
    "checkpoint": {"every_steps": 1000, "keep": 1},
    "stages": {
        "warmup": {
            "manifest": "warmup-512/manifest.json",
            "train": ["projector.*"],
            "lr": {"*": 1.0e-3},
            "schedule": {"name": "cosine", "warmup": 0.1},
            "until": {"epochs": 1},
            "global_batch": 2,
        },
        "multitask": {
            "manifest": "multitask-512/manifest.json",
            "lr": {"*": 2.0e-3},
            "schedule": {"name": "wsd", "warmup": 0.02, "decay": 0.2, "floor": 0.1},
            "until": {"epochs": 25},
            "global_batch": 4,
            "micro_batch": 4,
        },
        "sft": {
            "manifest": "sft-512/manifest.json",
            "lr": {"*": 1.0e-3},
            "schedule": {"name": "cosine", "warmup": 0.05},
            "until": {"epochs": 1},
            "global_batch": 4,
            "micro_batch": 4,
        },
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawings, their tokenizer, and the packed sets in `built/`."""
    folder = tmp_path_factory.mktemp("drawings") / "data"
    write_data(folder)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    build(load_recipe(folder / "recipe.yaml"), folder / "built")
    return folder


def write_data(folder: Path) -> None:
    """Drawings and their tokenizer."""
    drawings.write(folder, NUMBER, seed=1)
    trainer = _script(QUICKSTART / "train_tokenizer.py")
    texts = [sample["conversations"] for name in ("captions", "questions") for sample in _read(folder / f"{name}.json")]
    roles = {"human": "user", "gpt": "assistant"}
    corpus = (text for turns in texts for text in trainer.turns((roles[turn["from"]], turn["value"]) for turn in turns))
    trainer.train(corpus, vocabulary=400).save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def accuracy(folder: Path) -> dict[int, dict[str, dict[str, float]]]:
    """Right answers by seed, by set and by kind of question; the seeds are trained side by side."""
    (folder / "train.yaml").write_text(yaml.safe_dump(RUN, sort_keys=False))
    runs = {seed: folder / f"run-{seed}" for seed in SEEDS}
    started = [
        _start("run", folder / "train.yaml", "--set", f"seed={seed}", "--set", f"data={folder / 'built'}", "--out", out)
        for seed, out in runs.items()
    ]
    for process in started:
        _finished(process)
    return {seed: {use: _accuracy(out, folder, use) for use in ("heldout", "exchanged")} for seed, out in runs.items()}


def test_no_combination_that_is_asked_was_trained_on() -> None:
    everything = drawings.drawings(NUMBER, seed=1)
    tested = {drawing.combination for drawing in everything if drawings.held_out(drawing)}
    trained = {drawing.combination for drawing in everything if not drawings.held_out(drawing)}
    assert tested
    assert trained
    assert not tested & trained


@pytest.mark.parametrize("seed", SEEDS)
def test_held_out_questions_are_answered(accuracy: dict[int, Any], folder: Path, seed: int) -> None:
    frequent = _most_frequent(folder)
    assert _mean(accuracy[seed]["heldout"]) >= 4 * _mean(frequent)
    # Where a thing is and how many there are take more than the mean of all patches.
    for kind in ("place", "count"):
        assert accuracy[seed]["heldout"][kind] >= 4 * frequent[kind]


@pytest.mark.parametrize("seed", SEEDS)
def test_exchanged_pictures_leave_the_rate_of_the_most_frequent_answer(
    accuracy: dict[int, Any], folder: Path, seed: int
) -> None:
    # Of 1,600 answers: three standard errors are 0.03.
    assert _mean(accuracy[seed]["exchanged"]) <= _mean(_most_frequent(folder)) + 0.03


def _most_frequent(folder: Path) -> dict[str, float]:
    """The rate of the most frequent answer to every kind of question: what not looking at pictures can reach."""
    rates = {}
    for kind in drawings.KINDS:
        answers = [sample["conversations"][1]["value"] for sample in _read(folder / f"heldout-{kind}.json")]
        rates[kind] = max(answers.count(answer) for answer in set(answers)) / len(answers)
    return rates


def _mean(rates: dict[str, float]) -> float:
    return sum(rates.values()) / len(rates)


def _accuracy(run: Path, folder: Path, use: str) -> dict[str, float]:
    manifest = folder / "built" / f"{use}-512" / "manifest.json"
    result = CliRunner().invoke(app, ["evaluate", str(run), str(manifest), "--json"])
    assert result.exit_code == 0, result.output
    kinds: dict[str, dict[str, float]] = json.loads(result.stdout)["kinds"]
    return {kind: score["accuracy"] for kind, score in kinds.items()}


def _start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mindvl_train", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _finished(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate()
    assert process.returncode == 0, error
    return out


def _read(path: Path) -> list[dict[str, Any]]:
    samples: list[dict[str, Any]] = json.loads(path.read_text())
    return samples


def _script(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
