"""What makes an exported folder answer to a chat: tokenizer, chat template and image processor of the data.

A model that was drawn by us has none of them; one that was imported brings the published files, which are made to say
what it was trained with.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mindvl_data.runtime.sandbox import RenderError, render
from mindvl_data.vision import VideoRule
from mindvl_data.vision.video.rule import QWEN2_VIDEO
from mindvl_train.models.vit import VisionConfig
from mindvl_train.weights.processing import write_bounds
from mindvl_train.weights.published.family import PublishedError
from mindvl_train.weights.published.folder import TOKENIZER, read_json
from mindvl_train.weights.published.videos import default_rule, write_video_processor
from mindvl_train.weights.tokenizers import find_tokenizer

TEMPLATE_FILE = "chat_template.jinja"
# What a tokenizer's configuration calls the end of an answer and padding.
NAMES = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
# `{…}` in capitals are filled in from the manifest's template; the rest is Jinja, as transformers renders it.
TEMPLATE = """\
{%- for message in messages -%}
{%- if DEFAULT and loop.first and message.role != "system" -%}
{{ PREFIX.replace("{role}", "system") + DEFAULT + SUFFIX }}
{%- endif -%}
{{ PREFIX.replace("{role}", message.role) }}
{%- if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == "image" -%}
{{ "<|vision_start|><|image_pad|><|vision_end|>" }}
{%- elif part.type == "video" -%}
{{ VIDEO }}
{%- else -%}
{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ SUFFIX }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ PREFIX.replace("{role}", "assistant") }}
{%- endif -%}
"""


def write_processor(tokenizer: Path, data: dict[str, Any], vision: VisionConfig, out: Path) -> None:
    """Writes `tokenizer.json`, its configuration, `chat_template.jinja` and the processors of images and videos.

    Args:
        tokenizer: a `tokenizer.json`, a folder with one, or `qwen`.
        data: `tokenizer`, `chat_template` and `resolution` of the run's manifests.
        vision: the tower whose patches the processor cuts.
        out: the folder that transformers opens.

    Raises:
        PublishedError: the tokenizer is missing, or another than the data's; or the model has not been trained.
    """
    found = find_tokenizer(tokenizer)
    if found is None:
        raise PublishedError(f"--tokenizer {tokenizer}: there is no {TOKENIZER}")
    if "tokenizer" not in data:
        raise PublishedError("--tokenizer: only a trained model knows its data; an imported one brings its tokenizer")
    expected = data["tokenizer"]["sha256"]
    if found.sha256 != expected:
        raise PublishedError(f"--tokenizer {found.shown}: is {found.sha256}, the run's data was built with {expected}")
    (out / TOKENIZER).write_text(found.text, encoding="utf-8", newline="")
    rule = video_rule(data) or default_rule(vision)
    (out / TEMPLATE_FILE).write_text(_template(data["chat_template"], rule))
    _write_tools_template(out, data["chat_template"])
    _write(out / "tokenizer_config.json", _tokenizer_config(data["chat_template"]))
    _write(out / "preprocessor_config.json", _image_processor(data["resolution"], vision))
    write_video_processor(out, rule, vision)


def video_rule(data: dict[str, Any]) -> VideoRule | None:
    """What the data say of clips, if they have any."""
    described = data.get("resolution", {}).get("video")
    return VideoRule.of(described) if described else None


def adapt(folder: Path, data: dict[str, Any], special_ids: dict[str, int], vision: VisionConfig) -> None:
    """Makes an exported folder ask as the model was last trained, and stop where it was taught to.

    Files that say so already keep their bytes: those of the model that a run began from may speak of another template,
    of other bounds or of another end of an answer.

    Args:
        folder: with the small files of a published model.
        data: of the model, see `weights/processing.py`.
        special_ids: by our names.
        vision: its tower.
    """
    written = write_bounds(folder, data["resolution"]["min_pixels"], data["resolution"]["max_pixels"])
    rule = video_rule(data)
    if written and rule:
        write_video_processor(folder, rule, vision)
    _adapt_template(folder, data["chat_template"], rule)
    if not {"im_end", "end_of_text"} <= special_ids.keys():
        return
    end, pad = special_ids["im_end"], special_ids["end_of_text"]
    _update(folder / "config.json", lambda config: _with_ends(config, end, pad, data.get("seq_len", 0)))
    _update(folder / "tokenizer_config.json", lambda config: config | _names(data["chat_template"]))
    generation = folder / "generation_config.json"
    if "vocab_size" in json.dumps(read_json(folder / "config.json")):
        stops = {"eos_token_id": [end, pad], "pad_token_id": pad}
        _write(generation, (read_json(generation) if generation.exists() else {}) | stops)


def _with_ends(config: dict[str, Any], end: int, pad: int, seq_len: int) -> dict[str, Any]:
    """A language model's configuration with the ids of its ends and room for the positions that it was trained on;
    those of a joint one stand in its `text_config` too."""
    if "text_config" in config:
        config = config | {"text_config": _with_ends(config["text_config"], end, pad, seq_len)}
        return config | ({"eos_token_id": end} if "eos_token_id" in config else {})
    if "vocab_size" not in config:
        return config
    longest = max(seq_len, config.get("max_position_embeddings") or 0)
    ends = {"eos_token_id": end, "pad_token_id": pad}
    return config | ends | ({"max_position_embeddings": longest} if longest else {})


def _adapt_template(folder: Path, described: dict[str, Any], rule: VideoRule | None) -> None:
    """The template of the data, unless the folder's makes the same of a conversation."""
    if not described or not any((folder / name).exists() for name in (TOKENIZER, "tokenizer_config.json")):
        return
    ours, found = _template(described, rule or QWEN2_VIDEO), published_template(folder)
    if found is not None and _rendered(found, rule) == _rendered(ours, rule):
        return
    (folder / TEMPLATE_FILE).write_text(ours)
    _write_tools_template(folder, described)
    (folder / "chat_template.json").unlink(missing_ok=True)
    for name in ("tokenizer_config.json", "processor_config.json"):
        _update(folder / name, lambda config: {key: value for key, value in config.items() if key != "chat_template"})


def published_template(folder: Path) -> str | None:
    """The Jinja of a folder's chat template, in whichever file it stands."""
    if (folder / TEMPLATE_FILE).exists():
        return (folder / TEMPLATE_FILE).read_text()
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        path = folder / name
        found = read_json(path).get("chat_template") if path.exists() else None
        if isinstance(found, str):
            return found
    return None


def _rendered(template: str, rule: VideoRule | None) -> list[str] | None:
    """What a template makes of a few conversations, with a video if there is a rule for any; None: it cannot be
    rendered."""
    video = [{"type": "video"}] if rule else []
    image: list[dict[str, str]] = [{"type": "image"}, *video, {"type": "text", "text": "What?"}]
    asked: list[dict[str, Any]] = [{"role": "user", "content": image}]
    chats = [asked, [{"role": "system", "content": "Be brief."}, *asked, {"role": "assistant", "content": "A cat."}]]
    try:
        return [render(template, chat, add_generation_prompt=len(chat) == 1).text for chat in chats]
    except RenderError:
        return None


def _update(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Rewrites a file of JSON, if it is there and the change is one."""
    if path.exists() and (changed := change(found := read_json(path))) != found:
        _write(path, changed)


def _write_tools_template(folder: Path, described: dict[str, Any]) -> None:
    """The template of conversations with tools, where there is another one, as transformers finds it."""
    if "tools_jinja" in described:
        (folder / "additional_chat_templates").mkdir(exist_ok=True)
        (folder / "additional_chat_templates" / "tool_use.jinja").write_text(described["tools_jinja"])


def _names(described: dict[str, Any]) -> dict[str, str]:
    """The tokenizer's special tokens by their use: where answers end, and what a template in Jinja names besides."""
    names = {**NAMES, **described.get("variables", {})}
    return names | ({"eos_token": described["end"]} if described.get("end") else {})


def _template(described: dict[str, Any], rule: VideoRule) -> str:
    if "jinja" in described:
        return str(described["jinja"])
    # Where every pair of frames stands between tokens of its own, the processor writes these.
    video = "<|video_pad|>" if rule.spans else "<|vision_start|><|video_pad|><|vision_end|>"
    values = {"PREFIX": described["prefix"], "SUFFIX": described["suffix"], "DEFAULT": described["default_system"]}
    values["VIDEO"] = video
    return (
        "".join(f"{{%- set {name} = {json.dumps(value)} -%}}\n" for name, value in values.items() if value) + TEMPLATE
    )


def _tokenizer_config(described: dict[str, Any]) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **_names(described),
        "clean_up_tokenization_spaces": False,
    }


def _image_processor(resolution: dict[str, Any], vision: VisionConfig) -> dict[str, Any]:
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        # Both make a chat of one image alike; of videos only the second writes the times.
        "processor_class": "Qwen3VLProcessor" if vision.num_position_embeddings else "Qwen2_5_VLProcessor",
        "min_pixels": resolution["min_pixels"],
        "max_pixels": resolution["max_pixels"],
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.spatial_merge_size,
        "image_mean": list(vision.mean),
        "image_std": list(vision.deviation),
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
