"""Score columns: every kind of score that a recipe may ask for can be made, and looked at before."""

from typing import get_args

from mindvl_data.pipeline.checks import LOOKS
from mindvl_data.pipeline.making import MAKERS
from mindvl_data.recipe.scores import Score


def kinds() -> set[str]:
    models, _ = get_args(Score)
    return {kind for model in get_args(models) for kind in get_args(model.model_fields["by"].annotation)}


def test_every_kind_of_score_can_be_made() -> None:
    """Those by functions are made together."""
    assert kinds() == MAKERS.keys() | {"function"}


def test_what_is_looked_at_before_a_build_are_kinds_of_scores() -> None:
    assert LOOKS.keys() <= kinds()
