"""What a model plugin is: an entry point of the group `mindvl_train.models` holds a `ModelSpec`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from torch import nn

from mindvl_data.manifest import Manifest
from mindvl_data.vision import CLIP, Normalisation
from mindvl_train.data.batch import Batch, BatchLayout
from mindvl_train.kernels.registry import Kernels


@dataclass(frozen=True)
class ModelInputs:
    """What a model expects of a manifest and of a batch.

    Attributes:
        vocab_size: rows of the embedding; may be padded beyond the tokenizer's vocabulary.
        patch: side of a vision patch in pixels.
        merge: patches on a side of the square that becomes one token.
        normalisation: of the pixels that its vision tower was made for.
        window: tokens on a side of the vision tower's windows; None: it has none.
        position_axes: 1, or 3 for positions in time, height and width.
        tokens_per_second: positions in time that a second of video takes.
    """

    vocab_size: int
    patch: int
    merge: int
    normalisation: Normalisation = CLIP
    window: int | None = None
    position_axes: int = 1
    tokens_per_second: int = 2

    def layout(self, special_ids: Mapping[str, int], loss_weight: str = "token") -> BatchLayout:
        """How packs whose special tokens have these ids become the model's batches."""
        return BatchLayout(
            patch=self.patch,
            merge=self.merge,
            image_pad=special_ids["image_pad"],
            video_pad=special_ids.get("video_pad"),
            normalisation=self.normalisation,
            window=self.window,
            position_axes=self.position_axes,
            tokens_per_second=self.tokens_per_second,
            loss_weight=loss_weight,
        )


BeforeStep = Callable[[nn.Module, float, Sequence[Callable[[], object]]], None]


@dataclass(frozen=True)
class ModelSpec:
    """How a model is configured, checked and built.

    Attributes:
        config: the frozen pydantic model of `model.config` in the run's YAML.
        inputs: config → what it expects of a manifest.
        build: (config, kernels) → a module whose `forward(batch)` returns the sum of weighted token losses;
            called on the meta device, so that a model costs nothing before its weights are known.
        before_step: called with the module before every optimizer step's micro-batches, with the sum of the targets'
            weights over all micro-batches of all ranks, and with this rank's forward passes without gradients, which
            it may run: for a loss of the whole step.
        after_step: called with the module after every optimizer step, for what does not train by gradients;
            returns what is to be logged of it.
        complete: (settings, manifest of the first stage) → the settings with the sizes that they leave open and the
            data say.
        flops: (config, batch, times its parts' forward arithmetic is done, ranks that share the batch) → the
            floating-point operations of one rank; None: nobody counts them.
    """

    config: type[BaseModel]
    inputs: Callable[[Any], ModelInputs]
    build: Callable[[Any, Kernels], nn.Module]
    before_step: BeforeStep = lambda model, weight, forwards: None
    after_step: Callable[[nn.Module], Mapping[str, float]] = lambda model: {}
    complete: Callable[[dict[str, Any], Manifest], dict[str, Any]] = lambda settings, manifest: settings
    flops: Callable[[Any, Batch, Mapping[str, int], int], float] | None = None
