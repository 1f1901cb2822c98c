"""The quickstart's train.yaml fits its recipe: the same folders, the same tokenizer, patches and lengths."""

import json
from pathlib import Path

import pytest
import yaml

from mindvl_train.config.loading import LoadedConfig, load_config
from mindvl_train.models.vlm import VLMConfig

FOLDER = Path(__file__).parents[2] / "recipes" / "quickstart"
RECIPE = yaml.safe_load((FOLDER / "recipe.yaml").read_text())


@pytest.fixture(scope="module")
def loaded() -> LoadedConfig:
    return load_config(FOLDER / "train.yaml")


def test_every_manifest_is_one_that_the_recipe_builds(loaded: LoadedConfig) -> None:
    lengths = {name: stage["seq_len"] for name, stage in RECIPE["stages"].items()}
    lengths["holdout"] = RECIPE["holdout"]["seq_len"]
    built = {
        f"{name}-{length}/manifest.json"
        for name, each in lengths.items()
        for length in (each if isinstance(each, list) else [each])
    }
    used = {stage.manifest for stage in loaded.config.stages.values()}
    assert used | {loaded.config.holdout} == built


def test_it_reads_where_the_build_writes_by_default(loaded: LoadedConfig) -> None:
    assert loaded.config.data == f"build/{RECIPE['name']}"


def test_the_model_fits_the_tokenizer_and_the_patches(loaded: LoadedConfig) -> None:
    tokenizer = json.loads((FOLDER / RECIPE["tokenizer"]).read_text())
    ids = [*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])]
    model = VLMConfig(**loaded.config.model.config)
    assert max(ids) < model.decoder.vocab_size
    assert model.vision.patch_size == RECIPE["resolution"]["patch"]
    assert model.vision.spatial_merge_size == RECIPE["resolution"]["merge"]


def test_only_the_projector_trains_in_the_warmup(loaded: LoadedConfig) -> None:
    assert loaded.config.stages["warmup"].train == ("projector.*",)
    assert all(stage.train == ("*",) for name, stage in loaded.config.stages.items() if name != "warmup")
