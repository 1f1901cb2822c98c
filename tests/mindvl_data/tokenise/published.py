"""Published chat templates with a small tokenizer of their family's added tokens, ours beside transformers'."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerFast

from mindvl_data.tokenise import JinjaTemplate, Tokeniser, load_template, load_tokeniser
from tests.conftest import QUICKSTART

TEMPLATES = Path(__file__).parent / "templates"
QWEN_WORDS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")


class Family(NamedTuple):
    """Which tokens a tokenizer adds: special ones, words that a text may say, and those with a use."""

    special: Sequence[str] = ()
    words: Sequence[str] = ()
    uses: Mapping[str, str] = MappingProxyType({})


QWEN = Family((), QWEN_WORDS, {"eos_token": "<|im_end|>"})
LLAMA = Family(
    ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    (),
    {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
)
DEEPSEEK = Family(
    ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    (
        *("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        *("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>", "<｜tool▁outputs▁begin｜>"),
        *("<｜tool▁outputs▁end｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"),
    ),
    {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"},
)
MISTRAL = Family(
    (
        *("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
        *("[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    ),
    (),
    {"bos_token": "<s>", "eos_token": "</s>"},
)
GEMMA = Family(
    ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>"),
    (),
    {"bos_token": "<bos>", "eos_token": "<eos>"},
)
FAMILIES = {
    "qwen2_5_vl": QWEN,
    "qwen3": QWEN,
    "qwen3_training": QWEN,
    "qwen3_vl": QWEN,
    "qwen3_5": QWEN,
    "llama3": LLAMA,
    "llama3_training": LLAMA,
    "gemma3": GEMMA,
    "internvl3_5": Family(("<IMG_CONTEXT>",), QWEN_WORDS, {"eos_token": "<|im_end|>"}),
    "deepseekv3": DEEPSEEK,
    "deepseekv3_training": DEEPSEEK,
    "mistral_v1": MISTRAL,
    "mistral_v3_tekken": MISTRAL,
}


class Published(NamedTuple):
    """A template as a recipe loads it, its tokenizer, and transformers' of the same folder."""

    template: JinjaTemplate
    tokeniser: Tokeniser
    oracle: PreTrainedTokenizerFast


def write(folder: Path, name: str) -> Path:
    """A published tokenizer's small files: the quickstart's vocabulary, its family's tokens, the template."""
    family = FAMILIES[name]
    spec: dict[str, Any] = json.loads((QUICKSTART / "tokenizer.json").read_text())
    size = 1 + max(token["id"] for token in spec["added_tokens"])
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    for number, token in enumerate((*family.special, *family.words)):
        special = token in family.special
        spec["added_tokens"].append({"id": size + number, "content": token, "special": special, **flags})
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(family.uses)))
    (folder / "chat_template.jinja").write_bytes((TEMPLATES / f"{name}.jinja").read_bytes())
    return folder


def load(folder: Path, name: str) -> Published:
    write(folder, name)
    tokeniser = load_tokeniser(str(folder), folder)
    template = load_template("tokenizer", str(folder), folder, tokeniser)
    assert isinstance(template, JinjaTemplate)
    oracle = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **FAMILIES[name].uses)
    oracle.chat_template = (folder / "chat_template.jinja").read_text()
    return Published(template, tokeniser, oracle)


@cache
def published(name: str) -> Published:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return load(Path(folder), name)
