"""What a batch takes, measured on one layer of each kind: the same as on all of them."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed._composable.checkpoint_activation import checkpoint

from mindvl_train.data.batch import collate
from mindvl_train.kernels.registry import KernelConfig, resolve
from mindvl_train.loop.optim import freeze_all_but
from mindvl_train.models.initialise import give_weights
from mindvl_train.models.vlm import VLM, VLMConfig
from mindvl_train.parallel.data import blocks_of
from mindvl_train.planning import measure as measuring
from mindvl_train.planning.measure import Measured, measure
from mindvl_train.planning.plan import as_used
from tests.mindvl_train.synthetic import LAYOUT, MOE, TINY_MODEL, mixed_packs

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


class _Run:
    """What autograd keeps of one forward pass with values, by storage: `inside` a block, or outside of all."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.bytes: dict[int, int] = {}
        self.inside: dict[int, str] = {}
        self._block = ""
        self._alive: list[Tensor] = []
        for name, block in model.named_modules():
            if isinstance(model.get_submodule(name.rpartition(".")[0]), nn.ModuleList):
                block.register_forward_pre_hook(lambda *_, name=name: setattr(self, "_block", name))
                block.register_forward_hook(lambda *_: setattr(self, "_block", ""))

    def forward(self, batch: Any) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor):
            loss: Tensor = self.model(batch)
        return loss

    def largest(self) -> int:
        """Of all blocks what one keeps of its own."""
        of_block: Counter[str] = Counter()
        for storage, block in self.inside.items():
            of_block[block] += self.bytes[storage] if block else 0
        return max(of_block.values())

    def _keep(self, tensor: Tensor) -> Tensor:
        weights = {weight.untyped_storage()._cdata for weight in self.model.parameters()}
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            self.bytes[storage._cdata] = storage.nbytes()
            self.inside.setdefault(storage._cdata, self._block)
            self._alive.append(tensor)
        return tensor


DECODERS: dict[str, dict[str, Any]] = {"dense": {}, "experts": {"moe": MOE}, "tied": {"tie_word_embeddings": True}}
TOWERS: dict[str, dict[str, Any]] = {"frames": {}, "windows": {"window_size": 28, "fullatt_block_indexes": [1]}}


def _pair(tower: str, decoder: str) -> tuple[VLM, VLM]:
    """The same model without values, and with them."""
    config = VLMConfig(
        vision=TINY_MODEL["vision"] | {"depth": 3} | TOWERS[tower],
        decoder=TINY_MODEL["decoder"] | {"num_hidden_layers": 3} | DECODERS[decoder],
    )
    with META:
        models = [VLM(config, resolve(KernelConfig(), device)) for device in ("meta", "cpu")]
    give_weights(models[1], 1, torch.device("cpu"))
    return models[0], models[1]


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_kept_is_what_a_run_keeps(tower: str, decoder: str, precision: str) -> None:
    without, model = (as_used(each, precision) for each in _pair(tower, decoder))
    batch = collate(mixed_packs(3, 96), replace(LAYOUT, window=1 if tower == "windows" else None), pixels="black")
    run = _Run(model)
    run.forward(batch.to(torch.device("cpu"))).backward()
    found = measure(without, batch.to(META))
    assert found.kept == sum(run.bytes.values())

    for block in blocks_of(model):
        checkpoint(block)
    again = _Run(model)
    again.forward(batch.to(torch.device("cpu"))).backward()
    # One block at a time has everything again; rotary angles, which all are given, are in what is outside.
    assert found.checkpointed == pytest.approx(sum(again.bytes.values()) + run.largest(), rel=0.02)


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
