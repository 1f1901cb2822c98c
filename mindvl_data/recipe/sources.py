"""The recipe's sections on what comes in: sources, what one sample may be, how images become patches."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import regex
from pydantic import Field, field_validator, model_validator

from mindvl_data import vision
from mindvl_data.recipe.fields import Model, Paths
from mindvl_data.recipe.forecast import Size

Mean = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(gt=0, le=1)]


class PixelBounds(Model):
    """A stage's own bounds, in pixels after the resize; what is left out is the recipe's."""

    min_pixels: int | None = Field(None, ge=1)
    max_pixels: int | None = Field(None, ge=1)

    def over(self, rule: vision.Resolution) -> vision.Resolution:
        """The rule with what is given here."""
        return replace(rule, **self.model_dump(exclude_none=True))


class VideoBounds(Model):
    """A stage's own rule for clips; what is left out is the recipe's, and there the processor's."""

    fps: float | None = Field(None, gt=0, le=1000)
    """Frames looked at a second."""
    frames: int | None = Field(None, ge=1, le=65_536)
    """So many frames instead, whatever the duration."""
    min_frames: int | None = Field(None, ge=1)
    max_frames: int | None = Field(None, ge=1, le=65_536)
    min_pixels: int | None = Field(None, ge=1)
    """After the resize: of a frame (qwen2-vl), or of all frames together (qwen3-vl)."""
    max_pixels: int | None = Field(None, ge=1)
    total_pixels: int | None = Field(None, ge=1)
    """What all frames share where that leaves each less than `max_pixels`; two count as one (qwen2-vl)."""
    frame_pixels: int | None = Field(None, ge=1)
    """What one frame has at most (qwen3-vl)."""

    def over(self, rule: vision.VideoRule) -> vision.VideoRule:
        """The rule with what is given here."""
        return replace(rule, **self.model_dump(exclude_none=True))


class Resolution(PixelBounds):
    """How an image becomes patches; what is left out is the `processor`'s. Bounds are in pixels after the resize."""

    patch: int | None = Field(None, ge=1)
    merge: int | None = Field(None, ge=1)
    mean: tuple[Mean, Mean, Mean] | None = None
    """Of red, green and blue on a scale of 0 to 1: what the tower was trained with, `image_mean` of its processor."""
    deviation: tuple[Deviation, Deviation, Deviation] | None = None
    """Likewise, `image_std`."""

    def over(self, rule: vision.Resolution) -> vision.Resolution:
        """The rule with what is given here."""
        given = self.model_dump(exclude_none=True)
        pixels = {name: given.pop(name) for name in vision.Normalisation._fields if name in given}
        return replace(rule, **given, normalisation=rule.normalisation._replace(**pixels))


class Boxes(Model):
    """What the boxes and points in a source's texts, or in its field `objects`, are and become."""

    from_: Literal["pixels", "unit", "thousand"] = Field(alias="from")
    """What they are: pixels of the picture as shown, 0 to 1, or 0 to 1000."""
    write: Literal["resized", "thousand"]
    """What they become: pixels of the picture as resized at each stage's bounds (Qwen2.5-VL), or thousandths of its
    sides (Qwen2-VL, Qwen3-VL)."""
    marks: Literal["text", "tokens"] = "text"
    """What stands around them: what the data has, or `tokens`: the control tokens of Qwen2-VL, `<|box_start|>` and
    its kin, in the place of `<box>`, `<quad>`, `<ref>` and of the places for `objects`."""
    pattern: str | None = None
    """A regular expression of your own instead of the known forms; its first group holds x and y alternating."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            regex.compile(pattern or "")
        except regex.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return pattern


class Load(Model):
    """What `format: datasets` gives to `datasets.load_dataset` beside the name."""

    rows: str
    """The format of its rows: messages, llava, sharegpt, captions, finevision, text, …"""
    config: str | None = None
    """One of its configurations."""
    split: str = "train"
    revision: str | None = None
    """Of a name on the hub: a commit, a tag or a branch."""
    streaming: bool = False
    """Reads rows as they come, and keeps no copy on this machine."""


class Source(Model):
    """Where samples come from and how their text is rendered."""

    format: str
    """The reader's name: webdataset, finevision, llava, messages, sharegpt, ..., or a plugin's."""
    path: Paths
    """Files, globs and brace ranges, relative to the recipe's folder, or a URL that fsspec knows."""
    kind: str
    """A label for grouping, for example caption or instruction."""
    render: Literal["chat", "caption", "plain"] | None = None
    """How turns become text; by default what the format says."""
    loss: Literal["answers", "all"] = "answers"
    """`all` trains on prompts too."""
    weight: float = Field(1.0, gt=0)
    """What a loss token of it weighs in the trainer's sum; nothing is drawn by it."""
    thinking: Literal["keep", "last", "drop"] = "keep"
    """Which thoughts of an assistant stay: all that the chat template keeps, those of the last round, or none."""
    split: Literal["turns"] | None = None
    """`turns`: a conversation with thoughts becomes a sample for every round, for a template that forgets them."""
    columns: dict[str, str] = Field({})
    """The data's names of fields, by the format's: `{caption: alt_text}`."""
    load: Load | None = None
    """Of `format: datasets`, whose `path` is a name on the hub or a folder: what to open, and as what to read it."""
    uids: str | None = None
    """A subset as DataComp publishes them, a sorted .npy of uids: only these, each as often as it is listed."""
    boxes: Boxes | None = None
    """What boxes and points in its texts are and how they are rewritten; by default they are text like any other."""
    check: Literal["header", "decode"] = "header"
    """`decode` decodes every image while scanning and finds what a sound header hides, at the price of doing so."""
    invalid_utf8: Literal["drop", "replace"] = "drop"
    """What becomes of text that is not UTF-8; `replace` counts what it replaced in the column `replaced`."""
    images: str | None = None
    """The folder that image paths are relative to; by default the folder of the file that names them."""
    max_bad: float | None = Field(None, ge=0, le=1)
    """The share of unusable samples above which the build stops; by default the recipe's."""
    licence: str | None = None
    """Recorded in the manifest."""
    size: Size | None = None
    """What is known of it before it is there: `plan --forecast` reckons with this and reads no data."""

    @model_validator(mode="after")
    def _loads_data_sets_alone(self) -> Source:
        if (self.format == "datasets") != (self.load is not None):
            raise ValueError("`format: datasets` and `load: {rows: …}` belong together")
        return self


class Limits(Model):
    """What one sample may be at most; more is a drop with its reason."""

    image_pixels: int = Field(178_956_970, ge=1, le=178_956_970)
    """Pixels of one image, by its header: the guard against decompression bombs."""
    images: int = Field(256, ge=0, le=32_767)
    """Images and clips of one sample."""
    video_frames: int = Field(1_000_000, ge=1, le=2**31 - 1)
    """Frames of one clip, by its time stamps."""
    text_chars: int = Field(2_000_000, ge=1, le=2**30)
