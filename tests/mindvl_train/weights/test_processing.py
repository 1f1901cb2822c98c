"""What a model is asked with: the record, and published files made to say the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from mindvl_train.models.vit import VisionConfig
from mindvl_train.weights.processing import of_published, write_bounds, write_processing
from mindvl_train.weights.published.processor import adapt, published_template, render

TOWER = VisionConfig(depth=1, hidden_size=8, intermediate_size=8, num_heads=1)
IDS = {"im_end": 4084, "end_of_text": 4082}
DATA: dict[str, Any] = {
    "tokenizer": {"sha256": "0" * 64},
    "resolution": {"patch": 14, "merge": 2, "min_pixels": 784, "max_pixels": 200704},
    "chat_template": {
        "prefix": "<|im_start|>{role}\n",
        "suffix": "<|im_end|>\n",
        "default_system": "You are a helpful assistant.",
    },
    "seq_len": 4096,
}
OLD = {"min_pixels": 3136, "max_pixels": 12845056}
NEW = {"image_processor": {"size": {"shortest_edge": 3136, "longest_edge": 12845056}}}
FILES = {
    "of today": {"preprocessor_config.json": OLD},
    "of transformers 5": {"processor_config.json": NEW},
    "both": {"preprocessor_config.json": OLD, "processor_config.json": {"image_processor": OLD, "other": 1}},
}


def _folder(path: Path, files: dict[str, Any]) -> Path:
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        (path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize("files", FILES.values(), ids=FILES)
def test_bounds_are_written_wherever_a_processor_is_kept_and_count_for_more_than_the_record(
    tmp_path: Path, files: dict[str, Any]
) -> None:
    folder = _folder(tmp_path, files)
    write_processing(folder, DATA)
    assert write_bounds(folder, 3136, 50176) is not None
    assert of_published(folder)["resolution"] == DATA["resolution"] | {"min_pixels": 3136, "max_pixels": 50176}
    assert write_bounds(_folder(tmp_path / "none", {"processor_config.json": {}}), 1, 2) is None


def test_an_export_stops_where_the_model_was_taught_to(tmp_path: Path) -> None:
    """A base model, whose answers end with the end of the text, trained on chats."""
    text = {"vocab_size": 4096, "eos_token_id": 4082, "max_position_embeddings": 1024}
    for name, config in (("flat", text), ("nested", {"eos_token_id": 4082, "text_config": text})):
        folder = _folder(
            tmp_path / name,
            {
                "config.json": config,
                "generation_config.json": {"eos_token_id": 4082, "temperature": 0.1},
                "tokenizer_config.json": {"eos_token": "<|endoftext|>", "chat_template": "{{ messages }}"},
                "preprocessor_config.json": OLD,
            },
        )
        adapt(folder, DATA, IDS, TOWER)
        changed = _json(folder / "config.json")
        inner = changed.get("text_config", changed)
        assert (changed["eos_token_id"], inner["eos_token_id"], inner["pad_token_id"]) == (4084, 4084, 4082)
        assert inner["max_position_embeddings"] == 4096
        generation = _json(folder / "generation_config.json")
        assert generation == {"eos_token_id": [4084, 4082], "temperature": 0.1, "pad_token_id": 4082}
        assert _json(folder / "tokenizer_config.json") == {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
        assert _json(folder / "preprocessor_config.json")["max_pixels"] == 200704
        template = published_template(folder)
        assert template is not None
        asked = render(template, [{"role": "user", "content": "Hi"}], add_generation_prompt=True).text
        assert asked.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_a_template_that_says_the_same_keeps_its_bytes(tmp_path: Path) -> None:
    folder = _folder(tmp_path, {"config.json": {"vocab_size": 4096}, "tokenizer_config.json": {}})
    adapt(folder, DATA, IDS, TOWER)
    same = "{# theirs #}" + (published_template(folder) or "")
    (folder / "chat_template.jinja").write_text(same)
    adapt(folder, DATA, IDS, TOWER)
    assert published_template(folder) == same
