"""What a batch takes, measured on one layer of each kind: the same as on all of them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mindvl_train import measure as measuring
from mindvl_train.batch import collate
from mindvl_train.kernels.registry import KernelConfig, resolve
from mindvl_train.measure import Measured, measure
from mindvl_train.models.vlm import VLM, VLMConfig
from mindvl_train.optim import freeze_all_but
from tests.mindvl_train.models.test_moe import MOE
from tests.mindvl_train.synthetic import LAYOUT, TINY_MODEL, mixed_packs

META = torch.device("meta")
SPARSE = MOE | {"dense_layers": [0, 2], "scoring": "softmax", "balance_speed": None, "aux_loss_coef": 0.1}


def _all_layers(model: nn.Module, batch: Any, monkeypatch: pytest.MonkeyPatch) -> Measured:
    """Every layer is like itself alone."""
    with monkeypatch.context() as patched:
        patched.setattr(measuring, "_alike", id)
        return measure(model, batch)


def _vlm(vision: dict[str, Any], decoder: dict[str, Any]) -> VLM:
    config = {"vision": TINY_MODEL["vision"] | vision, "decoder": TINY_MODEL["decoder"] | decoder}
    with META:
        return VLM(VLMConfig(**config), resolve(KernelConfig(), "meta"))


@pytest.mark.parametrize(
    ("trains", "moe"),
    [
        (["*"], None),
        (["*"], SPARSE),
        (["projector.*"], SPARSE),
        (["decoder.layers.3.*"], None),
        (["vision.*"], MOE),
    ],
)
def test_one_of_each_kind_counts_for_all(
    trains: list[str], moe: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _vlm({"depth": 5, "window_size": 28, "fullatt_block_indexes": [2]}, {"num_hidden_layers": 5, "moe": moe})
    freeze_all_but(model, trains)
    batch = collate(mixed_packs(3, 24), LAYOUT, pixels="black").to(META)
    assert measure(model, batch) == _all_layers(model, batch, monkeypatch)


def test_layers_are_left_as_they_were() -> None:
    model = _vlm({}, {})
    measure(model, collate(mixed_packs(1, 24), LAYOUT, pixels="black").to(META))
    assert not [name for name, module in model.named_modules() if "forward" in vars(module)]
    assert all(parameter.grad is None for parameter in model.parameters())


class _Scaled(nn.Module):
    """Two of one shape that compute differently by a number that they hold."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.times = times

    def forward(self, hidden: Tensor) -> Tensor:
        for _ in range(self.times):
            hidden = self.linear(hidden)
        return hidden


class _Stack(nn.Module):
    def __init__(self, *times: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Scaled(each) for each in times)

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden.sum()


def test_layers_that_differ_by_a_number_are_not_alike() -> None:
    with META:
        hidden = torch.empty(3, 4)
        flops = [measure(_Stack(*times), hidden.requires_grad_()).flops for times in [(1,), (1, 1), (1, 3), (3, 1)]]
    assert [each / flops[0] for each in flops] == [1, 2, 4, 4]
