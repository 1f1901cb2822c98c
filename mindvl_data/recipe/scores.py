"""The recipe's section on scores: columns beside those of the samples table, for filters to name."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import Field

from mindvl_data.recipe.fields import Model, Name, Paths
from mindvl_data.recipe.judges import Asking


class ScoreModel(Model):
    """What can be asked of every score of a recipe."""

    def columns_of(self, name: str) -> tuple[str, ...]:
        """The columns that the score of this name gives."""
        return (name,)

    def files(self) -> dict[str, str]:
        """The files that it must have, by the key that names them."""
        return {}


class FunctionScore(ScoreModel):
    """A score from the table of functions (`mindvl_data.scores`), with options; without options none is needed."""

    by: Literal["function"]
    function: str
    options: dict[str, Any] = Field({})
    """What the function takes after its `*`; paths are relative to the recipe's folder."""


class JoinedScore(ScoreModel):
    """Columns of Parquet files from elsewhere, found by a key. A key that stands in them twice is an error."""

    by: Literal["joined"]
    path: Paths
    """Files, globs and brace ranges, relative to the recipe's folder, or a URL that fsspec knows."""
    on: Literal["uid", "key", "sample_id"] = "uid"
    """What of a sample is looked up; `key` only where no two samples share one; `sample_id` in hexadecimal."""
    column: str | None = None
    """What the files call it; by default as `on` does."""
    columns: dict[Name, str] = Field(min_length=1)
    """The columns to take: `ours: theirs`. A sample that the files have not has null there."""

    def columns_of(self, name: str) -> tuple[str, ...]:
        return tuple(self.columns)


class UidsScore(ScoreModel):
    """Whether a sample's uid is in a list as DataComp publishes them: a sorted .npy of `u8,u8`.

    A truth value like any other: `where: "dfn or su >= 85"` is a union, `and` an intersection, `not` takes away.
    """

    by: Literal["uids"]
    path: str

    def files(self) -> dict[str, str]:
        return {"path": self.path}


class NearestScore(ScoreModel):
    """The number of the nearest of given centres (largest inner product), for the embedding of another score."""

    by: Literal["nearest"]
    of: str
    """The column of embeddings."""
    centres: str
    """A .npy of float32 or float16 [centres, width]."""
    targets: str | None = None
    """A .npy of embeddings, or of numbers of centres: the score is then whether the nearest centre is one of theirs."""

    def files(self) -> dict[str, str]:
        return {"centres": self.centres} | ({"targets": self.targets} if self.targets else {})


class ClustersScore(ScoreModel):
    """The number of a sample's cluster: k-means over the embeddings of another score (extra [cluster])."""

    by: Literal["clusters"]
    of: str
    """The column of embeddings."""
    clusters: int = Field(ge=2)
    iterations: int = Field(20, ge=1)


class LeverageScore(ScoreModel):
    """How much of the principal directions of all embeddings of another score a sample carries (ScalSelect)."""

    by: Literal["leverage"]
    of: str
    """The column of embeddings."""
    energy: float = Field(0.9, gt=0, le=1)
    """The share of the embeddings' energy, Σ σ², that the fewest directions hold which count."""


class ClipScore(ScoreModel):
    """How well text and images fit: the cosine of their CLIP embeddings, by open_clip (extra [clip])."""

    by: Literal["clip"]
    model: str
    """An architecture that open_clip knows, `hf-hub:ORG/NAME`, or a folder with open_clip_config.json."""
    weights: str | None = None
    """Of an architecture: a name that open_clip knows, or a file."""
    device: Literal["auto", "cpu", "cuda", "npu"] = "auto"
    batch: int = Field(256, ge=1)
    embeddings: bool = False
    """Keeps the embeddings as the columns NAME_image and NAME_text."""

    def columns_of(self, name: str) -> tuple[str, ...]:
        return (name, f"{name}_image", f"{name}_text") if self.embeddings else (name,)

    def files(self) -> dict[str, str]:
        return {"weights": self.weights} if self.weights and PurePath(self.weights).suffix else {}


class JudgeScore(Asking, ScoreModel):
    """What a model that sees picture and text says of them; a column a metric, and NAME_reason where there is none."""

    by: Literal["judge"]

    def columns_of(self, name: str) -> tuple[str, ...]:
        return (*self.questions.metrics, f"{name}_reason")


# Those that ask a model, and those that are made of another score's embeddings.
AskingScore = ClipScore | JudgeScore
EmbeddingScore = NearestScore | ClustersScore | LeverageScore
Score = Annotated[
    FunctionScore | JoinedScore | UidsScore | EmbeddingScore | AskingScore,
    Field(discriminator="by"),
]
