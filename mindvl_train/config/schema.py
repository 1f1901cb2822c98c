"""The run's YAML as frozen, typed models.

Validated once, here: an unknown key names its YAML path and the nearest known key. `${VAR}` is taken from the
environment; the run's record keeps it unresolved, so that what is secret stays out of the run's folder.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from mindvl_data.errors import UserError
from mindvl_train.kernels.registry import KernelConfig

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
AnyModel = TypeVar("AnyModel", bound=BaseModel)


class ConfigError(UserError):
    """A configuration that cannot be used; says where in the YAML, what is wrong and what is known."""


class Frozen(BaseModel):
    """What every part of the configuration is: closed and immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ModelSettings(Frozen):
    """Which model, and what it demands of a tokenizer beyond its vocabulary fitting the embedding.

    `config` describes a fresh model, `preset` is one of ours by its name; `weights` is a folder that `import`
    wrote, with the configuration in it. `vision` and `decoder` change single sizes of a preset. A vocabulary, patches
    and pixels that are left out, or `auto`, are those of the first stage's set.
    A model with published weights knows the ids that its weights were trained with, and may state the hash of
    its tokenizer; a fresh model takes those of the first stage's manifest.
    """

    name: str = "vlm"
    config: dict[str, Any] = {}
    preset: str | None = None
    vision: dict[str, Any] = {}
    decoder: dict[str, Any] = {}
    weights: str | None = None
    tokenizer_sha256: str | None = None
    special_ids: dict[str, int] = {}

    @model_validator(mode="after")
    def _one_description(self) -> "ModelSettings":
        if sum((bool(self.config), self.preset is not None, self.weights is not None)) != 1:
            raise ValueError("give exactly one of config, preset and weights (a folder that `import` wrote)")
        if (self.vision or self.decoder) and self.preset is None:
            raise ValueError("vision and decoder change a preset; without one write them into config")
        return self


class OptimizerConfig(Frozen):
    """AdamW (arXiv 1711.05101); matrices decay, norms and biases do not.

    decay_unreached: whether a parameter decays that no gradient has reached in the stage, such as the vision tower's in
    a stage without pictures.
    """

    betas: tuple[Share, Share] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    decay_unreached: bool = False
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
    """How long a stage lasts; one of these."""

    epochs: Positive | None = None
    """Passes over its manifest."""
    packs: Positive | None = None
    tokens: Positive | None = None
    """Padding included."""
    steps: Positive | None = None
    """Of the optimizer: of `global_batch` packs each."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "Until":
        if len(self.model_fields_set) != 1:
            raise ValueError("give exactly one of epochs, packs, tokens, steps")
        return self

    def in_packs(self, num_packs: int, seq_len: int) -> int:
        """The same in packs of a manifest that has `num_packs` of `seq_len` tokens; tokens round up.

        Not of steps, which are no number of packs: an epoch's last may be filled up.
        """
        if self.epochs is not None:
            return self.epochs * num_packs
        return self.packs if self.packs is not None else -(-(self.tokens or 0) // seq_len)


class SelectionConfig(Frozen):
    """What each epoch of a stage trains on, by the losses of the epochs before: `infobatch`, `seta` or a plugin's.

    prune: the share left out (infobatch: of the segments below the mean loss; seta: of all, before groups are made).
    groups, window: of seta, the groups of losses, and the share of them that an epoch sees. full: the share of epochs
    at the end without a selection by loss.
    """

    name: str
    prune: Share = 0.0
    groups: Positive = 10
    window: Annotated[float, Field(gt=0, le=1)] = 0.5
    full: Share = 0.125


class MemberConfig(Frozen):
    """A set of a stage's mixture. `weight`: packs of it to those of the others, a number or a schedule: knots [packs of
    the stage, weight] from pack 0 on, with straight lines of shares between them."""

    manifest: str
    weight: Annotated[float, Field(gt=0)] | Annotated[tuple[tuple[int, float], ...], Field(min_length=1)] = 1.0


class ControlConfig(Frozen):
    """Who chooses, step by step, which set of a mixture a step is of: `odm`, `given` or a plugin's.

    every: steps between two looks at the losses. warmup: steps with the given weights before the first. smoothing,
    floor, scale: of odm, how much of a reward stays when a new one comes, the least share of a set, what a loss counts.
    """

    name: str
    every: Positive = 10
    warmup: Annotated[int, Field(ge=0)] = 0
    smoothing: Share = 0.9
    floor: Share = 0.03
    scale: Annotated[float, Field(gt=0)] = 1.0


class StageConfig(Frozen):
    """One stage of a run: what it sees, what trains, how fast and how long.

    `from` names the stage whose weights it begins with, by default the stage before it. `train` and the keys of
    `lr` are globs over parameter names; of several `lr` globs the first that matches counts. `global_batch` is
    packs an optimizer step over all ranks, `micro_batch` packs a forward pass of one of them.
    """

    parent: str | None = Field(default=None, alias="from")
    manifest: str | None = None
    mixture: dict[str, MemberConfig] | None = None
    control: ControlConfig | None = None
    train: tuple[str, ...] = ("*",)
    lr: Annotated[dict[str, float], Field(min_length=1)]
    schedule: ScheduleConfig = ScheduleConfig()
    until: Until
    selection: SelectionConfig | None = None
    global_batch: Positive = 1
    micro_batch: Positive = 1

    @model_validator(mode="after")
    def _micro_divides_global(self) -> "StageConfig":
        if self.global_batch % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch} does not divide global_batch {self.global_batch}")
        return self

    @property
    def members(self) -> dict[str, MemberConfig]:
        """The sets of its mixture by name; of one set alone, that of no name."""
        return self.mixture or {"": MemberConfig(manifest=self.manifest or "")}

    @model_validator(mode="after")
    def _of_one_or_several(self) -> "StageConfig":
        if (self.manifest is None) != bool(self.mixture):
            raise ValueError("give either `manifest` or `mixture: {NAME: {manifest: …, weight: …}}`")
        if self.selection and self.mixture:
            raise ValueError("selection: an epoch is selected of one set; give `manifest`")
        if self.control is None:
            return self
        members = list((self.mixture or {}).values())
        if len(members) < 2 or any(not isinstance(each.weight, float) for each in members):
            raise ValueError("control: it chooses among two or more sets of a `mixture` whose weights are numbers")
        if self.until.epochs is not None:
            raise ValueError("control: nobody knows when an epoch ends, so give `until: {packs: N}` or tokens")
        return self

    @model_validator(mode="after")
    def _selects_by_epochs(self) -> "StageConfig":
        if self.selection and self.until.epochs is None:
            raise ValueError("selection: it chooses epoch by epoch, so give `until: {epochs: N}`")
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
    """What decodes images (threads, or processes where the loop keeps the interpreter busy), and steps kept ready.

    Of images that a set refers to and this user's build did not note here: `media_root` is the folder that their
    paths are relative to, `allow` what else of URLs and folders may be opened.
    """

    kind: Literal["threads", "processes"] = "threads"
    workers: Positive = 1
    ahead: Positive = 2
    media_root: str | None = None
    allow: tuple[str, ...] = ()


class CheckpointConfig(Frozen):
    """A checkpoint every so many steps, of which the last `keep` stay; the ends of stages stay as well."""

    every_steps: Positive = 100
    keep: Positive = 2


class AnswersConfig(Frozen):
    """Held-out questions that are answered at every checkpoint, for a look at what is learnt.

    samples: how many; 0: none. tokens: of an answer at most; each costs a pass over its question. Only a model that one
    rank has whole is asked.
    """

    samples: Annotated[int, Field(ge=0)] = 4
    tokens: Positive = 32


class TrainConfig(Frozen):
    """A run: the model, its stages in their order, and how it is carried out.

    `data` is the folder that `mindvl_data build` wrote: manifests lie beneath it. It and `out` are relative
    to the folder you stand in, as `build/<name>` was.
    """

    name: str
    seed: int = 0
    """Of drawn weights; of the order of data the manifest's own."""
    data: str = "."
    """The folder that `mindvl_data build` wrote."""
    out: str | None = None
    """Where checkpoints and the log go; by default runs/<name>."""
    model: ModelSettings
    accelerator: str = "auto"
    """npu, cuda, cpu, or a plugin's; by default the first of these that is there."""
    kernels: KernelConfig = KernelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    loss_weight: Literal["token", "sample", "square_root"] = "token"
    """What a loss token weighs: all alike, one over those of its sample, or one over their root (InternVL 2.5)."""
    holdout: str | None = None
    """The manifest of a held-out set: its loss before the first stage and after every one, and answers to it."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: weights are gathered and used in bfloat16; kept, summed and stepped in float32."""
    mesh: MeshConfig = MeshConfig()
    activation_checkpointing: bool = False
    """Blocks keep their inputs alone and compute the rest again in the backward pass."""
    peak_tflops: Annotated[float, Field(gt=0)] | None = None
    """Of one rank, as its vendor states it for this precision; the log then has the share that is reached (MFU)."""
    stages: Annotated[dict[str, AnyStage], Field(min_length=1)]
    non_finite: NonFiniteConfig = NonFiniteConfig()
    loader: LoaderConfig = LoaderConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    losses: bool = False
    """Whether the run's folder gets `losses.parquet`: of every sample the loss of its last visit."""
    answers: AnswersConfig = AnswersConfig()
    loggers: tuple[str, ...] = ()
    """Beside metrics.jsonl: tensorboard, wandb, mlflow, trackio, or a plugin's."""
    callbacks: tuple[str, ...] = ()
    """Plugins that are called with the record and the model."""

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
