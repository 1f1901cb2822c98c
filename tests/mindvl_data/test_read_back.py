"""What exports write is read back: the same tokens and masks; every format gives the same turns."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from mindvl_data.exports import export
from mindvl_data.inspect.peek import peek
from mindvl_data.manifest import Manifest, packs_of, read_manifest
from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe
from mindvl_data.tokenise import load_tokeniser
from tests.conftest import QUICKSTART
from tests.mindvl_data.packs import png
from tests.mindvl_data.sources.scanned import Scanned, read
from tests.mindvl_data.tokenise.published import write

FILES = {"webdataset": "*.tar", "energon": "*.tar", "mds": "*.mds", "datasets": "data/*.parquet"}


def built(folder: Path, name: str, how: Mapping[str, Any] = MappingProxyType({}), **source: Any) -> Manifest:
    how = {"tokenizer": str(QUICKSTART / "tokenizer.json"), "seq_len": 256, **how}
    seq_len = how.pop("seq_len")
    raw = {
        "name": "t",
        **how,
        "sources": {"d": {"kind": "instruction", **source}},
        "stages": {"sft": {"seq_len": seq_len, "budget": {"epochs": 1}, "mixture": {"d": 1}}},
    }
    (folder / f"{name}.yaml").write_text(json.dumps(raw))
    build(load_recipe(folder / f"{name}.yaml"), folder / f"out-{name}")
    return read_manifest(folder / f"out-{name}" / f"sft-{seq_len}")


def segments(manifest: Manifest) -> list[tuple[list[int], list[bool]]]:
    found = []
    for pack in packs_of(manifest):
        for start, stop in zip(pack.cu_seqlens, pack.cu_seqlens[1 : len(pack.sample_ids) + 1], strict=False):
            found.append((pack.tokens[start:stop].tolist(), pack.loss_mask[start:stop].tolist()))
    return sorted(found)


def test_every_export_is_read_back_with_the_same_tokens_and_masks(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    turns = [("human", "<image> what?"), ("gpt", "not this"), ("human", "and?"), ("gpt", "this")]
    rows = [
        {"image": f"{i}.png", "conversations": [{"from": who, "value": f"{text} {i}"} for who, text in turns]}
        for i in range(3)
    ]
    for row in rows:
        row["conversations"][1]["loss"] = False  # type: ignore[index]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    manifest = built(tmp_path, "first", format="llava", path="d.json")
    for name, files in FILES.items():
        export(manifest, name, tmp_path / name)
        look = peek(next((tmp_path / name).glob(files)))
        assert (look.format, look.render, len(look.samples)) == ("messages", "chat", 3)
        assert segments(built(tmp_path, name, format=look.format, path=f"{name}/{files}")) == segments(manifest)


AGENT = {
    "tools": [{"type": "function", "function": {"name": "weigh", "parameters": {"type": "object", "default": None}}}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "How "}, {"type": "text", "text": "heavy?"}]},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "I weigh it.",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "weigh", "arguments": '{"stone": 1}'}}],
            "weight": 0.5,
        },
        {"role": "tool", "content": "2 kg", "tool_call_id": "1", "name": "weigh"},
        {"role": "assistant", "content": "Two.", "weight": 2},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes.", "weight": 0},
    ],
}


def weighed(manifest: Manifest) -> list[tuple[list[int], list[float]]]:
    """The tokens of every sample, and what the loss of each weighs."""
    found = []
    for pack in packs_of(manifest):
        weights = pack.loss_mask * (np.ones(pack.seq_len) if pack.loss_weights is None else pack.loss_weights)
        for start, stop in zip(pack.cu_seqlens, pack.cu_seqlens[1 : len(pack.sample_ids) + 1], strict=False):
            found.append((pack.tokens[start:stop].tolist(), weights[start:stop].tolist()))
    return sorted(found)


@pytest.mark.parametrize("template", ["qwen3", "qwen3_vl"])
def test_tools_thoughts_and_weights_are_read_back_from_every_export(tmp_path: Path, template: str) -> None:
    write(tmp_path, template)
    plain = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, [plain, AGENT, plain])))
    how = {"tokenizer": ".", "chat_template": "tokenizer", "seq_len": 1024}
    manifest = built(tmp_path, "first", how, format="messages", path="d.jsonl")
    assert {0.0, 0.5, 1.0, 2.0} == {weight for _, weights in weighed(manifest) for weight in weights}
    for name, files in FILES.items():
        export(manifest, name, tmp_path / name)
        assert peek(next((tmp_path / name).glob(files))).format == "messages"
        again = built(tmp_path, name, how, format="messages", path=f"{name}/{files}")
        assert weighed(again) == weighed(manifest)


@pytest.mark.parametrize("render", ["caption", "plain"])
def test_captions_and_plain_texts_are_read_back_from_every_export(tmp_path: Path, render: str) -> None:
    role = {"caption": "caption", "plain": "text"}[render]
    (tmp_path / "1.png").write_bytes(png(1))
    image = {"type": "image", "image": "1.png"}
    content = [image, {"type": "text", "text": "A red car."}, {"type": "text", "text": " <image> is text."}]
    rows = [{"messages": [{"role": role, "content": each}]} for each in (content, "No picture.")]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    manifest = built(tmp_path, "first", format="messages", path="d.jsonl", render=render)
    for name, files in FILES.items():
        export(manifest, name, tmp_path / name)
        look = peek(next((tmp_path / name).glob(files)))
        assert (look.format, look.render) == ("messages", render)
        again = built(tmp_path, name, format="messages", path=f"{name}/{files}", render=render)
        assert segments(again) == segments(manifest)


def turns_of(found: Scanned) -> list[list[tuple[int, str, bool | None, str | None]]]:
    return [[(part["turn"], part["role"], part["loss"], part["text"]) for part in line["parts"]] for line in found.kept]


def test_empty_turns_are_turns_in_every_format(tmp_path: Path) -> None:
    texts = ["", "hello", "", " and ", ""]
    roles = ["system", "user", "assistant", "user", "assistant"]
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    conversations = [{"from": names[role], "value": text} for role, text in zip(roles, texts, strict=True)]
    messages = [{"role": role, "content": text or []} for role, text in zip(roles, texts, strict=True)]
    (tmp_path / "s.jsonl").write_text(json.dumps({"conversations": conversations}))
    (tmp_path / "m.jsonl").write_text(json.dumps({"messages": messages}))
    expected = [[(i, role, None, text) for i, (role, text) in enumerate(zip(roles, texts, strict=True))]]
    assert turns_of(read(tmp_path / "s.jsonl", "sharegpt")) == expected
    assert turns_of(read(tmp_path / "m.jsonl", "messages")) == expected


@pytest.mark.parametrize(("field", "value"), [("weight", 0), ("weight", 0.0), ("loss", False), ("train", False)])
def test_a_turn_says_under_several_names_that_it_is_not_trained_on(tmp_path: Path, field: str, value: object) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", field: value}]
    (tmp_path / "m.jsonl").write_text(json.dumps({"messages": messages}))
    assert [part[2] for part in turns_of(read(tmp_path / "m.jsonl", "messages"))[0]] == [None, False]
    messages[1][field] = -0.5
    (tmp_path / "m.jsonl").write_text(json.dumps({"messages": messages}))
    assert read(tmp_path / "m.jsonl", "messages").drops["0"][0] == "malformed_record"


def test_added_tokens_that_are_not_special_are_words_and_special_ones_are_text(tmp_path: Path) -> None:
    spec = json.loads((QUICKSTART / "tokenizer.json").read_text())
    number = 1 + max(token["id"] for token in spec["added_tokens"])
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    spec["added_tokens"].append({"id": number, "content": "<think>", **flags})
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    tokeniser = load_tokeniser("tokenizer.json", tmp_path)
    ids = tokeniser.text_only.encode("a <think><|im_end|>", add_special_tokens=False).ids
    assert ids.count(number) == 1
    assert tokeniser.special_ids["im_end"] not in ids
    assert tokeniser.decode(ids) == "a <think><|im_end|>"
