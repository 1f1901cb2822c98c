"""What makes an exported folder answer to a chat: tokenizer, chat template and image processor of the data.

For a model that was drawn by us: one that was imported brings the published files.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from mindvl_train.models.vit import VisionConfig
from mindvl_train.weights.published.family import PublishedError
from mindvl_train.weights.published.folder import TOKENIZER, tokenizer_sha256

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
    """Writes `tokenizer.json`, its configuration, `chat_template.jinja` and `preprocessor_config.json`.

    Args:
        tokenizer: a `tokenizer.json`, or a folder with one.
        data: `tokenizer`, `chat_template` and `resolution` of the run's manifests.
        vision: the tower whose patches the processor cuts.
        out: the folder that transformers opens.

    Raises:
        PublishedError: the tokenizer is missing, or another than the data's; or the model has not been trained.
    """
    path = tokenizer / TOKENIZER if tokenizer.is_dir() else tokenizer
    if not path.is_file():
        raise PublishedError(f"--tokenizer {tokenizer}: there is no {TOKENIZER}")
    if not data:
        raise PublishedError("--tokenizer: only a run knows its data; an imported model brings its own tokenizer")
    found, expected = tokenizer_sha256(path), data["tokenizer"]["sha256"]
    if found != expected:
        raise PublishedError(f"--tokenizer {path}: is {found}, the run's data was built with {expected}")
    shutil.copyfile(path, out / TOKENIZER)
    (out / "chat_template.jinja").write_text(_template(data["chat_template"]))
    _write(out / "tokenizer_config.json", _tokenizer_config())
    _write(out / "preprocessor_config.json", _image_processor(data["resolution"], vision))


def _template(described: dict[str, Any]) -> str:
    values = {"PREFIX": described["prefix"], "SUFFIX": described["suffix"], "DEFAULT": described["default_system"]}
    return (
        "".join(f"{{%- set {name} = {json.dumps(value)} -%}}\n" for name, value in values.items() if value) + TEMPLATE
    )


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
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
