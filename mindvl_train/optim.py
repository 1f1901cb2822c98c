"""AdamW over what a stage trains, with learning rates by parameter name."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from mindvl_data.errors import UserError
from mindvl_train.config import OptimizerConfig


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
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
        for what, tensor in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`, into an optimizer built over the same parameters."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        what, name = key.split("/", 1)
        by_name.setdefault(name, {})[what] = tensor
    for group in optimizer.param_groups:
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            # Copied: memory mapped from a file is not aligned, and alignment decides the last bit of vector
            # sums.
            optimizer.state[parameter] = {
                what: tensor.to(parameter.device, copy=True) for what, tensor in by_name.get(name, {}).items()
            }
