"""Packs for the page: the first of each set to scale, with text, what of it is trained on, and pictures; step costs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from mindvl_data.errors import UserError
from mindvl_data.inspect import packs as looking
from mindvl_data.inspect.report.pictures import Thumbnails
from mindvl_data.inspect.report.shapes import in_segment
from mindvl_data.manifest import Manifest, pack_costs, packs_of
from mindvl_data.media import access_to
from mindvl_data.shards import Pack, PackImage

SHOWN = 16
# Characters of text in a pack, and in a stretch of it.
TEXT, SPAN = 12_000, 1_500
MOST_PICTURES = 24
MOST_POINTS = 300


def shown(manifest: Manifest, thumbnails: Thumbnails) -> dict[str, Any]:
    """The first packs of a set, and why there are none where its shards are not at hand."""
    if manifest.store is not None:
        return {"packs": [], "note": "The packs lie in a store: open the report of the build folder to see them."}
    try:
        decode, note = looking.decoder_of(manifest, access_to(manifest.build_folder))
        found = list(itertools.islice(packs_of(manifest), SHOWN))
    except UserError as error:
        return {"packs": [], "note": str(error)}
    rules = {name: one["boxes"] for name, one in manifest.data["recipe"]["sources"].items() if one.get("boxes")}
    made = []
    for pack in found:
        segments = looking.segments(pack, manifest.pads, decode)
        made.append(_pack(pack, segments, thumbnails))
        for drawn, whole in zip(made[-1]["segments"], segments, strict=True):
            if whole["source"] in rules:
                in_segment(drawn["spans"], whole["spans"], rules[whole["source"]], manifest.data["resolution"])
    return {"packs": made, "note": note if made else "The shards are not beside the manifest."}


def _pack(pack: Pack, segments: list[dict[str, Any]], thumbnails: Thumbnails) -> dict[str, Any]:
    images = {image.start: image for image in pack.images}
    left = {"text": TEXT, "pictures": MOST_PICTURES}
    return {
        "index": pack.index,
        "tokens": pack.num_tokens,
        "loss_tokens": int(pack.loss_mask.sum()),
        "patches": pack.num_patches,
        "attention": pack.attention_cost,
        "segments": [
            {
                **{key: segment[key] for key in ("start", "stop", "source", "repeat", "loss_tokens")},
                "id": segment["sample_id"],
                "spans": [_span(span, images, left, thumbnails) for span in segment["spans"]],
            }
            for segment in segments
        ],
    }


def _span(
    span: Mapping[str, Any], images: Mapping[int, PackImage], left: dict[str, int], thumbnails: Thumbnails
) -> dict[str, Any]:
    """A stretch: where it ends, and its text or picture as far as `left` has room."""
    made: dict[str, Any] = {"stop": span["stop"]}
    if span["grid"] is not None or not span["text"]:
        made["grid"] = span["grid"]
        image = images.get(span["start"])
        if image is not None and left["pictures"] > 0:
            left["pictures"] -= 1
            made["picture"] = _picture(image, thumbnails)
        return made
    text = span["text"]
    most = max(0, min(SPAN, left["text"]))
    left["text"] -= len(text)
    made["text"] = text if len(text) <= most else f"{text[:most]}…"
    if span["learnt"]:
        made["loss"] = 1
    return made


def _picture(image: PackImage, thumbnails: Thumbnails) -> int | None:
    if image.is_video:
        return thumbnails.of_clip(image)
    if image.data is not None:
        return thumbnails.of_bytes(image.data)
    if image.uri is None or image.offset is None or image.size is None:
        return None
    return thumbnails.of_range(image.uri, image.offset, image.size)


def step_costs(manifest: Manifest) -> dict[str, Any] | None:
    """Of every step in the order written: the mean cost of its packs, and that of its slowest over the mean.

    At most 300 points: of longer runs every n-th step. None where the shards are not at hand.
    """
    try:
        costs = pack_costs(manifest)
    except UserError:
        return None
    step = manifest.order["step"]
    whole = len(costs) // step
    if not whole:
        return None
    steps = costs[: whole * step].reshape(whole, step, 2).astype(np.float64)
    every = -(-whole // MOST_POINTS)
    mean = steps.mean(axis=1)[::every]
    slowest = (steps.max(axis=1)[::every] / np.maximum(mean, 1)).round(4)
    return {
        "every": every,
        "packs": step,
        "attention": mean[:, 0].round(1).tolist(),
        "patches": mean[:, 1].round(1).tolist(),
        "slowest_attention": slowest[:, 0].tolist(),
        "slowest_patches": slowest[:, 1].tolist(),
    }
