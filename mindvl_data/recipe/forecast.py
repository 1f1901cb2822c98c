"""The recipe's sections on what is known before there is data: sizes of sources, and what trains on them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mindvl_data.recipe.fields import Model, Name

Part = Literal["vision", "projector", "decoder"]


class Size(Model):
    """What is left of a source after the recipe's filters, as its publisher or an earlier build says."""

    samples: int = Field(ge=1)
    tokens_per_sample: float = Field(gt=0)
    """Text, vision and template tokens, on average, at the recipe's resolution."""
    loss_tokens_per_sample: float | None = Field(None, ge=0)
    vision_tokens_per_sample: float | None = Field(None, ge=0)
    images_per_sample: float = Field(1, ge=0)
    image_bytes_per_sample: float | None = Field(None, ge=0)
    """Bytes of the images as they are stored; what embedding them costs."""


class Tower(Model):
    """A stack of layers as arithmetic sees it."""

    parameters: int = Field(ge=0)
    """Those that every token is multiplied with: for experts the active ones, with the output head, without the
    input embedding."""
    layers: int = Field(ge=0)
    attention_width: int = Field(ge=0)
    """Heads times their dimension; where keys and values differ, the mean of both."""


class ModelSize(Model):
    """A model of your own, in the place of a name."""

    vision: Tower
    projector: int = Field(ge=0)
    """Parameters that every vision token is multiplied with, after the merge."""
    decoder: Tower
    source: str = ""


class DeviceSize(Model):
    """A device of your own, in the place of a name."""

    peak_flops: float = Field(gt=0)
    """Dense bfloat16 operations a second."""
    source: str = ""


class Forecast(Model):
    """What `plan --forecast` reckons training with."""

    model: str | ModelSize
    """A name of the table in mindvl_data/pipeline/compute.py, or numbers."""
    device: str | DeviceSize
    utilisation: float = Field(gt=0, le=1)
    """The share of the device's peak that training reaches."""
    price: float | None = Field(None, gt=0)
    """Of a device for an hour, in any currency: the cost is then said."""
    trains: dict[Name, tuple[Part, ...]] = Field({})
    """The parts that train in a stage; by default all."""
