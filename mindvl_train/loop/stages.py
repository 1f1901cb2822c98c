"""A stage of a run: its manifest, what trains in it, how fast and for how many steps."""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from mindvl_data.errors import UserError
from mindvl_data.manifest import Manifest, read_manifest
from mindvl_data.stream import Mixture
from mindvl_data.stream.course import lay_out
from mindvl_train import plugins
from mindvl_train.config.schema import StageConfig, TrainConfig
from mindvl_train.loop.controllers import Controller
from mindvl_train.loop.schedules import Schedule
from mindvl_train.loop.selections import Selection
from mindvl_train.weights.fingerprints import fingerprints


class MissingManifestError(UserError):
    """A manifest that the YAML names and nobody built."""


class MixtureError(UserError):
    """Sets that cannot be trained on together; says why."""


class FrozenMovedError(UserError):
    """A parameter that was frozen has changed: a fault in the trainer, and the stage is worth nothing."""


@dataclass(frozen=True)
class Stage:
    """A stage with its manifest opened and its schedule found.

    Attributes:
        name: its key in the run's YAML.
        parent: the stage whose weights it begins with; None: the run's first weights.
        config: its part of the YAML.
        manifests: what it trains on, by name in its mixture; of one alone the name is empty.
        schedule: the learning rate's shape.
        total_steps: optimizer steps from beginning to end; with a selection the most that they can be.
        selection: what each epoch trains on; None: all.
        controller: chooses among the sets of a mixture; None: their weights do.
    """

    name: str
    parent: str | None
    config: StageConfig
    manifests: Mapping[str, Manifest]
    schedule: Schedule
    total_steps: int
    selection: Selection | None = None
    controller: Controller | None = None

    @property
    def manifest(self) -> Manifest:
        """What it trains on, or the first of several: they have one length, tokenizer and rule of pictures."""
        return next(iter(self.manifests.values()))

    @property
    def streamed(self) -> Manifest | Mixture:
        """What its packs come from."""
        return _mixture(self.config, self.manifests) if self.config.mixture else self.manifest

    @property
    def where(self) -> str:
        """Its manifests' paths, for messages."""
        return ", ".join(str(manifest.path) for manifest in self.manifests.values())

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step over all ranks, padding included."""
        return self.config.global_batch * self.manifest.seq_len

    @property
    def total_tokens(self) -> int:
        """Tokens delivered from beginning to end, padding included."""
        return self.total_steps * self.tokens_per_step

    def factor(self, step: int) -> float:
        """The factor on every learning rate at a step of the stage, counted from 0."""
        return self.schedule(step, self.total_steps, self.config.schedule)


def open_stages(config: TrainConfig) -> list[Stage]:
    """The stages that train, in their order.

    Raises:
        MissingManifestError, ManifestError: a manifest is not there, or damaged.
        PluginError: a schedule that nobody registers.
    """
    stages: list[Stage] = []
    for name, stage in config.trained_stages.items():
        before = stages[-1].name if stages else None
        stages.append(_open_stage(name, stage, stage.parent or before, Path(config.data)))
    return stages


def open_manifest(path: Path, key: str) -> Manifest:
    """The manifest that the YAML names at `key`.

    Raises:
        MissingManifestError, ManifestError: it is not there, or damaged.
    """
    if not path.exists():
        raise MissingManifestError(
            f"{key}: {path} does not exist; build it with `python -m mindvl_data build RECIPE`, or set `data` to "
            "the folder that a build wrote"
        )
    return read_manifest(path)


def _open_stage(name: str, config: StageConfig, parent: str | None, data: Path) -> Stage:
    manifests = {
        key: open_manifest(data / each.manifest, f"stages.{name}.{f'mixture.{key}.' if key else ''}manifest")
        for key, each in config.members.items()
    }
    return Stage(
        name=name,
        parent=parent,
        config=config,
        manifests=manifests,
        schedule=plugins.load(plugins.SCHEDULES, config.schedule.name),
        total_steps=_total_steps(config, manifests),
        selection=plugins.load(plugins.SELECTIONS, config.selection.name) if config.selection else None,
        controller=plugins.load(plugins.CONTROLLERS, config.control.name) if config.control else None,
    )


def _total_steps(config: StageConfig, manifests: Mapping[str, Manifest]) -> int:
    """Of one set, whose epochs end with a step of their own, or of a mixture, where none does."""
    first, until = next(iter(manifests.values())), config.until
    if until.steps is not None:
        return until.steps
    if not config.mixture:
        packs = until.in_packs(first.num_packs, first.seq_len)
        return steps_for(packs, first.num_packs, config.global_batch)
    # Sets that do not fit together are found here, before a file is written.
    _check_alike(manifests)
    _, course = lay_out(_mixture(config, manifests), until.epochs)
    packs = until.in_packs(0, first.seq_len) if until.epochs is None else course.end or 0
    return -(-packs // config.global_batch)


def _check_alike(manifests: Mapping[str, Manifest]) -> None:
    """Raises MixtureError where sets say different things of one source, or of how a model is asked."""
    weights: dict[str, float] = {}
    for key, manifest in manifests.items():
        for name in manifest.data["sources"]:
            weight = manifest.source_weights.get(name, 1.0)
            if weights.setdefault(name, weight) != weight:
                raise MixtureError(
                    f"mixture.{key}: a loss token of the source {name} weighs {weight:g} here and {weights[name]:g} in "
                    "another set of the mixture; build them with one weight"
                )
    if len({json.dumps(manifest.data["chat_template"], sort_keys=True) for manifest in manifests.values()}) > 1:
        raise MixtureError(f"mixture: {', '.join(manifests)} were built with different chat templates")


def _mixture(config: StageConfig, manifests: Mapping[str, Manifest]) -> Mixture:
    return Mixture([(manifests[key], each.weight) for key, each in config.members.items()])


def steps_for(packs: int, packs_per_epoch: int, global_batch: int) -> int:
    """Steps that deliver `packs`; the last step of every epoch is filled up, not shared with the next."""
    epochs, rest = divmod(packs, packs_per_epoch)
    return epochs * -(-packs_per_epoch // global_batch) + -(-rest // global_batch)


@dataclass(frozen=True)
class Movement:
    """What a stage changed: tensors by part of the model, the first word of a parameter's name.

    Attributes:
        moved, unchanged: all of them.
        unreached: of the unchanged, those that train and that no gradient reached.
    """

    moved: dict[str, int]
    unchanged: dict[str, int]
    unreached: dict[str, int]


def movement(before: Mapping[str, str], model: nn.Module, unreached: Collection[str] = ()) -> Movement:
    """Compares the parameters with their fingerprints at the stage's beginning.

    Args:
        before: the fingerprints.
        model: as it is at the stage's end.
        unreached: the parameters that no gradient reached.

    Raises:
        FrozenMovedError: a parameter moved that does not train.
    """
    trains = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    moved: Counter[str] = Counter()
    unchanged: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for name, digest in fingerprints(model).items():
        changed = digest != before[name]
        if changed and not trains[name]:
            raise FrozenMovedError(f"{name} is frozen in this stage and has changed; please report this")
        part = name.split(".")[0]
        (moved if changed else unchanged)[part] += 1
        missed[part] += not changed and name in unreached
    return Movement(dict(moved), dict(unchanged), {part: count for part, count in missed.items() if count})
