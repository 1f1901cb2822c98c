"""A recipe with the tokenizer's own chat template, from data to packs, to a trained model that is asked."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tokenizers import Tokenizer

from mindvl_data.exports import export
from mindvl_data.inspect.packs import decoder_of, segments, view
from mindvl_data.manifest import read_manifest
from mindvl_data.manifest.verify import verify
from mindvl_data.media import Access
from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe
from mindvl_data.stream import PackStream
from mindvl_data.tokenise import load_tokeniser
from mindvl_train.answers import asking
from mindvl_train.answers.opened import open_model
from mindvl_train.config.loading import load_config
from mindvl_train.data.batch import BatchLayout, collate
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
    folder.mkdir(exist_ok=True)
    write(folder, template)
    lines = [json.dumps(one if isinstance(one, dict) else {"messages": one}) for one in conversations]
    (folder / "chat.jsonl").write_text("\n".join(lines))
    recipe = {
        "name": "chat",
        "tokenizer": ".",
        "chat_template": "tokenizer",
        "max_bad": 1,
        "sources": {"chat": {"format": "messages", "path": "chat.jsonl", "kind": "chat", **source}},
        "stages": {"sft": {"seq_len": 1024, "budget": {"epochs": 1}, "mixture": {"chat": 1.0}}},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return build(load_recipe(folder / "recipe.yaml"), folder / "built").out / "sft-1024"


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
    stage = {"manifest": "sft-1024/manifest.json", "lr": {"*": 1e-3}, "until": {"packs": 1}, "global_batch": 1}
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


TOOL = {"type": "function", "function": {"name": "weigh", "parameters": {"type": "object"}}}
CALL = {"id": "1", "type": "function", "function": {"name": "weigh", "arguments": {"stone": 1}}}
AGENT = {
    "tools": [TOOL],
    "messages": [
        {"role": "user", "content": "How heavy?"},
        {"role": "assistant", "content": None, "reasoning_content": "I weigh it.", "tool_calls": [CALL], "weight": 0.5},
        {"role": "tool", "content": "2 kg"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "<think>\nYes.\n</think>\n\nSure.", "weight": 2},
        {"role": "user", "content": "Really?"},
        {"role": "assistant", "content": "No.", "weight": 0},
    ],
}
HEAD = "<|im_start|>user\nHow heavy?<|im_end|>\n<|im_start|>assistant\n"
THOUGHT = "<think>\nI weigh it.\n</think>\n\n"
CALLED = '<tool_call>\n{"name": "weigh", "arguments": {"stone": 1}}\n</tool_call><|im_end|>'
GAVE = "\n<|im_start|>user\n<tool_response>\n2 kg\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
EMPTY = "<think>\n\n</think>\n\n"
SURE = "\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n"


def shown(out: Path) -> list[str]:
    """What `show --pack` has of every sample behind the tools, sorted."""
    manifest = read_manifest(out)
    decode, why = decoder_of(manifest, _access(manifest))
    assert not why
    found = []
    for pack in PackStream(manifest):
        for segment in segments(pack, [manifest.tokenizer["special_ids"]["image_pad"]], decode):
            spans = (
                f"«{span['text']}»" + (f"×{span['weight']:g}" if span["weight"] != 1 else "")
                if span["learnt"]
                else span["text"]
                for span in segment["spans"]
            )
            found.append("".join(spans).rpartition("</tools>")[2].partition("<|im_end|>\n")[2])
    return sorted(found, key=len)


def _access(manifest: Any) -> Access:
    return Access(Path(manifest.path).parents[2], tokenizers=frozenset({manifest.tokenizer["name"]}))


def test_tools_thoughts_and_weights_show_just_what_is_learnt(tmp_path: Path) -> None:
    first, second = shown(built(tmp_path, "qwen3", [AGENT], split="turns"))
    assert first == f"{HEAD}«{THOUGHT}{CALLED}»×0.5{GAVE}{EMPTY}«Two.<|im_end|>»\n"
    assert second == f"{HEAD}{CALLED}{GAVE}Two.<|im_end|>{SURE}«<think>\nYes.\n</think>\n\nSure.<|im_end|>»×2\n"


def test_without_splitting_a_template_that_forgets_learns_what_is_left(tmp_path: Path) -> None:
    (only,) = shown(built(tmp_path, "qwen3", [AGENT]))
    learnt = f"{HEAD}«{CALLED}»×0.5{GAVE}«Two.<|im_end|>»{SURE}«Sure.<|im_end|>»×2"
    assert only == f"{learnt}\n<|im_start|>user\nReally?<|im_end|>\n<|im_start|>assistant\n{EMPTY}No.<|im_end|>\n"


def test_thoughts_that_are_dropped_are_not_there(tmp_path: Path) -> None:
    (only,) = shown(built(tmp_path, "qwen3_vl", [AGENT], thinking="drop"))
    assert "Sure.<|im_end|>" in only
    assert "think" not in only


def test_weights_of_turns_are_in_the_packs_the_batch_and_the_exports(tmp_path: Path) -> None:
    out = built(tmp_path, "qwen3", [AGENT, chat("Hi", "Yes")], split="turns")
    manifest = read_manifest(out)
    assert manifest.data["loss_weights"] is True
    assert not any(problems for _, problems in verify(manifest))
    (pack,) = PackStream(out)
    assert pack.loss_weights is not None
    assert sorted({*pack.loss_weights[pack.loss_mask].tolist()}) == [0.5, 1, 2]
    assert (pack.loss_weights[~pack.loss_mask] == 1).all()
    batch = collate([pack], BatchLayout(14, 2, manifest.tokenizer["special_ids"]["image_pad"]))
    assert batch.total_weight == pytest.approx(pack.loss_weights[pack.loss_mask].sum())
    assert np.array_equal(batch.weights.numpy(), pack.loss_weights[batch.predictors.numpy() + 1])
    from rich.console import Console

    console = Console(width=400)
    with console.capture() as captured:
        decode, _ = decoder_of(manifest, _access(manifest))
        console.print(view(pack, [manifest.tokenizer["special_ids"]["image_pad"]], decode))
    assert "×n: its loss weighs n times" in captured.get()
    export(manifest, "webdataset", tmp_path / "packs", whole_packs=True)
    assert list((tmp_path / "packs").glob("*.tar"))


def test_a_set_without_weights_has_no_column_for_them(tmp_path: Path) -> None:
    plain = [chat("Hi", "Yes"), chat("Hi", "No")]
    one = built(tmp_path / "one", "qwen3", plain)
    weighed = [[{**message, "weight": 1} for message in messages] for messages in plain]
    other = built(tmp_path / "two", "qwen3", weighed)
    assert "loss_weights" not in read_manifest(other).data
    for shard in one.glob("*.arrow"):
        assert shard.read_bytes() == (other / shard.name).read_bytes()
