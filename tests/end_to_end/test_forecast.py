"""`plan --forecast`: from declared sizes to counts, disk and device-hours, without any data."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mindvl_data.cli import app
from mindvl_data.pipeline import BuildError, forecast
from mindvl_data.recipe import load_recipe
from mindvl_data.steps.mix import MixError


def recipe(folder: Path, stage: dict[str, Any], **more: Any) -> Path:
    sizes = {"a": {"samples": 1000, "tokens_per_sample": 100, "vision_tokens_per_sample": 80}}
    sizes["b"] = {"samples": 500, "tokens_per_sample": 40, "images_per_sample": 0}
    sources = {
        name: {"format": "captions", "path": f"s3://nowhere/{name}.parquet", "kind": "caption", "size": size}
        for name, size in sizes.items()
    }
    raw = {"name": "later", "tokenizer": "none.json", "sources": sources, "stages": {"s": stage}, **more}
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(raw))
    return path


def made(folder: Path, stage: dict[str, Any], **more: Any) -> dict[str, Any]:
    (found,) = forecast(load_recipe(recipe(folder, {"seq_len": 1000, **stage}, **more)).recipe)
    return found


@pytest.mark.parametrize(
    ("stage", "samples", "tokens"),
    [
        ({"mixture": {"a": {"epochs": 2}, "b": {"epochs": 1}}}, (2000, 500), (200_000, 20_000)),
        ({"mixture": {"a": 0.5, "b": 0.5}, "budget": {"tokens": 40_000}}, (200, 500), (20_000, 20_000)),
        ({"mixture": {"a": 0.5, "b": 0.5}, "budget": {"packs": 40}}, (200, 500), (20_000, 20_000)),
        ({"mixture": {"a": 0.5, "b": 0.5}, "budget": {"epochs": 1}}, (200, 500), (20_000, 20_000)),
        ({"mixture": {"a": 0.5, "b": 0.5}, "budget": {"samples": 600}, "by": "samples"}, (300, 300), (30_000, 12_000)),
        (
            {"mixture": {"a": 0.5, "b": 0.5}, "budget": {"tokens": 70_000}, "by": "samples"},
            (500, 500),
            (50_000, 20_000),
        ),
        ({"mixture": {"temperature": 1, "a": 1, "b": 1}, "budget": {"tokens": 60_000}}, (500, 250), (50_000, 10_000)),
        (
            {
                "mixture": {"allocate": {"score": {"a": 9, "b": 0}, "tau": 1, "caps": 0.75}, "a": 1, "b": 1},
                "budget": {"tokens": 40_000},
            },
            (300, 250),
            (30_000, 10_000),
        ),
    ],
)
def test_a_forecast_draws_as_a_build_does(
    tmp_path: Path, stage: dict[str, Any], samples: tuple[int, int], tokens: tuple[int, int]
) -> None:
    found = made(tmp_path, stage)
    assert tuple(line["samples"] for line in found["sources"].values()) == samples
    assert tuple(line["tokens"] for line in found["sources"].values()) == tokens
    assert found["total"]["tokens"] == sum(tokens)
    assert found["packs"] == -(-sum(tokens) // 1000)
    assert found["sources"]["a"]["epochs"] == samples[0] / 1000


def test_disk_counts_tokens_segments_and_embedded_images(tmp_path: Path) -> None:
    stage = {"mixture": {"a": {"epochs": 1}}}
    reference = made(tmp_path, stage, media="reference")
    assert 100_000 * 4 < reference["disk"] < 100_000 * 6
    embedded = made(tmp_path, stage)
    assert embedded["unknown"] == ["sources.a.size.image_bytes_per_sample"]
    path = recipe(tmp_path, {"seq_len": 1000, **stage})
    (said,) = forecast(load_recipe(path, ["sources.a.size.image_bytes_per_sample=5000"]).recipe)
    assert said["disk"] == embedded["disk"] + 5_000_000
    assert said["unknown"] == []


def test_training_is_said_for_a_model_and_a_device_of_the_table_or_of_ones_own(tmp_path: Path) -> None:
    training = {"model": "mindvl-8b", "device": "h100", "utilisation": 0.5}
    stage = {"mixture": {"a": {"epochs": 1}}}
    full = made(tmp_path, stage, forecast=training)["training"]
    assert full["flops"]["decoder"] == pytest.approx(6 * 7.568e9 * 100_000, rel=0.01)
    assert full["device_hours"] == pytest.approx(full["flops"]["total"] / (989.4e12 * 0.5) / 3600, abs=0.01)
    warmup = made(tmp_path, stage, forecast={**training, "trains": {"s": ["projector"]}})["training"]
    assert warmup["flops"]["decoder"] == pytest.approx(full["flops"]["decoder"] * 2 / 3)
    tower = {"parameters": 10, "layers": 1, "attention_width": 1}
    own = {
        "model": {"vision": tower, "projector": 1, "decoder": tower},
        "device": {"peak_flops": 1000},
        "utilisation": 1,
    }
    assert made(tmp_path, stage, forecast=own)["training"]["flops"]["decoder"] == 3 * 100_000 * (20 + 2 * 100)


def test_what_a_forecast_lacks_is_named(tmp_path: Path) -> None:
    path = recipe(tmp_path, {"seq_len": 1000, "mixture": {"a": 0.5, "b": 0.5}, "budget": {"tokens": 400_000}})
    with pytest.raises(MixError, match=r"pass b 10\.00 times, max_epochs is 4.*30,000 too few"):
        forecast(load_recipe(path).recipe)
    with pytest.raises(BuildError, match=r"sources\.b\.size: a forecast reckons with declared sizes"):
        forecast(load_recipe(path, ["sources.b.size=null"]).recipe)
    with pytest.raises(BuildError, match=r"sources\.a\.size\.loss_tokens_per_sample"):
        forecast(load_recipe(path, ["stages.s.by=loss_tokens"]).recipe)


def test_the_command_prints_a_table_or_json(tmp_path: Path) -> None:
    more = {"forecast": {"model": "open-qwen2vl-2b", "device": "a100", "utilisation": 0.4}}
    path = str(recipe(tmp_path, {"seq_len": 1000, "mixture": {"a": {"epochs": 1}, "b": {"epochs": 1}}}, **more))
    table = CliRunner().invoke(app, ["plan", path, "--forecast"])
    assert table.exit_code == 0, table.output
    for words in ("1,500", "120,000", "counted as 0", "hours of a100 at 40% of its peak"):
        assert words in table.output
    printed = json.loads(CliRunner().invoke(app, ["plan", path, "--forecast", "--json"]).output)
    assert printed["sets"][0]["packs"] == 120


def test_what_a_select_rule_leaves_is_what_sizes_mean(tmp_path: Path) -> None:
    rule = {"name": "rich", "by": {"capabilities": ["a"], "styles": "b"}, "share": 0.3}
    stage = {"mixture": {"a": {"epochs": 1}, "b": {"epochs": 1}}}
    found = made(tmp_path, stage, select=[rule])
    assert (found["select"], found["total"]["samples"]) == ({"rich": 0.3}, 1500)
    shown = CliRunner().invoke(app, ["plan", str(tmp_path / "recipe.yaml"), "--forecast"]).output
    assert "declared sizes are what is left after select rich, 30% of before" in shown
