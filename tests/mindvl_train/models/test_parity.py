"""Our models are the published ones: the same logits and gradients as transformers' own classes."""

from pathlib import Path

import pytest

from tests.mindvl_train.parity import CASES, Figures, measure

LOGITS, GRADIENTS = 1e-5, 1e-4


@pytest.fixture(scope="module", params=CASES)
def figures(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Figures:
    return measure(CASES[request.param], Path(tmp_path_factory.mktemp(request.param)))


def test_logits_packed_and_alone_with_and_without_images(figures: Figures) -> None:
    assert figures.largest_logit > 0.5, "logits that say nothing"
    assert max(figures.logits.values()) <= LOGITS, figures.logits


def test_gradients_of_every_tensor(figures: Figures) -> None:
    assert max(figures.gradients.values()) <= GRADIENTS, figures.worst_gradients()


def test_what_must_differ_does(figures: Figures) -> None:
    """Another model than the oracle's is told apart by far more than the bounds."""
    assert figures.logits_of_another > 1e-2
