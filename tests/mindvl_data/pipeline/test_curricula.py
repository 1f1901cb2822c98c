"""A curriculum's column and the means of an allocation, brought to where they are used."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from mindvl_data.pipeline.allocating import with_means
from mindvl_data.pipeline.curricula import Column
from mindvl_data.pipeline.spec import specs
from mindvl_data.recipe import Group, load_recipe
from tests.conftest import QUICKSTART


def ids(*numbers: int) -> Any:
    return np.array([[number] * 16 for number in numbers], np.uint8).reshape(-1, 16)


def test_values_follow_their_samples_by_id_and_are_missing_for_others() -> None:
    column = Column(ids(5, 0, 9).view(np.uint64).reshape(-1, 2), np.array([0.5, 0.25, np.nan]))
    corpus: Any = SimpleNamespace(sample_ids=ids(9, 7, 5, 0, 5))
    assert np.array_equal(column.of(corpus), [np.nan, np.nan, 0.5, 0.25, 0.5], equal_nan=True)
    nothing = Column(np.zeros((0, 2), np.uint64), np.zeros(0))
    assert np.isnan(nothing.of(corpus)).all()


def test_means_take_the_place_of_expressions_in_their_group_alone() -> None:
    mixture = Group.model_validate(
        {"text": 0.25, "g": {"share": 0.75, "allocate": {"score": "words", "tau": 1}, "vqa": 1, "chat": 1}}
    )
    spec = specs(load_recipe(QUICKSTART / "recipe.yaml").recipe)[0]
    spec = type(spec)(**{**vars(spec), "mixture": mixture})
    found = {f"stages.{spec.stage}.mixture.g.allocate.score": {"vqa": 2.0, "chat": 3.0}}
    changed = with_means(spec, found).mixture
    assert changed is not None
    ((_, group),) = changed.allocating("m")
    assert group.allocate is not None
    assert group.allocate.score == {"vqa": 2.0, "chat": 3.0}
    assert changed.members["text"] == 0.25
    assert mixture.members["g"].allocate.score == "words"


def test_a_set_without_such_expressions_is_left_as_it_is() -> None:
    for spec in specs(load_recipe(QUICKSTART / "recipe.yaml").recipe):
        assert with_means(spec, {"stages.other.mixture.allocate.score": {"a": 1.0}}) is spec
