"""What trains, how fast, and what the optimizer remembers."""

import pytest
import torch

from mindvl_train.config.schema import OptimizerConfig
from mindvl_train.data.batch import collate
from mindvl_train.loop.optim import (
    GlobError,
    build_optimizer,
    freeze_all_but,
    learning_rates,
    optimizer_tensors,
    prepare_state,
    set_learning_rates,
)
from tests.mindvl_train.synthetic import LAYOUT, mixed_packs, tiny_model

BATCH = collate(mixed_packs(2, 24), LAYOUT)


def test_frozen_parameters_get_no_gradient_and_no_optimizer_state() -> None:
    model = tiny_model()
    trained = freeze_all_but(model, ["projector.*"])
    optimizer = build_optimizer(trained, {"*": 1e-2}, OptimizerConfig())
    set_learning_rates(optimizer, 1.0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model(BATCH).backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        is_projector = name.startswith("projector.")
        assert (parameter.grad is not None) == is_projector, name
        assert torch.equal(parameter, before[name]) != is_projector, name
    assert {key.split("/")[1].split(".")[0] for key in optimizer_tensors(optimizer)} == {"projector"}


def test_the_first_glob_that_matches_counts() -> None:
    rates = learning_rates(["vision.a", "vision.b", "decoder.a"], {"vision.a": 1, "vision.*": 2, "*": 3})
    assert rates == {"vision.a": ("vision.a", 1), "vision.b": ("vision.*", 2), "decoder.a": ("*", 3)}


def test_a_glob_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(GlobError, match=r"train: 'projektor.\*' matches none .* begin with decoder, projector, vision"):
        freeze_all_but(tiny_model(), ["projektor.*"])
    with pytest.raises(GlobError, match=r"lr: 'vision.\*' matches none .* begin with decoder"):
        learning_rates(["decoder.a"], {"vision.*": 1, "*": 1})


def test_a_parameter_that_no_glob_gives_a_rate_is_an_error() -> None:
    with pytest.raises(GlobError, match=r"lr: no glob matches decoder.a, which trains"):
        learning_rates(["vision.a", "decoder.a"], {"vision.*": 1})


def test_only_matrices_decay() -> None:
    trained = freeze_all_but(tiny_model(), ["*"])
    optimizer = build_optimizer(trained, {"vision.*": 1e-3, "*": 1e-2}, OptimizerConfig(weight_decay=0.1))
    for group in optimizer.param_groups:
        assert all((parameter.ndim > 1) == (group["weight_decay"] > 0) for parameter in group["params"])


def test_an_optimizer_goes_on_from_its_tensors_bit_for_bit() -> None:
    def steps(count: int, tensors: dict[str, torch.Tensor] | None = None, state: dict | None = None) -> tuple:
        model = tiny_model()
        if state:
            model.load_state_dict(state)
        optimizer = build_optimizer(freeze_all_but(model, ["*"]), {"*": 1e-2}, OptimizerConfig())
        if tensors:
            for name, tensor in prepare_state(optimizer, tensors).items():
                tensor.copy_(tensors[name])
        set_learning_rates(optimizer, 1.0)
        for _ in range(count):
            optimizer.zero_grad()
            model(BATCH).backward()
            optimizer.step()
        return model.state_dict(), optimizer_tensors(optimizer)

    whole, _ = steps(4)
    half, tensors = steps(2)
    resumed, _ = steps(2, tensors, half)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
