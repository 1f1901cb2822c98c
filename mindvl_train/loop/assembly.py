"""Everything a run needs, found and checked before a file is written or a weight is drawn."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mindvl_data.manifest import Manifest
from mindvl_train import accelerators, plugins
from mindvl_train.accelerators import Accelerator
from mindvl_train.config.loading import LoadedConfig, validate
from mindvl_train.config.run_folder import START
from mindvl_train.config.schema import ModelSettings, TrainConfig
from mindvl_train.data.batch import Batch, BatchLayout
from mindvl_train.kernels.registry import resolve
from mindvl_train.loop.optim import build_optimizer, freeze_all_but
from mindvl_train.loop.stages import Stage, open_manifest, open_stages
from mindvl_train.loop.tokenizer_fit import check_fit
from mindvl_train.models.spec import BeforeStep, ModelSpec
from mindvl_train.parallel.fit import Limits, StageShape, limits_of
from mindvl_train.presets import read_preset
from mindvl_train.weights.checkpoint import newest
from mindvl_train.weights.imported import DESCRIPTION, Imported, ImportedError, read_description, read_imported
from mindvl_train.weights.processing import of_manifest

# Of a size: that of the first stage's set.
AUTO = "auto"


@dataclass(frozen=True)
class Assembly:
    """The parts of a run.

    Attributes:
        config: the validated YAML.
        record: what `run.json` keeps of it, with the ids of the manifests.
        model: on the meta device, without weights yet.
        weights: what it begins with; None: fresh draws.
        before_step, after_step: what to do with it before and after every optimizer step.
        flops: (batch, times its parts' arithmetic is done, ranks that share it) → operations of one rank.
        kernel_names: the implementation of every operation.
        layout: how packs become batches.
        stages: those that train, in their order.
        average: the last stage's name and the shares of others in it, if it is an average.
        limits: what a mesh can divide.
        holdout: the held-out set, if there is one.
        accelerator: where the model trains.
        start: the model folder that it begins from, while it is there.
    """

    config: TrainConfig
    record: dict[str, Any]
    model: nn.Module
    weights: Mapping[str, Tensor] | None
    before_step: BeforeStep
    after_step: Callable[[nn.Module], Mapping[str, float]]
    flops: Callable[[Batch, Mapping[str, int], int], float] | None
    kernel_names: dict[str, str]
    layout: BatchLayout
    stages: list[Stage]
    average: tuple[str, Mapping[str, float]] | None
    limits: Limits
    holdout: Manifest | None
    accelerator: Accelerator
    start: Path | None = None

    def data_of(self, stage: str, parents: Iterable[str] = ()) -> dict[str, Any]:
        """What the model is asked with after a stage; after an average, that of the last stage in it.

        Args:
            stage: its name; that of an average is none of `stages`.
            parents: the names of the checkpoints that an average is made of: each ends in its stage's.
        """
        names = {parent.split("-", 2)[2] for parent in parents} or {stage}
        last = [each for each in self.stages if each.name in names][-1]
        return of_manifest(last.manifest)

    @property
    def keeps_losses(self) -> bool:
        """Whether every sample's loss is written down: it is asked for, or a stage selects by it."""
        return self.config.losses or any(stage.selection for stage in self.stages)

    @property
    def last_stage(self) -> int:
        """What a finished run's progress counts: all stages, the average among them."""
        return len(self.stages) + bool(self.average)

    @property
    def kinds(self) -> dict[str, str]:
        """Of every source that some stage sees, its kind."""
        manifests = [manifest for stage in self.stages for manifest in stage.manifests.values()]
        sources = [source for manifest in manifests for source in manifest.data["sources"].items()]
        return {name: str(source.get("kind") or name) for name, source in sources}

    @property
    def total_tokens(self) -> int:
        """Tokens that the whole run delivers, padding included."""
        return sum(stage.total_tokens for stage in self.stages)

    def tokens_before(self, stage: int, stage_step: int) -> int:
        """Of them, those delivered before a step of a stage; `stage` may be the number of stages."""
        before = sum(each.total_tokens for each in self.stages[:stage])
        return before + sum(each.tokens_per_step * stage_step for each in self.stages[stage : stage + 1])


def assemble(loaded: LoadedConfig, where: str, folder: Path | None = None) -> Assembly:
    """Finds the plugins, opens the manifests and holds them against the model.

    Args:
        loaded: the run's configuration.
        where: its file, for messages.
        folder: the run's own, if it may have begun: it then needs the weights no more that it began from.

    Raises:
        UserError: something is missing or does not fit.
    """
    config = loaded.config
    accelerator = accelerators.choose(config.accelerator)
    kernels = resolve(config.kernels, accelerator.device_type, config.precision)
    spec: ModelSpec = plugins.load(plugins.MODELS, config.model.name)
    imported = _imported(config.model, folder)
    stages = open_stages(config)
    settings = imported.config if imported else spec.complete(_fresh(config.model), stages[0].manifest)
    model_config = validate(spec.config, settings, where, "model.config.")
    inputs = spec.inputs(model_config)
    holdout = open_manifest(Path(config.data) / config.holdout, "holdout") if config.holdout else None
    manifests = {
        f"{stage.name}.{key}" if key else stage.name: each for stage in stages for key, each in stage.manifests.items()
    }
    manifests |= {"holdout": holdout} if holdout else {}
    known = _known(config.model, imported)
    check_fit(list(manifests.values()), inputs, known.tokenizer_sha256, known.special_ids)
    with torch.device("meta"):
        model = spec.build(model_config, kernels)
    _check_globs(model, config)
    shapes = [StageShape(s.name, s.config.global_batch, s.config.micro_batch, s.manifest.seq_len) for s in stages]
    last = config.last_average
    weights = {name: manifest.source_weights for name, manifest in manifests.items() if manifest.source_weights}
    special_ids = _special_ids(manifests.values())
    facts = {
        "model": {"name": config.model.name, "config": settings, "weights_sha256": imported and imported.sha256},
        "weights": config.model.weights,
        "special_ids": special_ids,
        "manifests": {name: manifest.id for name, manifest in manifests.items()},
        # The id knows content alone.
        **({"source_weights": weights} if weights else {}),
    }
    return Assembly(
        config=config,
        record=loaded.record | facts,
        model=model,
        weights=imported.tensors if imported else None,
        before_step=spec.before_step,
        after_step=spec.after_step,
        flops=partial(spec.flops, model_config) if spec.flops else None,
        kernel_names=kernels.names,
        layout=inputs.layout(special_ids, config.loss_weight),
        stages=stages,
        average=(last[0], last[1].average) if last else None,
        limits=limits_of(model, shapes, holdout.seq_len if holdout else 0),
        holdout=holdout,
        accelerator=accelerator,
        start=imported.folder if imported and imported.tensors is not None else None,
    )


def _imported(model: ModelSettings, folder: Path | None) -> Imported | None:
    """The model folder that the run begins from, if it does; of one that is gone, what a run that has begun kept."""
    if model.weights is None:
        return None
    named, kept = Path(model.weights), folder / START if folder else None
    if kept and kept.exists() and newest(kept.parent / "checkpoints"):
        imported = read_description(named if (named / DESCRIPTION).exists() else kept)
    else:
        imported = read_imported(named)
    if imported.model != model.name:
        raise ImportedError(f"model.weights: {model.weights} holds a {imported.model!r}, model.name is {model.name!r}")
    return imported


def _known(model: ModelSettings, imported: Imported | None) -> ModelSettings:
    """The settings with what the published tokenizer says, where the YAML does not say otherwise."""
    if imported is None:
        return model
    return model.model_copy(
        update={
            "special_ids": imported.special_ids | model.special_ids,
            "tokenizer_sha256": model.tokenizer_sha256 or imported.tokenizer_sha256,
        }
    )


def _special_ids(manifests: Iterable[Manifest]) -> dict[str, int]:
    """Of all sets, which agree: one without videos does not say which token is theirs."""
    return {name: token for manifest in manifests for name, token in manifest.tokenizer["special_ids"].items()}


def _fresh(model: ModelSettings) -> dict[str, Any]:
    """What a fresh model's configuration says, without what is left to the data."""
    settings = model.config if model.preset is None else read_preset(model.preset)
    parts = {"vision": model.vision, "decoder": model.decoder}
    changed = settings | {part: {**settings[part], **sizes} for part, sizes in parts.items() if sizes}
    return {part: _stated(value) for part, value in changed.items()}


def _stated(value: Any) -> Any:
    return {key: one for key, one in value.items() if one != AUTO} if isinstance(value, Mapping) else value


def _check_globs(model: nn.Module, config: TrainConfig) -> None:
    """A glob that selects nothing in the last stage is better known before the first."""
    for stage in config.trained_stages.values():
        build_optimizer(freeze_all_but(model, stage.train), stage.lr, config.optimizer)
