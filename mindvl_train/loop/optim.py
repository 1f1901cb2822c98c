"""AdamW over what a stage trains, with learning rates by parameter name."""

from collections.abc import Container, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from mindvl_data.errors import UserError
from mindvl_train.config.schema import OptimizerConfig

# AdamW's state of a parameter, besides the number of its steps.
MOMENTS = ("exp_avg", "exp_avg_sq")


class GlobError(UserError):
    """A glob over parameter names that selects nothing, or a parameter that no glob selects."""


def freeze_all_but(model: nn.Module, train: Sequence[str]) -> dict[str, nn.Parameter]:
    """Lets the parameters that match one of the globs train, and nothing else; returns them by name.

    Raises:
        GlobError: a glob matches no parameter.
    """
    parameters = dict(model.named_parameters())
    _refuse_idle(train, parameters, "train")
    trained: dict[str, nn.Parameter] = {}
    for name, parameter in parameters.items():
        parameter.requires_grad_(any(fnmatchcase(name, glob) for glob in train))
        parameter.grad = None
        if parameter.requires_grad:
            trained[name] = parameter
    return trained


def learning_rates(names: Sequence[str], rates: Mapping[str, float]) -> dict[str, tuple[str, float]]:
    """For every name the first glob of `rates` that matches it, and its rate.

    Raises:
        GlobError: a glob matches none of the names, or a name is matched by no glob.
    """
    _refuse_idle(list(rates), names, "lr")
    chosen: dict[str, tuple[str, float]] = {}
    for name in names:
        glob = next((glob for glob in rates if fnmatchcase(name, glob)), None)
        if glob is None:
            raise GlobError(f"lr: no glob matches {name}, which trains; add one, such as '*', at the end")
        chosen[name] = (glob, rates[glob])
    return chosen


def _refuse_idle(globs: Sequence[str], names: Sequence[str] | Mapping[str, Any], key: str) -> None:
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in names):
            parts = sorted({name.split(".")[0] for name in names})
            raise GlobError(f"{key}: {glob!r} matches none of the parameters; they begin with {', '.join(parts)}")


def build_optimizer(
    trained: Mapping[str, nn.Parameter], rates: Mapping[str, float], config: OptimizerConfig
) -> torch.optim.AdamW:
    """AdamW with a group for every (glob, decays or not); frozen parameters have no state.

    A group holds `glob`, `peak_lr` and, in `param_names`, the names of its parameters in order.
    """
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, (glob, rate) in learning_rates(list(trained), rates).items():
        decays = trained[name].ndim > 1
        decay = config.weight_decay if decays else 0.0
        fresh: dict[str, Any] = {"params": [], "glob": glob, "peak_lr": rate, "weight_decay": decay}
        groups.setdefault((glob, decays), fresh)["params"].append((name, trained[name]))
    return torch.optim.AdamW(list(groups.values()), lr=0.0, betas=config.betas, eps=config.eps, fused=True)


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> dict[str, float]:
    """Multiplies every group's peak by the schedule's factor; returns the rates by glob."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    return {group["glob"]: group["lr"] for group in optimizer.param_groups}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as `<what>/<parameter name>` → tensor: no pickle, and no order of parameters."""
    return {
        f"{what}/{name}": tensor
        for name, parameter in named(optimizer)
        for what, tensor in optimizer.state.get(parameter, {}).items()
    }


def prepare_state(optimizer: torch.optim.Optimizer, names: Container[str]) -> dict[str, Tensor]:
    """Gives an optimizer without steps room for the state that `names` lists, to be filled in place.

    Args:
        optimizer: over the parameters that the names speak of, sharded in any way.
        names: as `optimizer_tensors` gives them.
    """
    for name, parameter in named(optimizer):
        moments = {what: torch.zeros_like(parameter) for what in MOMENTS if f"{what}/{name}" in names}
        if moments:
            step = torch.zeros((), dtype=torch.float32, device=parameter.device)
            optimizer.state[parameter] = {"step": step, **moments}
    return optimizer_tensors(optimizer)


def named(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Its parameters with their names, in its order."""
    for group in optimizer.param_groups:
        yield from zip(group["param_names"], group["params"], strict=True)
