"""A sweep over three sources of drawings, one of which is noise: it finds it, on runs of a few seconds."""

import importlib.util
import json
import random
from collections.abc import Sequence
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
SETS = ("captions", "questions", "noise")
HELD_OUT = ("heldout-captions", "heldout-questions")
MODEL: dict[str, Any] = {
    "vision": {"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2},
    "decoder": {
        "vocab_size": 400,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 1,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "head_dim": 16,
        "qk_norm": True,
    },
}


def write(folder: Path) -> None:
    """Captions and questions of some drawings, noise in their words, and others held out."""
    folder.mkdir()
    everything = drawings.drawings(240, seed=1)
    for index, drawing in enumerate(everything):
        drawings.draw(drawing).save(folder / f"{index}.png")
    rng = random.Random(0)
    words = [*drawings.COLOURS, *drawings.SHAPES, *drawings.COUNTS, *drawings.PLACES, *drawings.QUESTIONS.values()]
    noise = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": ""}]
    for use, part in (("", range(180)), ("heldout-", range(180, 240))):
        _save(folder, f"{use}captions", [(index, drawings.caption(everything[index])) for index in part])
        _save(folder, f"{use}questions", [(index, drawings.conversation(everything[index])) for index in part])
    said = [" ".join(rng.choices(words, k=8)) for _ in range(180)]
    _save(folder, "noise", [(index, [noise[0], {**noise[1], "value": said[index]}]) for index in range(180)])


def _save(folder: Path, name: str, samples: Sequence[tuple[int, list[dict[str, str]]]]) -> None:
    lines = [{"id": str(index), "image": f"{index}.png", "conversations": turns} for index, turns in samples]
    (folder / f"{name}.json").write_text(json.dumps(lines))


def tokenizer(folder: Path) -> None:
    spec = importlib.util.spec_from_file_location("train_tokenizer", QUICKSTART / "train_tokenizer.py")
    assert spec
    assert spec.loader
    trainer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(trainer)
    roles = {"human": "user", "gpt": "assistant"}
    samples = [each["conversations"] for name in SETS for each in json.loads((folder / f"{name}.json").read_text())]
    texts = (text for turns in samples for text in trainer.turns((roles[t["from"]], t["value"]) for t in turns))
    trainer.train(texts, vocabulary=400).save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "data"
    write(folder)
    tokenizer(folder)
    stage = {"seq_len": 256, "budget": {"epochs": 1}}
    recipe = {
        "name": "swept",
        "tokenizer": "tokenizer.json",
        "resolution": {"min_pixels": 3136, "max_pixels": 12544},
        "sources": {
            name: {
                "format": "llava",
                "path": f"{name}.json",
                "kind": "caption" if "questions" not in name else "instruction",
                "render": "caption" if "questions" not in name else "chat",
            }
            for name in (*SETS, *HELD_OUT)
        },
        "stages": {name: {**stage, "mixture": {name: 1.0}} for name in (*SETS, *HELD_OUT)}
        | {"all": {**stage, "mixture": dict.fromkeys(SETS, 1 / 3)}},
    }
    # Shares of a recipe sum to 1.
    recipe["stages"]["all"]["mixture"] = {"captions": 0.3, "questions": 0.3, "noise": 0.4}  # type: ignore[index]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    build(load_recipe(folder / "recipe.yaml"), folder / "built")
    run = {
        "name": "proxy",
        "data": str(folder / "built"),
        "model": {"name": "vlm", "config": MODEL},
        "checkpoint": {"every_steps": 1000, "keep": 1},
        "stages": {
            "only": {
                "mixture": {name: {"manifest": f"{name}-256/manifest.json"} for name in SETS},
                "lr": {"*": 4.0e-3},
                "schedule": {"name": "constant", "warmup": 0.05},
                "until": {"packs": 60},
                "global_batch": 2,
                "micro_batch": 2,
            }
        },
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(run))
    held_out = {name: {"manifest": f"{name}-256/manifest.json"} for name in HELD_OUT}
    written = {"path": "recipe.yaml", "stage": "all"}
    (folder / "mixtures.yaml").write_text(yaml.safe_dump({"held_out": held_out, "recipe": written}))
    line = {"kind": "line", "of": ["noise"], "shares": [0.05, 0.35, 0.65, 0.9]}
    (folder / "line.yaml").write_text(yaml.safe_dump({"held_out": held_out, "design": line}))
    return folder


def swept(folder: Path, out: Path, mixtures: str = "mixtures.yaml") -> dict[str, Any]:
    command = ["sweep", str(folder / "train.yaml"), "--mixtures", str(folder / mixtures), "--out", str(out), "--json"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def test_the_sweep_finds_the_noise_and_does_nothing_twice(folder: Path, tmp_path: Path) -> None:
    found = swept(folder, tmp_path)
    assert len(found["runs"]) == 10
    shares = found["proposal"]["shares"]
    assert shares["noise"]["share"] < 0.15
    assert shares["noise"]["share"] < min(shares["captions"]["share"], shares["questions"]["share"])
    assert shares["noise"]["share"] + 3 * shares["noise"]["deviation"] < 0.5
    assert sum(each["share"] for each in shares.values()) == pytest.approx(1)
    # The recipe and the run with the shares are whole.
    recipe = load_recipe(Path(found["recipe"])).recipe
    assert recipe.stages["all"].mixture.members == {name: each["share"] for name, each in shares.items()}
    run = yaml.safe_load(Path(found["train"]).read_text())
    assert run["stages"]["only"]["mixture"]["noise"]["weight"] == shares["noise"]["share"]
    # One that was lost is made again, the others are read.
    scores = sorted(tmp_path.glob("runs/*/score.json"))
    before = {path: path.stat().st_mtime_ns for path in scores[1:]}
    scores[0].unlink()
    assert swept(folder, tmp_path)["proposal"] == found["proposal"]
    assert {path: path.stat().st_mtime_ns for path in scores[1:]} == before


def test_a_line_search_over_the_noise_ends_at_its_least(folder: Path, tmp_path: Path) -> None:
    found = swept(folder, tmp_path, "line.yaml")
    shares = found["proposal"]["shares"]
    assert len(found["runs"]) == 4
    assert shares["noise"]["share"] < 0.3
    assert shares["captions"]["share"] == pytest.approx(shares["questions"]["share"], abs=1e-3)


def test_what_cannot_be_swept_is_named(folder: Path, tmp_path: Path) -> None:
    for settings, message in (
        ({"stage": "other"}, "which stage's mixture is to be swept"),
        ({"design": {"points": 3}}, "a quadratic over 3 sets needs 6 or more"),
        ({"least": 0.5}, "cannot all have"),
        ({"held_outs": {}}, "did you mean 'held_out'"),
        ({"design": {"kind": "line", "of": ["x"], "shares": [0.1, 0.2, 0.3]}}, "the mixture has no 'x'"),
    ):
        (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(settings))
        command = [
            "sweep",
            str(folder / "train.yaml"),
            "--mixtures",
            str(tmp_path / "wrong.yaml"),
            "--out",
            str(tmp_path),
        ]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())
