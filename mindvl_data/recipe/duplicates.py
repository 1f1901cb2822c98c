"""The recipe's sections on what is there twice, and on what evaluation sets hold."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mindvl_data.recipe.fields import Model

MAX_DISTANCE = 8


class Alike(Model):
    """When two samples are alike: exactly, or nearly."""

    by: Literal["sample", "image", "text"]
    """All images in their order and all texts, or one of the two alone. Samples that have nothing of it are alike to
    none."""
    near: float | None = Field(None, gt=0)
    """By image: the most bits (1 to 8) of 64 in which perceptual hashes differ; every image is decoded for them. By
    text: the least Jaccard similarity (0.3 to 1) of their sets of 5-character pieces, as MinHash estimates it."""

    @model_validator(mode="after")
    def _near_what(self) -> Alike:
        if self.near is None:
            return self
        if self.by == "sample":
            raise ValueError(
                "near: whole samples are compared exactly; add a rule by: image or by: text for what is near"
            )
        if self.by == "image" and not (self.near == int(self.near) and 1 <= self.near <= MAX_DISTANCE):
            raise ValueError(f"near is {self.near:g}: by image it is a number of bits, 1 to {MAX_DISTANCE}")
        if self.by == "text" and not 0.3 <= self.near <= 1:
            raise ValueError(f"near is {self.near:g}: by text it is a similarity from 0.3 to 1")
        return self

    @property
    def said(self) -> str:
        return self.by if self.near is None else f"{self.by}, near {self.near:g}"


class Dedup(Alike):
    """Of samples that are alike, also through others, one stays."""

    by: Literal["sample", "image", "text"] = "sample"
    """`sample`: the same images in their order and the same texts. By image or text alone, of several questions about
    one picture, or of several pictures with one caption, a single one stays."""
    prefer: str | None = None
    """A Polars SQL expression: the sample in which it is largest stays. Ties, and by default all, go by the recipe's
    order of sources, then by sample id."""
    sources: tuple[str, ...] | None = None
    """The sources among which duplicates are looked for; by default all."""


class Decontaminate(Alike):
    """Drops every sample that is alike to one of an evaluation set; by image, that has one image like one of theirs."""

    against: tuple[str, ...] | None = None
    """Names in `evaluations`; by default all."""
    sources: tuple[str, ...] | None = None
    """The sources it applies to; by default all."""
