"""The whole recipe, and what no section can check alone."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

from pydantic import Field, field_validator, model_validator

from mindvl_data import vision
from mindvl_data.recipe.balance import Balance
from mindvl_data.recipe.duplicates import Decontaminate, Dedup
from mindvl_data.recipe.fields import Model, Name, nearest
from mindvl_data.recipe.filters import Filter, Holdout
from mindvl_data.recipe.forecast import Forecast
from mindvl_data.recipe.mixture import RESERVED
from mindvl_data.recipe.rewrite import Rewrite
from mindvl_data.recipe.scores import JudgeScore, Score
from mindvl_data.recipe.select import Select
from mindvl_data.recipe.sources import Limits, Resolution, Source, VideoBounds
from mindvl_data.recipe.stages import Order, Stage
from mindvl_data.runtime import plugins
from mindvl_data.tables.schema import FILTER_COLUMNS

PROCESSORS = "mindvl_data.processors"
CREDENTIALS = re.compile(r"://[^/]*@")


def _check_video(place: str, rule: vision.VideoRule | None) -> None:
    """Raises ValueError for bounds that are the wrong way round."""
    for least, most in (("min_pixels", "max_pixels"), ("min_frames", "max_frames")):
        if rule and getattr(rule, least) > getattr(rule, most):
            raise ValueError(f"{place}: {least} {getattr(rule, least)} is above {most} {getattr(rule, most)}")


class Recipe(Model):
    """A whole recipe: sources in, packed stages out."""

    name: Name
    seed: int = Field(0, ge=0)
    tokenizer: str
    """A tokenizer.json relative to the recipe, a hub id, or `qwen` (extra [qwen])."""
    chat_template: str = "qwen2-vl"
    """A table (`qwen2-vl`, `chatml`), `tokenizer` for the tokenizer's own, or a file of Jinja beside the recipe."""
    media: Literal["embed", "reference"] = "embed"
    """Whether shards hold the image bytes or say where they lie."""
    embed: Literal["clips", "frames"] = "clips"
    """What becomes of clips: `frames` encodes those that are looked at anew, resized, as JPEG of `frame_quality`. Then
    shards (or the build's `media/`, which references point to) hold them in the place of the clip."""
    frame_quality: int = Field(90, ge=1, le=100)
    embed_limit: int = Field(50_000_000_000, ge=0)
    """Bytes of images above which a packed set is not embedded without this being raised."""
    processor: str = "qwen2-vl"
    """Whose image rule: `qwen2-vl` (Qwen2-VL, Qwen2.5-VL), `qwen3-vl` (Qwen3-VL, Qwen3.5), or a plugin's."""
    resolution: Resolution = Resolution()
    """What is other than the processor's."""
    video: VideoBounds = VideoBounds()
    """Which frames of a clip are looked at, and at what size, where it is other than the processor's."""
    limits: Limits = Limits()
    sources: dict[Name, Source] = Field(min_length=1)
    scores: dict[Name, Score] = Field({})
    """Columns beside those of the samples table, under their names; scores without options need not stand here."""
    filters: tuple[Filter, ...] = ()
    evaluations: dict[Name, Source] = Field({})
    """Evaluation sets: read like sources, never drawn, and kept out of what is."""
    decontaminate: tuple[Decontaminate, ...] = ()
    dedup: tuple[Dedup, ...] = ()
    balance: tuple[Balance, ...] = ()
    select: tuple[Select, ...] = ()
    rewrite: tuple[Rewrite, ...] = ()
    holdout: Holdout | None = None
    stages: dict[Name, Stage] = Field(min_length=1)
    order: Order = Order()
    forecast: Forecast | None = None
    shard_bytes: int = Field(256 << 20, ge=1 << 10)
    max_bad: float = Field(0.01, ge=0, le=1)
    """The share of unusable samples of a source above which the build stops, where the source says none itself."""

    @model_validator(mode="after")
    def _names_exist(self) -> Recipe:
        asked = [(f"stages.{stage}.mixture", name) for stage, s in self.stages.items() for name in s.mixture.sources()]
        asked += [(f"filters.{i}.sources", name) for i, f in enumerate(self.filters) for name in f.sources or ()]
        asked += [(f"dedup.{i}.sources", name) for i, d in enumerate(self.dedup) for name in d.sources or ()]
        asked += [(f"balance.{i}.sources", name) for i, b in enumerate(self.balance) for name in b.sources or ()]
        asked += [(f"select.{i}.sources", name) for i, s in enumerate(self.select) for name in s.sources or ()]
        asked += [(f"rewrite.{i}.sources", name) for i, r in enumerate(self.rewrite) for name in r.sources or ()]
        asked += [(f"decontaminate.{i}.sources", n) for i, d in enumerate(self.decontaminate) for n in d.sources or ()]
        for place, name in asked:
            if name not in self.sources:
                known = [*self.sources, *(RESERVED if place.endswith("mixture") else ())]
                raise ValueError(f"{place}: there is no source {name!r}{nearest(name, known)}")
        if taken := [name for name in self.sources if name in RESERVED]:
            raise ValueError(f"sources.{taken[0]}: the name means something in a mixture; choose another")
        if unknown := [name for name in (self.forecast.trains if self.forecast else ()) if name not in self.stages]:
            raise ValueError(f"forecast.trains: there is no stage {unknown[0]!r}{nearest(unknown[0], self.stages)}")
        if len({f.name or f.preset for f in self.filters}) != len(self.filters):
            raise ValueError("filters: two have the same name")
        if self.holdout and "holdout" in self.stages:
            raise ValueError("stages.holdout: the name is taken by the held-out set")
        return self

    @field_validator("processor")
    @classmethod
    def _processor_exists(cls, name: str) -> str:
        plugins.load(PROCESSORS, name)
        return name

    @model_validator(mode="after")
    def _pictures_have_one_rule(self) -> Recipe:
        published: vision.Resolution = plugins.load(PROCESSORS, self.processor)
        given = self.resolution
        if (given.patch or published.patch) != published.patch and not (given.mean and given.deviation):
            raise ValueError(
                f"resolution.patch: {given.patch} is not that of the processor {self.processor} ({published.patch}): "
                "name another `processor`, or give the `mean` and `deviation` of its tower too"
            )
        rules = {"resolution": self.image_rule()}
        rules |= {f"stages.{name}.resolution": self.image_rule(stage) for name, stage in self.stages.items()}
        for place, rule in rules.items():
            if rule.min_pixels > rule.max_pixels:
                raise ValueError(f"{place}: min_pixels {rule.min_pixels} is above max_pixels {rule.max_pixels}")
            _check_video(place.replace("resolution", "video"), rule.video)
        return self

    def image_rule(self, stage: Stage | None = None) -> vision.Resolution:
        """How a stage's pictures and clips become patches; without a stage, those of the held-out set."""
        rule = self.resolution.over(plugins.load(PROCESSORS, self.processor))
        rule = stage.resolution.over(rule) if stage else rule
        if rule.video is None:
            return rule
        video = self.video.over(rule.video)
        if stage:
            fit = min(stage.seq_len) if stage.overlong == "fewer_frames" else None
            video = replace(stage.video.over(video), fit_tokens=fit)
        if self.embed == "frames":
            video = replace(video, jpeg=self.frame_quality)
        return replace(rule, video=video)

    @model_validator(mode="after")
    def _evaluations_exist(self) -> Recipe:
        for number, rule in enumerate(self.decontaminate):
            for name in rule.against or ():
                if name not in self.evaluations:
                    known = nearest(name, self.evaluations)
                    raise ValueError(f"decontaminate.{number}.against: there is no evaluation set {name!r}{known}")
        if self.decontaminate and not self.evaluations:
            raise ValueError("decontaminate: there are no evaluation sets; name them in `evaluations`")
        if both := sorted(set(self.evaluations) & set(self.sources)):
            raise ValueError(f"evaluations.{both[0]}: a source has that name too")
        return self

    def capabilities_of(self, rule: Select) -> tuple[str, ...]:
        """The expressions that choose by a `select` rule; a score's name stands for all its numbers."""
        named = rule.by.capabilities
        if not isinstance(named, str):
            return named
        score = self.scores[named]
        if isinstance(score, JudgeScore):
            return tuple(f'"{name}"' for name, metric in score.questions.metrics.items() if not metric.labels)
        return tuple(f'"{column}"' for column in score.columns_of(named) if column != rule.by.styles)

    @model_validator(mode="after")
    def _selects_have_scores(self) -> Recipe:
        for number, rule in enumerate(self.select):
            named = rule.by.capabilities
            if isinstance(named, str) and named not in self.scores:
                raise ValueError(
                    f"select.{number}.by.capabilities: there is no score {named!r}"
                    f"{nearest(named, self.scores) if self.scores else ''}; or give a list of expressions"
                )
        if len({rule.name for rule in self.select}) != len(self.select):
            raise ValueError("select: two have the same name")
        return self

    @model_validator(mode="after")
    def _rewrites_fit(self) -> Recipe:
        for number, rule in enumerate(self.rewrite):
            for name in rule.sources or self.sources:
                if self.sources[name].boxes:
                    raise ValueError(
                        f"rewrite.{number}: the source {name} has boxes in its texts, which a new text would lose; "
                        "name the others in its `sources`"
                    )
        return self

    @model_validator(mode="after")
    def _columns_have_one_meaning(self) -> Recipe:
        taken = dict.fromkeys((*FILTER_COLUMNS, "source", "kind"), "the samples table")
        for name, score in self.scores.items():
            for column in score.columns_of(name):
                if column in taken:
                    raise ValueError(
                        f"scores.{name}: {taken[column]} has a column {column!r} already; name it otherwise"
                    )
                taken[column] = f"scores.{name}"
        return self

    @model_validator(mode="after")
    def _no_credentials(self) -> Recipe:
        for name, source in (*self.sources.items(), *self.evaluations.items()):
            if any(CREDENTIALS.search(place) for place in (*source.path, source.images or "")):
                raise ValueError(
                    f"sources.{name}: a URL with a user or password would be written into every manifest; "
                    "configure the store's own credentials instead"
                )
        for name, score in self.scores.items():
            if any(CREDENTIALS.search(place) for place in getattr(score, "path", ())):
                raise ValueError(f"scores.{name}.path: a URL with a user or password would be written into manifests")
        return self
