"""A recipe with the tokenizer's own chat template, from data to packs, to a trained model that is asked."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tokenizers import Tokenizer

from mindvl_data.manifest import read_manifest
from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe
from mindvl_data.stream import PackStream
from mindvl_data.tokenise import load_tokeniser
from mindvl_train.answers import asking
from mindvl_train.answers.opened import open_model
from mindvl_train.config.loading import load_config
from mindvl_train.loop.run import train
from mindvl_train.weights.published.exporting import export_model
from tests.mindvl_data.tokenise.published import write

VISION = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2}
# The shape of Qwen2.5-VL, so that it is exported whole.
DECODER: dict[str, Any] = {
    **{"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"num_key_value_heads": 1, "head_dim": 12, "qkv_bias": True, "mrope_section": [2, 2, 2]},
}
QUESTION = "What is it?"


def built(folder: Path, template: str, conversations: list[Any], **source: Any) -> Path:
    """A set of these conversations, of one source, in a published template."""
    write(folder, template)
    lines = [json.dumps(one if isinstance(one, dict) else {"messages": one}) for one in conversations]
    (folder / "chat.jsonl").write_text("\n".join(lines))
    recipe = {
        "name": "chat",
        "tokenizer": ".",
        "chat_template": "tokenizer",
        "max_bad": 1,
        "sources": {"chat": {"format": "messages", "path": "chat.jsonl", "kind": "chat", **source}},
        "stages": {"sft": {"seq_len": 256, "budget": {"epochs": 1}, "mixture": {"chat": 1.0}}},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return build(load_recipe(folder / "recipe.yaml"), folder / "built").out / "sft-256"


def texts(out: Path) -> list[str]:
    """Every sample's text, with what is learnt between brackets."""
    tokeniser = load_tokeniser("..", out.parent)
    found = []
    for pack in PackStream(out):
        for start, stop in zip(pack.cu_seqlens[:-1].tolist(), pack.cu_seqlens[1:].tolist(), strict=True):
            if stop <= pack.num_tokens:
                pieces = zip(pack.tokens[start:stop].tolist(), pack.loss_mask[start:stop].tolist(), strict=True)
                text = "".join(f"⟦{tokeniser.decode([i])}⟧" if loss else tokeniser.decode([i]) for i, loss in pieces)
                found.append(text.replace("⟧⟦", ""))
    return sorted(found)


def chat(*contents: str, **last: Any) -> list[dict[str, Any]]:
    said = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(contents)]
    return [*said[:-1], said[-1] | last]


def test_what_a_template_refuses_is_dropped_with_its_words_and_the_rest_is_built(tmp_path: Path) -> None:
    out = built(tmp_path, "gemma3", [chat("Hi", "Yes"), [{"role": "assistant", "content": "No"}]])
    assert texts(out) == ["<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n⟦Yes<end_of_turn>⟧\n"]
    counted = next(line for line in read_manifest(out).data["funnel"] if line["step"] == "count")
    assert counted["reasons"] == {"chat_template": 1}


@pytest.mark.slow
@pytest.mark.parametrize("template", ["llama3", "qwen3"])
def test_a_model_is_asked_and_exported_with_the_template_of_its_data(tmp_path: Path, template: str) -> None:
    out = built(tmp_path, template, [chat(QUESTION, "A stone.")])
    manifest = read_manifest(out)
    tokeniser = load_tokeniser(".", tmp_path)
    end = {"llama3": "<|eot_id|>", "qwen3": "<|im_end|>"}[template]
    assert manifest.data["chat_template"]["end"] == end
    assert manifest.tokenizer["special_ids"]["im_end"] == tokeniser.added[end]
    stage = {"manifest": "sft-256/manifest.json", "lr": {"*": 1e-3}, "until": {"packs": 1}, "global_batch": 1}
    sizes = {"vision": VISION, "decoder": DECODER | {"vocab_size": tokeniser.vocab_size}}
    model = {"name": "vlm", "config": sizes}
    config = {"name": "chat", "data": str(out.parent), "model": model, "stages": {"sft": stage}}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    train(load_config(tmp_path / "train.yaml"), "train.yaml", tmp_path / "run")
    run = open_model(tmp_path / "run")
    read = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    (pack,) = PackStream(out)
    prompt = asking._prompt(run, read, QUESTION).tokens.tolist()
    assert prompt == pack.tokens[: len(prompt)].tolist()
    assert not pack.loss_mask[: len(prompt)].any()
    export_model(tmp_path / "run", tmp_path / "exported", tokenizer=tmp_path)
    assert (tmp_path / "exported" / "chat_template.jinja").read_text() == (tmp_path / "chat_template.jinja").read_text()
    named = json.loads((tmp_path / "exported" / "tokenizer_config.json").read_text())
    assert named["eos_token"] == end
