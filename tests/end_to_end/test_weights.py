"""A source's weight, from the recipe to the loss: written down, shown, used, and held to when a run goes on."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mindvl_data.manifest import read_manifest
from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe
from mindvl_train.config.loading import load_config
from mindvl_train.config.run_folder import RunFolderError
from mindvl_train.loop.run import train
from mindvl_train.presets import read_preset
from tests.conftest import QUICKSTART

TURNS = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "It is a stone."}]


def data_set(folder: Path, **weight: float) -> Path:
    """Two sources of one sample each; `weight` is of the second."""
    folder.mkdir(exist_ok=True)
    (folder / "chat.jsonl").write_text(json.dumps({"messages": TURNS}) + "\n")
    source: dict[str, Any] = {"format": "messages", "path": "chat.jsonl", "kind": "text"}
    mixture = {"one": 0.5, "two": 0.5}
    recipe = {
        "name": "weights",
        "tokenizer": str(QUICKSTART / "tokenizer.json"),
        "sources": {"one": source, "two": source | weight},
        "stages": {"sft": {"seq_len": 64, "budget": {"packs": 4}, "max_epochs": 9, "mixture": mixture}},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return build(load_recipe(folder / "recipe.yaml"), folder / "built").out


def run(data: Path, out: Path, packs: int) -> list[dict[str, Any]]:
    """The records of a run of so many packs."""
    stage = {"manifest": "sft-64/manifest.json", "lr": {"*": 1e-3}, "until": {"packs": packs}, "global_batch": 1}
    model = {"name": "vlm", "config": read_preset("tiny")}
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({"name": "weights", "data": str(data), "model": model, "stages": {"sft": stage}}))
    train(load_config(path), str(path), out)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_weight_goes_from_the_recipe_to_the_loss(tmp_path: Path) -> None:
    plain, weighted = data_set(tmp_path / "plain"), data_set(tmp_path / "weighted", weight=0.25)
    manifests = [read_manifest(out / "sft-64") for out in (plain, weighted)]
    assert [manifest.source_weights for manifest in manifests] == [{}, {"two": 0.25}]
    assert manifests[0].id == manifests[1].id, "packs know nothing of it"
    losses = [
        [record["loss"] for record in run(data, tmp_path / f"run-{name}", 2) if record["event"] == "step"]
        for name, data in (("plain", plain), ("weighted", weighted))
    ]
    assert losses[0] != losses[1]
    with pytest.raises(RunFolderError, match="source_weights"):
        run(plain, tmp_path / "run-weighted", 4)
