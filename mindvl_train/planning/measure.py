"""Sends one batch through a model on the meta device and counts: arithmetic, and what waits for the backward pass.

Layers that are alike, given inputs that are alike, take alike: the first of them runs, and counts for all.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Measured:
    """What a batch took.

    Attributes:
        flops: floating-point operations of the forward and the backward pass, as torch counts them.
        kept: bytes that autograd held for the backward pass, parameters left out.
        checkpointed: the same where every layer keeps its input alone, and one at a time is computed again.
    """

    flops: int
    kept: int
    checkpointed: int


def measure(model: nn.Module, batch: Any) -> Measured:
    """Runs `model(batch)` and its backward pass.

    Args:
        model: returns a loss; on the meta device, like the batch.
        batch: what it takes.
    """
    counter = FlopCounterMode(display=False)
    with _alike_run_once(model) as layers, counter, layers.watching():
        loss: Tensor = model(batch)
        loss.backward()  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=True)
    by_module, root = counter.get_flop_counts(), type(model).__name__
    repeated = sum((times - 1) * sum(by_module[f"{root}.{name}"].values()) for name, times in layers.times.items())
    each = {name: sum(found.values()) for name, found in layers.kept.items()}
    rest = each.pop("")
    kept = sum(layers.times.get(name, 1) * size for name, size in each.items())
    inputs = sum(layers.times.get(name, 1) * size for name, size in layers.inputs.items())
    largest = max(each.values(), default=0)
    return Measured(counter.get_total_flops() + repeated, rest + kept, rest + inputs + largest)


class _Layers:
    """The layers of a model: which were run, for how many each stands, and what each kept.

    Attributes:
        times: layers that each one stands for, itself included.
        kept: bytes of every storage that autograd saved, by the layer that ran; "" is the rest of the model.
        inputs: bytes of the first argument, by the layer that ran; 0 where nothing before it trains.
    """

    def __init__(self, model: nn.Module) -> None:
        self.times: Counter[str] = Counter()
        self.kept: dict[str, dict[int, int]] = {"": {}}
        self.inputs: dict[str, int] = {}
        self._first: dict[Hashable, str] = {}
        self._running = ""
        self._shared = {parameter.untyped_storage()._cdata: False for parameter in model.parameters()}
        # A storage that is gone would give its number to another.
        self._alive: list[Tensor] = []

    def run(self, name: str, layer: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """`forward(*args)`, or its first argument for the output where a layer like it ran."""
        key = (_alike(layer), _alike(args))
        if not self._running and (first := self._first.get(key)):
            self.times[first] += 1
            return args[0]
        if self._running:
            return forward(*args)
        # What all layers are given (rotary angles) is kept once, whatever the number of layers.
        given = [leaf for leaf in tree_leaves(args[1:]) if _is_tensor(leaf)]
        self._shared |= {leaf.untyped_storage()._cdata: True for leaf in given}
        self._alive += given
        self._running, self.kept[name], self.inputs[name] = name, {}, _bytes(args[0])
        output = forward(*args)
        self._running = ""
        if _is_tensor(output) and _alike(output.detach()) == _alike(args[0].detach()):
            self._first[key] = name
            self.times[name] = 1
        return output

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Notes what autograd saves."""

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            shared = self._shared.get(storage._cdata)
            if shared is not False:
                self.kept["" if shared else self._running][storage._cdata] = storage.nbytes()
                self._alive.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            yield


@contextmanager
def _alike_run_once(model: nn.Module) -> Iterator[_Layers]:
    """The layers (members of module lists) with their `forward` exchanged for as long as this lasts."""
    layers = _Layers(model)
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    members = [(f"{name}.{number}", layer) for name, each in lists for number, layer in each.named_children()]
    for name, layer in members:
        layer.forward = _instead(layers, name, layer, layer.forward)
    try:
        yield layers
    finally:
        for _, layer in members:
            del layer.forward


def _instead(layers: _Layers, name: str, layer: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **named: forward(*args, **named) if named else layers.run(name, layer, forward, args)


def _bytes(value: Any) -> int:
    """Of a tensor that gradients pass through: another is no activation."""
    return value.numel() * value.element_size() if _is_tensor(value) and value.requires_grad else 0


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _alike(value: Any) -> Hashable:
    """Equal for what takes the same arithmetic and memory; an object that it does not know is like itself alone."""
    match value:
        case nn.Module():
            settings = [(name, type(each), _settings(each)) for name, each in value.named_modules()]
            return (*settings, *((name, _alike(parameter)) for name, parameter in value.named_parameters()))
        case Tensor():
            return tuple(value.shape), value.dtype, value.requires_grad
        case tuple() | list():
            return tuple(_alike(each) for each in value)
        case Hashable():
            return value
        case _:
            return id(value)


def _settings(module: nn.Module) -> Hashable:
    """Numbers and words that a module holds: two of the same shapes may compute differently by them."""
    plain = (bool, int, float, str, tuple, type(None))
    return tuple((name, value) for name, value in sorted(vars(module).items()) if isinstance(value, plain))
