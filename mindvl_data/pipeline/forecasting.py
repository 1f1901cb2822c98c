"""A forecast: what a recipe would make and what training on it would cost, from declared sizes alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mindvl_data.errors import BuildError
from mindvl_data.pipeline.compute import Workload, device_of, model_of, training_flops
from mindvl_data.pipeline.spec import Spec, specs
from mindvl_data.recipe import Budget, Forecast, Recipe, Size
from mindvl_data.steps.mix import Asked, ask, check_repeats

# Of a shard, beside the images' bytes: 4 bytes and a bit a token; ids, borders and grids a sample and an image.
BYTES_PER_TOKEN = 4.125
BYTES_PER_SEGMENT = 64
# Seconds of a core a sample, from scan to publishing: 26.2 for 50,000 captioned pictures (README, a whole build).
BUILD_SECONDS = 26.2 / 50_000


@dataclass(frozen=True)
class Declared:
    """A source by its declared size, in what a stage's shares are shares of."""

    declared: Size
    by: str

    def __len__(self) -> int:
        return self.declared.samples

    @property
    def total_tokens(self) -> int:
        return round(self.declared.samples * self.declared.tokens_per_sample)

    @property
    def size(self) -> int:
        each = {
            "samples": 1.0,
            "tokens": self.declared.tokens_per_sample,
            "loss_tokens": self.declared.loss_tokens_per_sample or 0.0,
        }
        return round(self.declared.samples * each[self.by])


def forecast(recipe: Recipe) -> list[dict[str, Any]]:
    """Every packed set but the held-out one. Raises BuildError where a size is missing, MixError as a build does."""
    return [_forecast(recipe, spec) for spec in specs(recipe) if spec.mixture is not None]


def _forecast(recipe: Recipe, spec: Spec) -> dict[str, Any]:
    assert spec.mixture is not None
    stocks = {name: _declared(recipe, spec, name) for name in spec.mixture.sources()}
    budget = spec.budget
    if budget and budget.packs:
        budget = Budget(tokens=budget.packs * spec.fit_len)
    asked = ask(stocks, spec.mixture, budget, spec.by, spec.stage)
    check_repeats(stocks, asked, spec.max_epochs, spec.by, spec.stage)
    sources = {name: _drawn(asked, name, stock) for name, stock in stocks.items()}
    columns = ("samples", "tokens", "vision_tokens", "images", "image_bytes")
    total = {column: sum(source[column] for source in sources.values()) for column in columns}
    # Packing leaves next to nothing empty: docs/packing.md.
    packs = math.ceil(total["tokens"] / spec.seq_len)
    embedded = total.pop("image_bytes") if recipe.media == "embed" else 0
    disk = packs * spec.seq_len * BYTES_PER_TOKEN + BYTES_PER_SEGMENT * (total["samples"] + total["images"]) + embedded
    found = {"name": spec.name, "stage": spec.stage, "seq_len": spec.seq_len, "by": spec.by, "total": total}
    hours = round(BUILD_SECONDS * total["samples"] / 3600, 2)
    found |= {
        "packs": packs,
        "disk": round(disk),
        "build_core_hours": hours,
        "sources": sources,
        "unknown": _unknown(recipe, spec),
    }
    if recipe.select:
        found["select"] = {rule.name: rule.share for rule in recipe.select}
    if recipe.forecast:
        found["training"] = _training(recipe, recipe.forecast, spec, total)
    return found


def _declared(recipe: Recipe, spec: Spec, name: str) -> Declared:
    size = recipe.sources[name].size
    if size is None:
        raise BuildError(
            f"sources.{name}.size: a forecast reckons with declared sizes; give `size: {{samples: …, "
            "tokens_per_sample: …}`, or leave --forecast out to plan from the data itself"
        )
    if spec.by == "loss_tokens" and not size.loss_tokens_per_sample:
        raise BuildError(f"sources.{name}.size.loss_tokens_per_sample: stages.{spec.stage} has shares of loss tokens")
    return Declared(size, spec.by)


def _drawn(asked: Asked, name: str, stock: Declared) -> dict[str, Any]:
    passes, size = asked.passes(name, stock.size), stock.declared
    samples = passes * size.samples
    return {
        "share": round(asked.shares[name], 6),
        "samples": round(samples),
        "tokens": round(samples * size.tokens_per_sample),
        "vision_tokens": round(samples * (size.vision_tokens_per_sample or 0)),
        "images": round(samples * size.images_per_sample),
        "image_bytes": round(samples * (size.image_bytes_per_sample or 0)),
        "epochs": round(passes, 4),
    }


def _unknown(recipe: Recipe, spec: Spec) -> list[str]:
    """What no size says although something above needs it: counted as 0."""
    assert spec.mixture is not None
    needed = ["vision_tokens_per_sample"] if recipe.forecast else []
    needed += ["image_bytes_per_sample"] if recipe.media == "embed" else []
    sizes = {name: recipe.sources[name].size for name in spec.mixture.sources()}
    with_images = {name: size for name, size in sizes.items() if size and size.images_per_sample}
    return [
        f"sources.{name}.size.{key}" for name, s in with_images.items() for key in needed if getattr(s, key) is None
    ]


def _training(recipe: Recipe, asked: Forecast, spec: Spec, total: Mapping[str, float]) -> dict[str, Any]:
    model, device = model_of(asked.model), device_of(asked.device)
    patches = total["vision_tokens"] * spec.resolution.merge**2
    work = Workload(
        tokens=total["tokens"],
        length=total["tokens"] / total["samples"],
        vision_tokens=total["vision_tokens"],
        patches=patches,
        patches_per_image=patches / total["images"] if total["images"] else 0.0,
    )
    flops = training_flops(model, work, asked.trains.get(spec.stage, ("vision", "projector", "decoder")))
    seconds = sum(flops.values()) / (device.peak_flops * asked.utilisation)
    cost = round(asked.price * seconds / 3600) if asked.price else None
    return {
        **({} if cost is None else {"cost": cost}),
        "model": asked.model if isinstance(asked.model, str) else "the recipe's own",
        "device": asked.device if isinstance(asked.device, str) else "the recipe's own",
        "utilisation": asked.utilisation,
        "flops": {**flops, "total": sum(flops.values())},
        "device_hours": round(seconds / 3600, 2),
    }
