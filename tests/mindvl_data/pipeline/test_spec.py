"""The packed sets of a recipe: a stage at each of its lengths, and the held-out set last."""

from dataclasses import replace

import pytest

from mindvl_data.pipeline.spec import specs
from mindvl_data.recipe import Recipe, load_recipe
from tests.conftest import QUICKSTART


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(QUICKSTART / "recipe.yaml").recipe


def test_sets_are_named_by_stage_and_length_in_the_recipes_order(recipe: Recipe) -> None:
    names = [f"{stage}-{length}" for stage, asked in recipe.stages.items() for length in asked.seq_len]
    assert [spec.name for spec in specs(recipe)] == [*names, "holdout-4096"]


def test_a_stage_draws_what_fits_its_shortest_length_unless_each_draws_for_itself(recipe: Recipe) -> None:
    assert [spec.fit_len for spec in specs(recipe) if spec.stage == "sft"] == [2048, 2048]
    stages = {**recipe.stages, "sft": recipe.stages["sft"].model_copy(update={"fit": "each"})}
    each = specs(recipe.model_copy(update={"stages": stages}))
    assert [spec.fit_len for spec in each if spec.stage == "sft"] == [2048, 4096]


def test_sets_of_one_stage_differ_in_their_length_alone(recipe: Recipe) -> None:
    short, long = [spec for spec in specs(recipe) if spec.stage == "sft"]
    assert replace(short, seq_len=long.seq_len) == long


def test_the_held_out_set_has_no_mixture_and_drops_what_is_too_long(recipe: Recipe) -> None:
    held_out = specs(recipe)[-1]
    assert (held_out.mixture, held_out.budget, held_out.overlong, held_out.max_epochs) == (None, None, "drop", 1)
    assert specs(recipe.model_copy(update={"holdout": None})) == specs(recipe)[:-1]
