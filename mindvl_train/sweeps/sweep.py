"""A sweep, top to bottom: mixtures, their scores, the surface, and what it proposes."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from mindvl_data import atomic
from mindvl_data.runtime import yaml_text
from mindvl_train.config.loading import load_config
from mindvl_train.config.schema import TrainConfig
from mindvl_train.parallel.mesh import world_size
from mindvl_train.sweeps import design
from mindvl_train.sweeps.fit import Lowest, fitted, lowest
from mindvl_train.sweeps.runs import Proxy, SweepError
from mindvl_train.sweeps.settings import Line, SweepConfig, Written

FILE = "sweep.json"
STEPS = 200


def sweep(
    train_yaml: Path,
    settings: SweepConfig,
    overrides: Sequence[str],
    folder: Path,
    told: Callable[[Mapping[str, Any]], None] = lambda run: None,
) -> dict[str, Any]:
    """Tries mixtures and writes what they say: `sweep.json`, `train.yaml` with the shares, and a recipe if asked for.

    The same call goes on where it was ended: runs that are finished are scored, runs that are scored are read.

    Raises:
        UserError: what is wrong, where, and what to do.
    """
    if world_size() > 1:
        raise SweepError("a sweep runs in one process: start it without torchrun")
    config = load_config(train_yaml, overrides).config
    stage, members = _mixture(config, settings, train_yaml)
    proxy = Proxy(train_yaml, overrides, stage, members, settings.held_out, folder, told)
    line = isinstance(settings.design, Line)
    runs, proposal = _by_line(proxy, settings) if line else _over_simplex(proxy, settings)
    found = {"stage": stage, "design": settings.design.model_dump(), "runs": runs, "proposal": proposal}
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_text(folder / FILE, json.dumps(found, indent=1) + "\n")
    shares = {name: each["share"] for name, each in proposal["shares"].items()}
    _write_run(train_yaml, stage, shares, folder / "train.yaml")
    recipe = _write_recipe(settings.recipe, shares, train_yaml.parent) if settings.recipe else None
    return found | {"train": str(folder / "train.yaml")} | ({"recipe": str(recipe)} if recipe else {})


def _mixture(config: TrainConfig, settings: SweepConfig, where: Path) -> tuple[str, list[str]]:
    """The stage whose mixture is swept, and its sets."""
    mixed = {name: stage for name, stage in config.trained_stages.items() if stage.mixture}
    stage = settings.stage or next(iter(mixed), "")
    if stage not in mixed or (settings.stage is None and len(mixed) > 1):
        raise SweepError(
            f"{where}: which stage's mixture is to be swept? Name one in `stage`; those with a `mixture` are: "
            f"{', '.join(mixed) or 'none'}"
        )
    members = list(mixed[stage].members)
    if len(members) < 2 or any("." in name for name in members):
        raise SweepError(f"stages.{stage}.mixture: a sweep needs two sets or more, without dots in their names")
    return stage, members


def _over_simplex(proxy: Proxy, settings: SweepConfig) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    assert not isinstance(settings.design, Line)
    sets = len(proxy.members)
    try:
        mixtures = design.simplex(sets, settings.design.points, settings.least)
    except ValueError as error:
        raise SweepError(f"design: {error}") from error
    runs = [proxy.score(shares, seed) for shares in mixtures.tolist() for seed in range(settings.seeds)]
    surface = fitted(design.quadratic(_shares(runs)), _losses(runs))
    among = design.candidates(sets, settings.least)
    found = lowest(surface, design.quadratic(among))
    return runs, _proposal(proxy.members, among, found)


def _by_line(proxy: Proxy, settings: SweepConfig) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One set at a time: its share goes where the parabola through the scores is lowest."""
    assert isinstance(settings.design, Line)
    members = list(proxy.members)
    if unknown := [name for name in settings.design.of if name not in members]:
        raise SweepError(f"design.of: the mixture has no {unknown[0]!r}; there are: {', '.join(members)}")
    mixture = np.full(len(members), 1 / len(members))
    among, found = mixture[None], Lowest(0, float("nan"), float("nan"), np.zeros(0, np.int64))
    deviations, runs = dict.fromkeys(members, float("nan")), []
    for name in (settings.design.of or members) * settings.design.rounds:
        number, shares = members.index(name), sorted(settings.design.shares)
        tried = [design.with_share(mixture, number, share) for share in shares]
        mine = [proxy.score(each.tolist(), seed) for each in tried for seed in range(settings.seeds)]
        runs += mine
        places = np.linspace(shares[0], shares[-1], STEPS)
        found = lowest(fitted(_parabola(_shares(mine)[:, number]), _losses(mine)), _parabola(places))
        deviations[name] = float(places[found.draws].std()) if len(found.draws) else float("nan")
        among = np.array([design.with_share(mixture, number, share) for share in places.tolist()])
        mixture = among[found.place]
    proposal = _proposal(members, among, found)
    for name, deviation in deviations.items():
        proposal["shares"][name]["deviation"] = _number(deviation)
    return runs, proposal


def _parabola(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.ones(len(shares)), shares, shares**2], axis=1)


def _shares(runs: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    return np.array([list(run["shares"].values()) for run in runs])


def _losses(runs: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    return np.array([run["loss"] for run in runs])


def _proposal(members: Sequence[str], among: NDArray[np.float64], found: Lowest) -> dict[str, Any]:
    """Shares with their standard deviations, over the surfaces that the scores' noise allows."""
    deviations = among[found.draws].std(axis=0) if len(found.draws) else np.full(len(members), np.nan)
    shares: dict[str, dict[str, Any]] = {
        name: {"share": round(float(share), 4), "deviation": _number(deviation)}
        for name, share, deviation in zip(members, among[found.place], deviations, strict=True)
    }
    # Rounded, they sum to one again.
    rest = members[int(np.argmax(among[found.place]))]
    others = sum(each["share"] for name, each in shares.items() if name != rest)
    shares[rest]["share"] = round(1 - others, 4)
    return {"shares": shares, "loss": _number(found.score), "deviation": _number(found.error)}


def _number(value: float) -> float | None:
    """JSON has no word for what is no number."""
    return round(float(value), 6) if np.isfinite(value) else None


def _write_run(train_yaml: Path, stage: str, shares: Mapping[str, float], out: Path) -> None:
    raw = yaml_text.parse(train_yaml.read_text(encoding="utf-8"))
    for name, share in shares.items():
        raw["stages"][stage]["mixture"][name]["weight"] = share
    atomic.write_text(out, yaml.safe_dump(raw, sort_keys=False, allow_unicode=True))


def _write_recipe(asked: Written, shares: Mapping[str, float], folder: Path) -> Path:
    """The recipe with the shares as a stage's mixture, beside it: its paths are relative to its folder."""
    path = folder / asked.path
    try:
        raw = yaml_text.parse(path.read_text(encoding="utf-8"))
        stage = raw["stages"][asked.stage]
        missing = [name for name in shares if name not in raw["sources"]]
    except (OSError, KeyError, TypeError) as error:
        raise SweepError(f"recipe: {path} has no stage {asked.stage!r}, or is no recipe ({error})") from error
    if missing:
        raise SweepError(f"recipe: {path} has no source {missing[0]!r}: sets and sources must have the same names")
    stage["mixture"] = dict(shares)
    out = path.with_name(asked.out or f"{path.stem}-swept.yaml")
    atomic.write_text(out, yaml.safe_dump(raw, sort_keys=False, allow_unicode=True))
    return out
