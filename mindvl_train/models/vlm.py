"""The vision-language model: image features take the places of the image placeholders in the text stream."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from mindvl_data.manifest import Manifest
from mindvl_train.data.batch import Batch
from mindvl_train.kernels.cross_entropy import CHUNK
from mindvl_train.kernels.registry import Kernels
from mindvl_train.models.decoder import Decoder, DecoderConfig, Deepstack
from mindvl_train.models.flops import batch_flops
from mindvl_train.models.moe import auxiliary_loss, balance, begin_step
from mindvl_train.models.projector import Projector
from mindvl_train.models.spec import ModelInputs, ModelSpec
from mindvl_train.models.vit import VisionConfig, VisionTower


class VLMConfig(BaseModel):
    """A vision tower and a decoder; the projector's sizes follow from theirs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vision: VisionConfig
    decoder: DecoderConfig


@dataclass(frozen=True)
class GlobalBatch:
    """What a micro-batch must know of its step for a loss that is one of the whole step.

    Attributes:
        weight: the sum of the targets' weights, over all micro-batches of all ranks.
        tokens_of: see `auxiliary_loss`.
    """

    weight: float
    tokens_of: Callable[[Tensor], Tensor] = lambda part: part


class VLM(nn.Module):
    """`vision` → `projector` → `decoder`; these three names are what `train:` and `lr:` globs begin with.

    Args:
        config: has `vision` and `decoder`.
        kernels: the operations.
        decoder: makes the decoder of `config.decoder`: a module with the `embed_tokens`, `head` and `forward` of
            `Decoder`.
    """

    def __init__(self, config: Any, kernels: Kernels, decoder: Callable[[Any, Kernels], Any] = Decoder) -> None:
        super().__init__()
        self.vision = VisionTower(config.vision, kernels)
        self.projector = Projector(config.vision, config.decoder.hidden_size, kernels)
        self.decoder: Decoder = decoder(config.decoder, kernels)
        self.kernels = kernels
        # Brings features to the rank of their tokens; all are here unless ranks share packs.
        self.send_features: Callable[[Tensor, Batch], Tensor] = lambda features, batch: features
        # Of the step that a trainer is taking; a batch alone is a step of its own.
        self.step: GlobalBatch | None = None
        # [L] float32, of the last forward pass: every target's cross-entropy in nats.
        self.target_losses: Tensor | None = None

    def forward(self, batch: Batch) -> Tensor:
        """The sum over targets of weight · cross-entropy: a float32 scalar in nats, not yet normalised."""
        features = self.image_features(batch)
        hidden = self._hidden(batch, features)
        losses = self.kernels.cross_entropy(hidden.index_select(0, batch.predictors), self.decoder.head, batch.targets)
        self.target_losses = losses.detach()
        # A batch without images sends a masked grid through the tower: its features are placed nowhere, and
        # this term gives every vision parameter its (zero) gradient, so that no rank waits for another's.
        loss = (losses * batch.weights).sum() + 0.0 * features.sum()
        if not torch.is_grad_enabled():
            return loss
        step = self.step or GlobalBatch(batch.total_weight)
        auxiliary = auxiliary_loss(self.decoder, step.tokens_of)
        # A gradient and no value: the loss that is logged stays a cross-entropy. It counts like all targets of the
        # step, for the step divides by the sum of their weights.
        return loss if auxiliary is None else loss + step.weight * (auxiliary - auxiliary.detach())

    def predictions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """[L] float32 cross-entropies in nats and [L] int64 likeliest tokens at the places of the targets, with the
        logits of a few targets in memory at a time."""
        hidden = self._hidden(batch, self.image_features(batch)).index_select(0, batch.predictors)
        losses, likeliest = [], []
        for rows, targets in zip(torch.split(hidden, CHUNK), torch.split(batch.targets, CHUNK), strict=True):
            logits = F.linear(rows, self.decoder.head).float()
            losses.append(F.cross_entropy(logits, targets, reduction="none"))
            likeliest.append(logits.argmax(-1))
        return torch.cat(losses), torch.cat(likeliest)

    def logits(self, batch: Batch) -> Tensor:
        """[T, vocab_size]: the prediction of what follows each token of the stream."""
        return F.linear(self._hidden(batch, self.image_features(batch)), self.decoder.head)

    def next_token(self, batch: Batch, features: Tensor) -> Tensor:
        """A scalar, int64: the likeliest token after the stream's last; `features` are those of `image_features`."""
        hidden = self._hidden(batch, features)[-1]
        return F.linear(hidden, self.decoder.head).argmax()

    def image_features(self, batch: Batch) -> Tensor:
        """[P + masked, (1 + K) · hidden_size of the decoder]: what takes the places of the placeholders, and what is
        added there behind each of the decoder's first K layers (DeepStack; K is 0 without it)."""
        encoded, inner = self.vision(batch.pixels, batch.patch_positions, batch.image_segments, batch.window_segments)
        features: Tensor = self.projector(encoded, inner)
        return features

    def _hidden(self, batch: Batch, features: Tensor) -> Tensor:
        embeddings = self.decoder.embed_tokens(batch.ids)
        placed = self.send_features(features[: len(features) - batch.num_masked_features], batch)
        if len(placed) != len(batch.placeholders):
            raise ValueError(
                f"{len(placed)} image features for {len(batch.placeholders)} image placeholders: the batch's "
                "patches and tokens do not belong together"
            )
        first, *deeper = torch.split(placed.to(embeddings.dtype), embeddings.shape[1], dim=1)
        embeddings = embeddings.index_copy(0, batch.placeholders, first)
        # Only a decoder behind a tower with DeepStack need know of it.
        deepstack = {"deepstack": Deepstack(batch.placeholders, deeper)} if deeper else {}
        hidden: Tensor = self.decoder(embeddings, batch.positions, batch.segments, batch.real, **deepstack)
        return hidden


def _inputs(config: Any) -> ModelInputs:
    return ModelInputs(
        vocab_size=config.decoder.vocab_size,
        patch=config.vision.patch_size,
        merge=config.vision.spatial_merge_size,
        normalisation=config.vision.normalisation,
        window=config.vision.window,
        position_axes=1 if getattr(config.decoder, "mrope_section", None) is None else 3,
        tokens_per_second=config.vision.tokens_per_second,
    )


# What a tower calls what a manifest's resolution says.
PATCHES = {"patch_size": "patch", "spatial_merge_size": "merge", "mean": "mean", "deviation": "deviation"}


def complete(settings: dict[str, Any], manifest: Manifest) -> dict[str, Any]:
    """Settings of a model for a set: a vocabulary, patches and pixels that they do not state are the set's.

    Args:
        settings: as `model.config` of a run's YAML.
        manifest: of the set.
    """
    tokenizer, rule = manifest.tokenizer, manifest.resolution.described()
    vocabulary = max(tokenizer["vocab_size"], 1 + max(tokenizer["special_ids"].values()))
    # What a tower has anyway is left out: a run's record says no more than it must.
    patches = {key: rule[said] for key, said in PATCHES.items() if said in rule}
    defaults = VisionConfig.model_fields
    open_sizes = {
        "vision": {key: value for key, value in patches.items() if value != defaults[key].default},
        "decoder": {"vocab_size": vocabulary},
    }
    # Settings that are none are refused where all are.
    return settings | {
        part: sizes | settings[part] for part, sizes in open_sizes.items() if isinstance(settings.get(part), dict)
    }


def _before_step(model: nn.Module, weight: float, forwards: Sequence[Callable[[], object]]) -> None:
    assert isinstance(model, VLM)
    model.step = GlobalBatch(weight, begin_step(model, forwards))


def with_decoder(config: type[BaseModel], decoder: Callable[[Any, Kernels], nn.Module]) -> ModelSpec:
    """What a new decoder registers under `mindvl_train.models`: itself behind the tower and the projector.

    Args:
        config: has `vision: VisionConfig` and `decoder`, whose `vocab_size` and `hidden_size` are read.
        decoder: see `VLM`.
    """
    return ModelSpec(
        config=config,
        inputs=_inputs,
        build=lambda chosen, kernels: VLM(chosen, kernels, decoder),
        before_step=_before_step,
        complete=complete,
        after_step=balance,
    )


SPEC = replace(with_decoder(VLMConfig, Decoder), flops=batch_flops)
