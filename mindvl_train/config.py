"""The run's YAML as frozen, typed models.

Validated once, here: an unknown key names its YAML path and the nearest known key. `${VAR}` is taken from the
environment; the run's record keeps it unresolved, so that what is secret stays out of the run's folder.
"""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from mindvl_data.errors import UserError
from mindvl_train.kernels.registry import KernelConfig

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
AnyModel = TypeVar("AnyModel", bound=BaseModel)


class ConfigError(UserError):
    """A configuration that cannot be used; says where in the YAML, what is wrong and what is known."""


class Frozen(BaseModel):
    """What every part of the configuration is: closed and immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(Frozen):
    """Which model, and what it demands of a tokenizer beyond its vocabulary fitting the embedding.

    `config` describes a fresh model, `preset` is one of ours by its name; `weights` is a folder that `import`
    wrote, with the configuration in it.
    A model with published weights knows the ids that its weights were trained with, and may state the hash of
    its tokenizer; a fresh model takes those of the first stage's manifest.
    """

    name: str
    config: dict[str, Any] = {}
    preset: str | None = None
    weights: str | None = None
    tokenizer_sha256: str | None = None
    special_ids: dict[str, int] = {}

    @model_validator(mode="after")
    def _one_description(self) -> "ModelSettings":
        if sum((bool(self.config), self.preset is not None, self.weights is not None)) != 1:
            raise ValueError("give exactly one of config, preset and weights (a folder that `import` wrote)")
        return self


class OptimizerConfig(Frozen):
    """AdamW (arXiv 1711.05101); matrices decay, norms and biases do not."""

    betas: tuple[Share, Share] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_grad_norm: Annotated[float, Field(gt=0)] = 1.0


class ScheduleConfig(Frozen):
    """The shape of a stage's learning rate; shares are of the stage's steps.

    warmup: rises linearly from 0. decay: the falling tail of `wsd`. floor: what is left at the end, as a
    factor.
    """

    name: str = "cosine"
    warmup: Share = 0.0
    decay: Share = 0.2
    floor: Share = 0.0


class Until(Frozen):
    """How long a stage lasts: passes over its manifest, packs, or tokens (padding included); one of them."""

    epochs: Positive | None = None
    packs: Positive | None = None
    tokens: Positive | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "Until":
        if len(self.model_fields_set) != 1:
            raise ValueError("give exactly one of epochs, packs, tokens")
        return self

    def in_packs(self, num_packs: int, seq_len: int) -> int:
        """The same in packs of a manifest that has `num_packs` of `seq_len` tokens; tokens round up."""
        if self.epochs is not None:
            return self.epochs * num_packs
        return self.packs if self.packs is not None else -(-(self.tokens or 0) // seq_len)


class StageConfig(Frozen):
    """One stage of a run: what it sees, what trains, how fast and how long.

    `from` names the stage whose weights it begins with, by default the stage before it. `train` and the keys of
    `lr` are globs over parameter names; of several `lr` globs the first that matches counts. `global_batch` is
    packs an optimizer step over all ranks, `micro_batch` packs a forward pass of one of them.
    """

    parent: str | None = Field(default=None, alias="from")
    manifest: str
    train: tuple[str, ...] = ("*",)
    lr: Annotated[dict[str, float], Field(min_length=1)]
    schedule: ScheduleConfig = ScheduleConfig()
    until: Until
    global_batch: Positive = 1
    micro_batch: Positive = 1

    @model_validator(mode="after")
    def _micro_divides_global(self) -> "StageConfig":
        if self.global_batch % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch} does not divide global_batch {self.global_batch}")
        return self


class AverageConfig(Frozen):
    """The last stage of a run may be an average of the weights at other stages' ends, by name and share."""

    average: Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)]


# What a stage may be; the tags stand in the paths of pydantic's errors.
STAGE_KINDS: dict[str, type[Frozen]] = {"(trained)": StageConfig, "(averaged)": AverageConfig}


def _kind_of_stage(value: Any) -> str:
    averaged = isinstance(value, AverageConfig) or (isinstance(value, Mapping) and "average" in value)
    return "(averaged)" if averaged else "(trained)"


AnyStage = Annotated[
    Annotated[StageConfig, Tag("(trained)")] | Annotated[AverageConfig, Tag("(averaged)")],
    Discriminator(_kind_of_stage),
]


class NonFiniteConfig(Frozen):
    """What to do about a loss or gradient that is no number: stop and name its packs, or leave the step out.

    at_most: steps of a run that may be left out before it stops all the same.
    """

    action: Literal["stop", "skip"] = "stop"
    at_most: Positive = 10


class MeshConfig(Frozen):
    """How the ranks are laid out; the sizes of the first four multiply to the number of ranks.

    replicate: copies of the sharded model (HSDP). shard: ranks that a copy is sharded over; None takes those
    that the others leave. context: ranks that share the tokens of a pack (Ulysses). tensor: ranks that share
    attention heads and feed-forward widths. expert: ranks that share the experts; folded over the same ranks
    as shard, context and tensor.
    """

    replicate: Positive = 1
    shard: Positive | None = None
    context: Positive = 1
    tensor: Positive = 1
    expert: Positive = 1


class LoaderConfig(Frozen):
    """Threads that decode images, and optimizer steps kept ready."""

    workers: Positive = 1
    ahead: Positive = 2


class CheckpointConfig(Frozen):
    """A checkpoint every so many steps, of which the last `keep` stay; the ends of stages stay as well."""

    every_steps: Positive = 100
    keep: Positive = 2


class TrainConfig(Frozen):
    """A run: the model, its stages in their order, and how it is carried out.

    `data` is the folder that `mindvl_data build` wrote: manifests lie beneath it. It and `out` are relative
    to the folder you stand in, as `build/<name>` was. `resize`: how pictures are resized; `pillow` as the published
    processor does, `torch` faster and, by up to one of 255 levels, not quite the same.
    """

    name: str
    seed: int = 0
    data: str = "."
    out: str | None = None
    model: ModelSettings
    accelerator: str = "auto"
    kernels: KernelConfig = KernelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    loss_weight: Literal["token", "sample", "square_root"] = "token"
    resize: Literal["pillow", "torch"] = "pillow"
    holdout: str | None = None
    # bfloat16: weights are gathered and used in bfloat16; kept, summed and stepped in float32.
    precision: Literal["float32", "bfloat16"] = "float32"
    mesh: MeshConfig = MeshConfig()
    # Blocks keep their inputs alone and compute the rest again in the backward pass.
    activation_checkpointing: bool = False
    # Of one rank, as its vendor states it for this precision; the log then has the share that is reached (MFU).
    peak_tflops: Annotated[float, Field(gt=0)] | None = None
    stages: Annotated[dict[str, AnyStage], Field(min_length=1)]
    non_finite: NonFiniteConfig = NonFiniteConfig()
    loader: LoaderConfig = LoaderConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    loggers: tuple[str, ...] = ()
    callbacks: tuple[str, ...] = ()

    @property
    def trained_stages(self) -> dict[str, StageConfig]:
        """The stages that train, in their order."""
        return {name: stage for name, stage in self.stages.items() if isinstance(stage, StageConfig)}

    @property
    def last_average(self) -> tuple[str, AverageConfig] | None:
        """The name and content of the average that ends the run."""
        name, last = list(self.stages.items())[-1]
        return (name, last) if isinstance(last, AverageConfig) else None

    @model_validator(mode="after")
    def _stages_follow_from_earlier_ones(self) -> "TrainConfig":
        earlier: list[str] = []
        for name, stage in self.stages.items():
            named = list(stage.average) if isinstance(stage, AverageConfig) else [stage.parent or name]
            for other in named:
                if other not in earlier and other != name:
                    known = f"earlier are {', '.join(earlier)}" if earlier else "it is the first"
                    raise ValueError(f"{name}: there is no earlier stage {other!r}; {known}")
            if isinstance(stage, AverageConfig) and (name in stage.average or len(earlier) + 1 < len(self.stages)):
                raise ValueError(f"{name}: an average stands last and is made of earlier stages")
            if not re.fullmatch(r"[\w.+-]+", name):
                raise ValueError(f"{name}: a stage's name is part of a folder's: letters, digits and _ . + - only")
            earlier.append(name)
        if not self.trained_stages:
            raise ValueError("no stage trains")
        return self


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration, and as `record` what the run's folder keeps of it: `${VAR}` unresolved."""

    config: TrainConfig
    record: dict[str, Any]


def load_config(path: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Reads the YAML at `path` and applies `--set` overrides of the form `path.to.key=value`.

    Raises:
        ConfigError: the file is missing or no YAML, a key is unknown or a value does not fit.
    """
    raw = _read_yaml(path)
    for override in overrides:
        _set(raw, override)
    config = validate(TrainConfig, _resolve(raw, ""), str(path))
    record = _keep_unresolved(config.model_dump(mode="json", by_alias=True), raw)
    return LoadedConfig(config, record)


def validate(model: type[AnyModel], data: Any, where: str, prefix: str = "") -> AnyModel:
    """`data` as `model`.

    Args:
        model: the pydantic model to build.
        data: what the YAML holds at `prefix`.
        where: the file, for messages.
        prefix: YAML path of `data`, for messages, ending in a dot unless empty.

    Raises:
        ConfigError: lists every problem with its YAML path.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = [_problem(model, prefix, dict(each)) for each in error.errors()]
        raise ConfigError("\n".join(f"{where}: {problem}" for problem in problems)) from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a run's YAML") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: holds no mapping; a run's YAML begins with `name:`, `model:` and `stages:`")
    return data


def _set(data: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {override}: expected path.to.key=value")
    *parents, last = dotted.split(".")
    for key in parents:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise ConfigError(f"--set {override}: {key!r} is a value, not a mapping")
    try:
        data[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not YAML: {error}") from error


def _resolve(value: Any, where: str) -> Any:
    """The same tree with `${VAR}` in its strings replaced from the environment."""
    if isinstance(value, Mapping):
        return {key: _resolve(item, f"{where}.{key}" if where else str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, f"{where}.{index}") for index, item in enumerate(value)]
    return re.sub(r"\$\{(\w+)\}", lambda found: _variable(found[1], where), value) if _refers(value) else value


def _refers(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def _variable(name: str, where: str) -> str:
    if name not in os.environ:
        raise ConfigError(f"{where}: the environment variable {name} is not set; export it or write the value")
    return os.environ[name]


def _keep_unresolved(record: Any, raw: Any) -> Any:
    """`record` with the strings of `raw` that refer to a variable put back."""
    if isinstance(record, dict) and isinstance(raw, Mapping):
        return {key: _keep_unresolved(value, raw.get(key)) for key, value in record.items()}
    if isinstance(record, list) and isinstance(raw, list):
        return [_keep_unresolved(value, given) for value, given in zip(record, raw, strict=True)]
    return raw if _refers(raw) else record


def _problem(model: type[BaseModel], prefix: str, error: dict[str, Any]) -> str:
    path = [str(part) for part in error["loc"]]
    dotted = prefix + ".".join(part for part in path if part not in STAGE_KINDS)
    if error["type"] != "extra_forbidden":
        return f"{dotted.rstrip('.')}: {error['msg'].removeprefix('Value error, ')}"
    known = _known_keys(model, path[:-1])
    near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? Known keys: " if near else "known keys: "
    return f"{dotted}: unknown key; {hint}{', '.join(known)}"


def _known_keys(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys of the model that lies at `path` below `model`."""
    annotation: Any = model
    for key in path:
        if key in STAGE_KINDS:
            annotation = STAGE_KINDS[key]
            continue
        is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        # Below a model lies one of its fields, below a mapping what it holds.
        annotation = annotation.model_fields[key].annotation if is_model else get_args(annotation)[-1]
    return [field.alias or name for name, field in annotation.model_fields.items()]
