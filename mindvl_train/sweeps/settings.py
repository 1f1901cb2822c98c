"""What a sweep tries and scores by: the YAML behind `--mixtures`."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mindvl_data.runtime import yaml_text
from mindvl_train.config.loading import validate
from mindvl_train.config.schema import ConfigError, Frozen, Positive


class HeldOut(Frozen):
    """A set that runs are scored on, and what its loss counts."""

    manifest: str
    weight: Annotated[float, Field(gt=0)] = 1.0


class Simplex(Frozen):
    """Mixtures all over the simplex: corners, middles of edges, the centre, and halfway to the corners (an augmented
    simplex-centroid design, Scheffé 1963); then so many more as `points` asks for."""

    kind: Literal["simplex"] = "simplex"
    points: Positive | None = None


class Line(Frozen):
    """One set's share at a time, the others in proportion; the best goes on to the next (arXiv 2607.24516).

    of: the sets in their order, by default all. rounds: how often it goes through them.
    """

    kind: Literal["line"]
    of: tuple[str, ...] = ()
    shares: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=3)]
    rounds: Positive = 1


class Written(Frozen):
    """The data recipe that gets the shares as the mixture of a stage; its sources are called as the sets are."""

    path: str
    stage: str
    out: str | None = None


class SweepConfig(Frozen):
    """A sweep over the weights of one stage's mixture.

    held_out: paths as those of the run's manifests; by default the run's `holdout`. least: the share that every set
    has at least. seeds: runs of every mixture.
    """

    stage: str | None = None
    design: Annotated[Simplex | Line, Field(discriminator="kind")] = Simplex()
    held_out: dict[str, HeldOut] | None = None
    least: Annotated[float, Field(gt=0, lt=1)] = 0.02
    seeds: Positive = 1
    recipe: Written | None = None

    @model_validator(mode="before")
    @classmethod
    def _simplex_unless_said(cls, data: Any) -> Any:
        design = data.get("design") if isinstance(data, dict) else None
        return {**data, "design": {"kind": "simplex", **design}} if isinstance(design, dict) else data

    @model_validator(mode="after")
    def _has_sets(self) -> "SweepConfig":
        if self.held_out is not None and not self.held_out:
            raise ValueError("held_out: name at least one set, or leave it out for the run's `holdout`")
        return self


def load_settings(path: Path) -> SweepConfig:
    """Reads the YAML.

    Raises:
        ConfigError: the file is missing or no YAML, a key is unknown or a value does not fit.
    """
    try:
        data = yaml_text.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a sweep's YAML") from error
    except yaml_text.YamlError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    return validate(SweepConfig, data or {}, str(path))
