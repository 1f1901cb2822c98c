"""Proxies: a run a mixture and seed, trained and scored in a folder of its own, so that nothing is done twice."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindvl_data import atomic
from mindvl_data.errors import UserError
from mindvl_data.stream import PackStream
from mindvl_train.answers.evaluation import evaluate, total
from mindvl_train.answers.opened import open_model
from mindvl_train.config.loading import load_config
from mindvl_train.loop.metrics import FILE_NAME, read_records
from mindvl_train.loop.run import train
from mindvl_train.loop.stages import open_manifest
from mindvl_train.sweeps.settings import HeldOut

SCORE = "score.json"


class SweepError(UserError):
    """A sweep that cannot be made; says why and what to do."""


@dataclass(frozen=True)
class Proxy:
    """How a mixture is tried.

    Attributes:
        train_yaml: the run; its stage's mixture is what changes.
        overrides: `--set` of all runs.
        stage, members: of the mixture.
        held_out: what is scored; None: the run's `holdout`.
        folder: of the sweep.
        told: hears of every score.
    """

    train_yaml: Path
    overrides: Sequence[str]
    stage: str
    members: Sequence[str]
    held_out: Mapping[str, HeldOut] | None
    folder: Path
    told: Callable[[Mapping[str, Any]], None]

    def score(self, shares: Sequence[float], seed: int) -> dict[str, Any]:
        """Trains and scores a mixture, or takes up what was done of it.

        Returns:
            shares, seed, loss (nats a target, the mean of the held-out sets by their weights) and losses by set.
        """
        rounded = {name: round(share, 6) for name, share in zip(self.members, shares, strict=True)}
        weights = [f"stages.{self.stage}.mixture.{name}.weight={share}" for name, share in rounded.items()]
        loaded = load_config(self.train_yaml, [*self.overrides, *weights, f"seed={seed}"])
        scored_by = {name: each.model_dump() for name, each in (self.held_out or {}).items()}
        key = json.dumps([rounded, seed, scored_by], sort_keys=True)
        folder = self.folder / "runs" / hashlib.sha256(key.encode()).hexdigest()[:12]
        train(loaded, str(self.train_yaml), folder)
        path = folder / SCORE
        if not path.exists():
            losses = self._losses(folder, Path(loaded.config.data))
            sets = self.held_out or {name: HeldOut(manifest="") for name in losses}
            loss = sum(sets[name].weight * loss for name, loss in losses.items())
            loss /= sum(sets[name].weight for name in losses)
            found = {"shares": rounded, "seed": seed, "loss": loss, "losses": losses}
            atomic.write_text(path, json.dumps(found) + "\n")
        result: dict[str, Any] = json.loads(path.read_text())
        self.told(result)
        return result

    def _losses(self, folder: Path, data: Path) -> dict[str, float]:
        if self.held_out is None:
            found = [record["loss"] for record in read_records(folder / FILE_NAME) if record["event"] == "evaluation"]
            if not found or found[-1] is None:
                raise SweepError(
                    f"{self.train_yaml}: nothing to score by: give the run a `holdout`, or `held_out` in --mixtures"
                )
            return {"holdout": found[-1]}
        opened, losses = open_model(folder), {}
        for name, each in self.held_out.items():
            manifest = open_manifest(data / each.manifest, f"held_out.{name}.manifest")
            asked = opened.for_set(manifest)
            score = total(evaluate(asked.model, PackStream(manifest), asked.layout, asked.device))
            if not score.targets:
                raise SweepError(f"held_out.{name}: no token of {manifest.where} has a loss; name another set")
            losses[name] = score.loss
        return losses
