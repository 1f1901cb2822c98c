"""A rule for clips as transformers' video processors state it, and what a published folder says of clips."""

import json
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

from mindvl_data.vision import VideoRule
from mindvl_data.vision.video.rule import QWEN2_VIDEO, QWEN3_VIDEO
from mindvl_train.models.vit import VisionConfig
from mindvl_train.weights.published.folder import read_json

FILE = "video_preprocessor_config.json"
# Where transformers 5 keeps all processors of a folder, and below which key that of videos; it counts before the file.
WHOLE, KEY = "processor_config.json", "video_processor"
CLASSES = {"qwen2-vl": "Qwen2VLVideoProcessor", "qwen3-vl": "Qwen3VLVideoProcessor"}
# The share of `max_video_tokens` that the pixels of a whole clip may be (`Qwen2VLVideoProcessor.resize`).
SHARE = 0.9


def default_rule(vision: VisionConfig) -> VideoRule:
    """What the tower's family does to a clip where nobody says otherwise."""
    return QWEN2_VIDEO if vision.num_position_embeddings is None else QWEN3_VIDEO


def write_video_processor(folder: Path, rule: VideoRule, vision: VisionConfig) -> None:
    """Makes a folder's processor look at the frames and sizes of a rule; what it says besides stays.

    Args:
        folder: that transformers opens.
        rule: of the data.
        vision: the tower whose patches the processor cuts.
    """
    stated = _stated(rule, vision)
    whole = read_json(folder / WHOLE) if (folder / WHOLE).exists() else {}
    if whole.get(KEY):
        _write(folder / WHOLE, whole | {KEY: whole[KEY] | stated})
        return
    found = read_json(folder / FILE) if (folder / FILE).exists() else {}
    _write(folder / FILE, found | stated)


def _stated(rule: VideoRule, vision: VisionConfig) -> dict[str, Any]:
    area = (vision.patch_size * vision.spatial_merge_size) ** 2
    capped = rule.frame_pixels if rule.spans else rule.total_pixels
    tokens = {} if capped is None else {"max_video_tokens": ceil(capped / area / (1 if rule.spans else SHARE))}
    return {
        "video_processor_type": CLASSES[rule.family],
        "do_sample_frames": True,
        # transformers wants one of the two.
        "fps": rule.fps if rule.frames is None else None,
        "num_frames": rule.frames,
        "min_frames": rule.min_frames,
        "max_frames": rule.max_frames,
        "size": {"shortest_edge": rule.min_pixels, "longest_edge": rule.max_pixels},
        "cap_pixels_per_frame": capped is not None,
        **tokens,
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.spatial_merge_size,
        "image_mean": list(vision.mean),
        "image_std": list(vision.deviation),
    }


def published_rule(folders: list[Path], vision: VisionConfig) -> VideoRule | None:
    """What the first video processor of these folders says; None where none has one."""
    for folder in folders:
        whole = read_json(folder / WHOLE).get(KEY) if (folder / WHOLE).exists() else None
        found = whole or (read_json(folder / FILE) if (folder / FILE).exists() else None)
        if isinstance(found, dict):
            return _rule(found, vision)
    return None


def _rule(stated: dict[str, Any], vision: VisionConfig) -> VideoRule:
    """The inverse of `_stated`; what is not stated is the family's."""
    default = default_rule(vision)
    size, area = stated.get("size") or {}, (vision.patch_size * vision.spatial_merge_size) ** 2
    rule = replace(
        default,
        fps=stated.get("fps") or default.fps,
        frames=stated.get("num_frames"),
        min_frames=stated.get("min_frames") or default.min_frames,
        max_frames=stated.get("max_frames") or default.max_frames,
        min_pixels=size.get("shortest_edge") or stated.get("min_pixels") or default.min_pixels,
        max_pixels=size.get("longest_edge") or stated.get("max_pixels") or default.max_pixels,
    )
    tokens = stated.get("max_video_tokens")
    match stated.get("cap_pixels_per_frame"), rule.spans:
        case False, _:
            return replace(rule, total_pixels=None, frame_pixels=None)
        case True, True:
            return replace(rule, frame_pixels=(tokens or 768) * area)
        case True, False if tokens:
            return replace(rule, total_pixels=int(tokens * area * SHARE))
    return rule


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
